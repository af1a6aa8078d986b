"""Writes tests/golden/hifigan.npz: what PyTorch gives for a small HiFi-GAN generator.

    python tools/make_golden_hifigan.py

Needs torch (2.13.0 was used) and numpy. The generator is written down here by torch's own
convolutions after the paper and the published config; weights are random, with weight
normalisation. With --weights and --config it prints the wave of a real generator for --mel (.npy)
into --to (.npy) instead, to compare ours with.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv1d, conv_transpose1d, leaky_relu

SMALL = {
    "resblock": "1", "upsample_rates": [8, 8, 4], "upsample_kernel_sizes": [16, 18, 8],
    "upsample_initial_channel": 16, "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 3], [1, 2, 5]], "num_mels": 80, "n_fft": 1024,
    "hop_size": 256, "win_size": 1024, "sampling_rate": 22050, "fmin": 0, "fmax": 8000,
    "segment_size": 8192,
}  # fmt: skip
State = dict[str, torch.Tensor]


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Weights' shapes by official name, as PyTorch's layers have them."""
    channels, count = config["upsample_initial_channel"], len(config["resblock_kernel_sizes"])
    found = {"conv_pre": (channels, config["num_mels"], 7)}
    for i, size in enumerate(config["upsample_kernel_sizes"]):
        found[f"ups.{i}"] = (channels, channels // 2, size)
        channels //= 2
        for j, width in enumerate(config["resblock_kernel_sizes"]):
            for k in range(len(config["resblock_dilation_sizes"][j])):
                for part in ("convs1", "convs2"):
                    name = f"resblocks.{i * count + j}.{part}.{k}"
                    found[name] = (channels, channels, width)
    return {**found, "conv_post": (1, channels, 7)}


def random_state(config: dict[str, Any], seed: int) -> State:
    """Random weights, of a scale that keeps signals alive."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes(config).items():
        outputs = shape[1] if name.startswith("ups.") else shape[0]
        state[f"{name}.weight_v"] = rng.normal(size=shape)
        state[f"{name}.weight_g"] = rng.uniform(0.5, 1.5, (shape[0], 1, 1))
        state[f"{name}.bias"] = 0.1 * rng.normal(size=outputs)
    return {k: torch.from_numpy(v.astype(np.float32)) for k, v in state.items()}


def generator(state: State, config: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """Waves (batch, samples) of mels (batch, mel, frames)."""

    def weight(name: str) -> torch.Tensor:
        v = state[f"{name}.weight_v"]
        return torch._weight_norm(v, state[f"{name}.weight_g"], 0)

    def conv(name: str, x: torch.Tensor, dilation: int = 1) -> torch.Tensor:
        w = weight(name)
        pad = dilation * (w.shape[2] // 2)
        return conv1d(x, w, state[f"{name}.bias"], padding=pad, dilation=dilation)

    def block(i: int, j: int, x: torch.Tensor) -> torch.Tensor:
        for k, dilation in enumerate(config["resblock_dilation_sizes"][j]):
            y = conv(f"resblocks.{i}.convs1.{k}", leaky_relu(x, 0.1), dilation)
            x = x + conv(f"resblocks.{i}.convs2.{k}", leaky_relu(y, 0.1))
        return x

    count = len(config["resblock_kernel_sizes"])
    x = conv("conv_pre", x)
    for i, rate in enumerate(config["upsample_rates"]):
        w, b = weight(f"ups.{i}"), state[f"ups.{i}.bias"]
        pad = (w.shape[2] - rate) // 2
        x = conv_transpose1d(leaky_relu(x, 0.1), w, b, stride=rate, padding=pad)
        x = sum(block(i * count + j, j, x) for j in range(count)) / count
    return torch.tanh(conv("conv_post", leaky_relu(x, 0.01)))[:, 0]


def main() -> None:
    """Writes the golden numbers, or one wave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("weights", "config", "mel", "to"):
        parser.add_argument(f"--{name}", type=Path)
    args = parser.parse_args()
    if args.weights:
        config = json.loads(args.config.read_text())
        state = torch.load(args.weights, map_location="cpu", weights_only=True)["generator"]
        mel = torch.from_numpy(np.load(args.mel)).transpose(1, 2)
        np.save(args.to, generator(state, config, mel).numpy())
        return
    state = random_state(SMALL, 16)
    mel = np.random.default_rng(17).normal(-4.0, 2.0, (2, 80, 60)).astype(np.float32)
    with torch.no_grad():
        wave = generator(state, SMALL, torch.from_numpy(mel)).numpy()
    np.savez_compressed(
        Path(__file__).resolve().parents[1] / "tests" / "golden" / "hifigan.npz",
        mel=mel,
        wave=wave,
        config=json.dumps(SMALL),
        **{f"param.{name}": value.numpy() for name, value in state.items()},  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    main()
