"""Writes tests/golden/hooks_off/training.npz: the official training without its hooks.

    python tests/official_training.py CHECKOUT GOLDEN_DIR [--out DIR] [--random-hooks SEED]

Runs in an environment with torch, on a checkout of k2-fsa/ZipVoice, on the data, noise, times
and mask of training.npz. The official Balancer and Whiten change gradients at random even in
eval mode, and they did while training.npz was recorded: `--random-hooks 3` writes nothing and
shows that the official code gives the recorded numbers with both random generators seeded 3.
Otherwise those hooks never act, and SwooshR has its exact derivative in place of the 8-bit one.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np

RECORDED = (1, 10, 130)


def main() -> int:
    """Trains, tells how far it is from the recorded run, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--out", type=Path, help="default: GOLDEN_DIR/hooks_off")
    parser.add_argument("--random-hooks", type=int, metavar="SEED")
    args = parser.parse_args()
    sys.path.insert(0, str(args.checkout))
    d = np.load(args.golden / "training.npz")
    result = train(d, args.random_hooks)
    for name in sorted(result):
        if name == "loss" or name.endswith(".embed.weight"):
            ours, recorded = result[name].astype(np.float64), d[name].astype(np.float64)
            error = np.linalg.norm(ours - recorded) / np.linalg.norm(recorded)
            print(f"{name}: off the recorded one by {error:.2e}")
    if args.random_hooks is None:
        out = args.out or args.golden / "hooks_off"
        out.mkdir(parents=True, exist_ok=True)
        np.savez(out / "training.npz", **result)
    return 0


def train(d, seed):
    """Loss of every step, and parameters after some, by the names of training.npz."""
    import torch
    from zipvoice.models.modules import scaling
    from zipvoice.models.zipvoice_dialog import ZipVoiceDialog
    from zipvoice.utils.optim import ScaledAdam

    torch.set_num_threads(1)
    if seed is None:
        scaling.random.random = lambda: 2.0  # no draw is ever below a probability
        zero = torch.tensor(0.0)
        scaling.SwooshR.forward = lambda self, x: (
            torch.logaddexp(zero, x - 1.0) - 0.08 * x - 0.313261687
        )
    else:
        random.seed(seed)
        torch.manual_seed(seed)  # before the model is built, which draws from it
    values = json.loads(str(d["config"]))
    model = ZipVoiceDialog(**values.pop("model"), **values).eval()
    init = {name[5:]: torch.tensor(d[name]) for name in d.files if name.startswith("init.")}
    model.load_state_dict(init)
    optimizer = ScaledAdam(model.named_parameters(), lr=float(d["lr"]), clipping_scale=2.0)
    features, mask = torch.tensor(d["features"]), torch.tensor(d["speech_condition_mask"])
    lens = torch.full((len(features),), features.shape[1])
    losses, result = [], {}
    for step, (noise, t) in enumerate(
        zip(torch.tensor(d["noise"]), torch.tensor(d["t"]), strict=True), start=1
    ):
        text, padding = model.forward_text_train(d["tokens"].tolist(), lens)
        velocity = model.forward_fm_decoder(
            t=t,
            xt=features * t + noise * (1 - t),
            text_condition=text,
            speech_condition=torch.where(mask.unsqueeze(-1), 0, features),
            padding_mask=padding,
        )
        loss = ((velocity - (features - noise)) ** 2)[mask].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step in RECORDED:
            state = model.state_dict()
            result |= {f"step{step}.{name}": p.numpy().copy() for name, p in state.items()}
    return {**result, "loss": np.array(losses, np.float32)}


if __name__ == "__main__":
    sys.exit(main())
