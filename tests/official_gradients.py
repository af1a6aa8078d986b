"""Writes tests/golden/hooks_off/*.npz: exact gradients of the official losses.

    python tests/official_gradients.py CHECKOUT GOLDEN_DIR [OUT_DIR]

Runs in an environment with torch, on a checkout of k2-fsa/ZipVoice. The official Balancer and
Whiten modules change gradients at random even in eval mode (they ask whether the input needs a
gradient, not whether the module trains), so `models/*.grads.npz` of the golden folder are not
the gradients of the losses beside them. Here the same losses are differentiated with those
hooks never acting and with the exact derivative of SwooshR in place of its 8-bit one.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main() -> int:
    """Computes and writes the files."""
    checkout, golden = Path(sys.argv[1]), Path(sys.argv[2])
    out = Path(sys.argv[3]) if len(sys.argv) > 3 else golden / "hooks_off"
    sys.path.insert(0, str(checkout))
    import torch
    from zipvoice.models.modules import scaling
    from zipvoice.models.zipvoice import ZipVoice
    from zipvoice.models.zipvoice_dialog import ZipVoiceDialog, ZipVoiceDialogStereo

    scaling.random.random = lambda: 2.0  # no draw is ever below a probability
    zero = torch.tensor(0.0)
    scaling.SwooshR.forward = lambda self, x: (
        torch.logaddexp(zero, x - 1.0) - 0.08 * x - 0.313261687
    )
    classes = {
        "zipvoice": ZipVoice,
        "zipvoice_dialog": ZipVoiceDialog,
        "zipvoice_dialog_stereo": ZipVoiceDialogStereo,
    }
    out.mkdir(parents=True, exist_ok=True)
    for kind, model_class in classes.items():
        values = json.loads((golden / f"models/{kind}.config.json").read_text("utf-8"))
        if kind == "zipvoice":
            values = {key: values[key] for key in ("model", "vocab_size", "pad_id")}
        model = model_class(**values.pop("model"), **values).eval()
        state = np.load(golden / f"models/{kind}.params.npz")
        model.load_state_dict({name: torch.tensor(state[name]) for name in state.files})
        io = np.load(golden / f"models/{kind}.io.npz")
        feat = model.feat_dim
        wanted = [("grads", io["features"].shape[-1], "loss")]
        if kind.endswith("stereo"):
            wanted.append(("grads_one_channel", feat, "loss_one_channel"))
        for name, dim, recorded in wanted:
            model.zero_grad(set_to_none=True)
            loss = _loss(torch, model, io, dim, exclusive=dim == 2 * feat)
            loss.backward()
            grads = {
                key: p.grad.numpy() for key, p in model.named_parameters() if p.grad is not None
            }
            np.savez(out / f"{kind}.{name}.npz", **grads)
            print(f"{kind}.{name}: loss {float(loss):.7g}, recorded {float(io[recorded]):.7g}")
    return 0


def _loss(torch, model, io, dim, exclusive):
    """The loss as the golden README defines it: items alone, a mean over all of them."""
    squares, count, penalties, frames = 0.0, 0, 0.0, 0
    for b, length in enumerate(io["features_lens"].tolist()):
        features = torch.tensor(io["features"][b : b + 1, :length, :dim])
        noise = torch.tensor(io["noise"][b : b + 1, :length, :dim])
        t = torch.tensor(io["t"][b : b + 1])
        mask = torch.tensor(io["speech_condition_mask"][b : b + 1, :length])
        tokens = [io["tokens"][b, : io["tokens_lens"][b]].tolist()]
        text, padding = model.forward_text_train(tokens, torch.tensor([length]))
        xt = features * t + noise * (1 - t)
        velocity = model.forward_fm_decoder(
            t=t,
            xt=xt,
            text_condition=text,
            speech_condition=torch.where(mask.unsqueeze(-1), 0, features),
            padding_mask=padding,
        )
        error = ((velocity - (features - noise)) ** 2)[mask]
        squares, count = squares + error.sum(), count + error.numel()
        if exclusive:
            target, feat = xt + velocity * (1 - t), model.feat_dim
            penalty = model.energy_based_loss(target[..., :feat], target[..., feat:], features)
            penalties, frames = penalties + penalty[mask].sum(), frames + int(mask.sum())
    return squares / count + (penalties / frames if exclusive else 0.0)


if __name__ == "__main__":
    sys.exit(main())
