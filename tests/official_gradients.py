"""Writes tests/golden/hooks_off/*.npz: exact gradients of the official losses, and distillation.

    python tests/official_gradients.py CHECKOUT GOLDEN_DIR [OUT_DIR]

Runs in an environment with torch, on a checkout of k2-fsa/ZipVoice. The official Balancer and
Whiten modules change gradients at random even in eval mode (they ask whether the input needs a
gradient, not whether the module trains), so `models/*.grads.npz` of the golden folder are not
the gradients of the losses beside them. Here the same losses are differentiated with those
hooks never acting and with the exact derivative of SwooshR in place of its 8-bit one.

The losses of both stages of distillation, which the golden folder lacks, are those of
train_zipvoice_distill.py with the golden models as student and teacher, given times, and gradients
of the decoder alone, which is all that it trains.
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
    _distill(torch, golden, out)
    return 0


# Where a step begins, where the teacher's first step ends, where both end. Guidance differs
# beyond 0.5, which the first stage's teacher crosses here.
TIMES = {"first": (0.35, 0.55, 0.7), "second": (0.2, 0.3, 0.55)}


def _distill(torch, golden, out):
    from zipvoice.models.zipvoice import ZipVoice
    from zipvoice.models.zipvoice_distill import ZipVoiceDistill

    def load(model_class, kind):
        values = json.loads((golden / f"models/{kind}.config.json").read_text("utf-8"))
        values = {key: values[key] for key in ("model", "vocab_size", "pad_id")}
        model = model_class(**values.pop("model"), **values).eval()
        state = np.load(golden / f"models/{kind}.params.npz")
        model.load_state_dict({name: torch.tensor(state[name]) for name in state.files})
        return model

    student = load(ZipVoiceDistill, "zipvoice_distill")
    for name, p in student.named_parameters():
        p.requires_grad = "fm_decoder" in name
    io = np.load(golden / "models/zipvoice_distill.io.npz")
    for stage, times in TIMES.items():
        teacher = load(ZipVoice, "zipvoice") if stage == "first" else student
        sums = [0.0, 0.0]
        count = 0
        for b, length in enumerate(io["features_lens"].tolist()):
            features = torch.tensor(io["features"][b : b + 1, :length])
            noise = torch.tensor(io["noise"][b : b + 1, :length])
            start, middle, end = times
            x = features * start + noise * (1 - start)
            mask = torch.tensor(io["speech_condition_mask"][b : b + 1, :length])

            def step(model, begun, begin, end, b=b, length=length, features=features, mask=mask):
                return model.sample_intermediate(
                    tokens=[io["tokens"][b, : io["tokens_lens"][b]].tolist()],
                    features=features,
                    features_lens=torch.tensor([length]),
                    noise=begun,
                    speech_condition_mask=mask,
                    t_start=begin,
                    t_end=end,
                    num_step=1,
                    guidance_scale=torch.tensor(io["guidance_scale"][b : b + 1])[:, None, None],
                )[0]

            with torch.no_grad():
                target = step(teacher, step(teacher, x, start, middle), middle, end)
            target = (target - x) / (end - start)
            predicted = (step(student, x, start, end) - x) / (end - start)
            sums[0] = sums[0] + ((predicted - target)[mask] ** 2).sum()
            sums[1] = sums[1] + ((predicted - (features - noise))[mask] ** 2).sum()
            count += int(mask.sum()) * features.shape[-1]
        student.zero_grad(set_to_none=True)
        loss, reference = (total / count for total in sums)
        loss.backward()
        grads = {n: p.grad.numpy() for n, p in student.named_parameters() if p.grad is not None}
        np.savez(
            out / f"zipvoice_distill.{stage}.npz",
            times=np.float32(times),
            loss=loss.detach().numpy(),
            reference=reference.detach().numpy(),
            **grads,
        )
        print(f"zipvoice_distill.{stage}: loss {float(loss):.7g}, {len(grads)} gradients")


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
