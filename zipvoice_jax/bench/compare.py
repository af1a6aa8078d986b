"""Our time per second of audio and that of autoregressive models, on one machine in one run."""

import dataclasses
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from zipvoice_jax.bench.generate import bench_generate
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.config import FeatureConfig, ModelConfig, SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.models.zipvoice import init_params
from zipvoice_jax.text.tokens import TokenTable
from zipvoice_jax.vocoder.base import GriffinLim

PROGRAM = Path(__file__).with_name("autoregressive.py")
PEERS = ("dia", "mooncast")
PROMPT_SECONDS = 3.0  # of our models
COLUMNS = (
    ("system", "system", "{:>38}"),
    ("parameters", "parameters_M", "{:12.0f}"),
    ("rtf", "rtf", "{:8.3f}"),
    ("times", "times_first", "{:11.1f}"),
)
# Kinds and steps of our models.
OURS = (("zipvoice_dialog", 8), ("zipvoice_dialog", 16), ("zipvoice_distill", 4))


def base_model(dtype: str, layers: int | None) -> ModelConfig:
    """The base size, or fewer layers of each stack for a quick look."""
    fewer: dict[str, Any] = {}
    if layers is not None:
        fewer = {"fm_decoder_num_layers": (layers,) * 5, "text_encoder_num_layers": layers}
    return ModelConfig(dtype=dtype, **fewer)  # type: ignore[arg-type]


def ours(
    table: TokenTable, model: ModelConfig, *, seconds: float, repeats: int, layers: int | None
) -> Iterator[dict[str, Any]]:
    """A row for each of our models and numbers of steps; random weights, without vocoder.

    Args:
        table: token table of the dialogue models.
        model: sizes and dtype.
        seconds: seconds of speech, after a prompt of `PROMPT_SECONDS`.
        repeats: runs after the first; the best counts.
        layers: layers of each stack, if fewer than in the base model.
    """
    models: dict[str, Loaded] = {}
    features = FeatureConfig()
    model = dataclasses.replace(model, vocab_size=table.vocab_size, pad_id=table.pad_id)
    for kind, steps in OURS:
        if kind not in models:
            config = dataclasses.replace(model, kind=kind)  # type: ignore[arg-type]
            params = init_params(config, jax.random.key(0))
            models[kind] = Loaded(config, features, table, params)
        sampling = SamplingConfig.for_kind(kind, num_step=steps)
        (row,) = bench_generate(
            models[kind], GriffinLim(features), sampling,
            lengths=[seconds], prompt_seconds=PROMPT_SECONDS, repeats=repeats,
            devices=jax.local_devices()[:1],  # as the others run
        )  # fmt: skip
        count = sum(x.size for x in jax.tree.leaves(models[kind].params))
        yield {
            "system": f"{kind}, {steps} steps" + _fewer(layers),
            "parameters": count / 1e6,
            "rtf": row["rtf"],
            "dtype": model.dtype,
        }


def peer(
    name: str,
    python: Path,
    *,
    device: str,
    dtype: str,
    steps: int,
    repeats: int,
    layers: int | None,
) -> dict[str, Any]:
    """The row of an autoregressive model, timed by a Python that has torch and transformers.

    Raises:
        UserError: it cannot be run there.
    """
    command = [str(python), str(PROGRAM), "--model", name, "--device", device, "--dtype", dtype]
    command += ["--steps", str(steps), "--repeats", str(repeats)]
    if layers is not None:
        command += ["--layers", str(layers)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"{python} cannot be run ({error.strerror}).") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"{name} cannot be timed by {python} ({last}); it needs torch and transformers."
        )
    result = json.loads(done.stdout.splitlines()[-1])
    return {
        **result,
        "system": name + _fewer(layers),
        "parameters": result["parameters"] / 1e6,
        "dtype": dtype,
    }


def torch_device(asked: str | None) -> str:
    """The torch device of the others: the same kind as JAX's.

    Raises:
        UserError: another kind was asked for, which would compare two machines.
    """
    ours = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if asked is not None and asked.partition(":")[0] != ours:
        raise UserError(
            f"--torch-device is {asked} but JAX runs on {ours}; have both run on one device."
        )
    if ours not in ("cpu", "cuda"):
        raise UserError(f"JAX runs on {ours}, where torch cannot be timed; compare on CPU or GPU.")
    return asked or ours


def notes(layers: int | None) -> tuple[str, ...]:
    """Notes on what the table measures and what it does not."""
    remarks = (
        "measured: seconds to sample by seconds of audio, random weights, one item, ours after a "
        f"prompt of {PROMPT_SECONDS:g} s with guidance, theirs token by token with a cache",
        "not measured: vocoder, codec, detokenizer, reading the prompt (theirs), longer contexts, "
        "how any of them sounds; MoonCast's layers are assumed (bench/autoregressive.py)",
    )
    fewer = "layers were left out: this says nothing about the speed of the models"
    return remarks if layers is None else (*remarks, fewer)


def _fewer(layers: int | None) -> str:
    return "" if layers is None else f", {layers} layers"


def with_times(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their time relative to the first row's."""
    return [{**row, "times": row["rtf"] / rows[0]["rtf"]} for row in rows]
