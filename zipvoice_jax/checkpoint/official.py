"""Model directories of the official code: weights, `model.json` and `tokens.txt`.

Read and written so that either code loads what the other wrote
(zipvoice/bin/infer_zipvoice.py, zipvoice/utils/checkpoint.py).
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors
import safetensors.numpy

from zipvoice_jax.checkpoint.loaded import (
    CHECKPOINT_NAMES,
    MODEL_JSON,
    TOKENS_TXT,
    Loaded,
    check_table,
    new_directory,
)
from zipvoice_jax.checkpoint.mapping import Params, from_official, to_official
from zipvoice_jax.checkpoint.restricted_pickle import shown
from zipvoice_jax.checkpoint.torch_file import TorchTensor, read_torch_file, write_torch_file
from zipvoice_jax.config import MODEL_KINDS, FeatureConfig, ModelConfig, read_json
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import TokenTable

Which = Literal["auto", "model", "model_avg", "model_ema"]
WHICH: tuple[str, ...] = get_args(Which)
FileFormat = Literal["pt", "safetensors"]
# Wrappers of torch (DistributedDataParallel, torch.compile) prefix every name.
_PREFIXES = ("module.", "_orig_mod.")


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(v, TorchTensor | np.ndarray) for v in value.values()
    )


def _pick(tree: Any, which: str, source: str) -> Mapping[str, Any]:
    """The state_dict in a checkpoint's content; see `read_state_dict`."""
    if not isinstance(tree, Mapping):
        raise UserError(f"{source} holds no state_dict; give a checkpoint of model weights.")
    held = [name for name in WHICH[1:] if _is_state(tree.get(name))]
    if which == "auto":
        if held:
            return tree[held[0]]
        if _is_state(tree):
            return tree
    elif which in held:
        return tree[which]
    keys = ", ".join(shown(key) for key in list(tree)[:8]) or "nothing"
    wanted = "model weights" if which == "auto" else f"weights named {which}"
    raise UserError(f"{source} holds no {wanted} but {keys}; choose another checkpoint or entry.")


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    state = {str(name): value for name, value in state.items()}
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def read_state_dict(path: Path, *, which: str = "auto") -> dict[str, Any]:
    """Official tensor names to numpy arrays, from a torch or safetensors file.

    Args:
        path: `*.safetensors`, or else a file that torch.save wrote: {"model": state_dict, ...}
            or a bare state_dict. A common prefix "module." is dropped.
        which: the entry to read. "auto" takes "model" where there is one, as the official
            inference does: "model_avg" of a training checkpoint is the mean since the first
            step, from which the official code only forms differences.

    Raises:
        UserError: missing or damaged file, or no such entry.
    """
    path = Path(path)
    if which not in WHICH:
        raise UserError(f"the entry {which!r} is unknown; choose one of {', '.join(WHICH)}.")
    if path.suffix != ".safetensors":
        return _without_prefix(read_torch_file(path, lambda tree: _pick(tree, which, str(path))))
    if which not in ("auto", "model"):
        raise UserError(f"{path} holds one set of weights, not {which}; leave the entry at auto.")
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    try:
        state = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not a sound safetensors file ({shown(error)}); download it again."
        ) from None
    return _without_prefix(state)


def infer_kind(names: Mapping[str, Any]) -> str:
    """The model kind that a state_dict's tensor names tell."""
    if "fm_decoder.in_proj.0.weight" in names:
        return "zipvoice_dialog_stereo"
    if "fm_decoder.guidance_scale_embed.weight" in names:
        return "zipvoice_distill"
    return "zipvoice_dialog" if "spk_embed.weight" in names else "zipvoice"


def _read_model_json(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    model, feature = content.get("model"), content.get("feature")
    if not isinstance(model, dict) or not isinstance(feature, dict):
        raise UserError(
            f"{path} must hold the objects 'model' and 'feature'; take it from the model's release."
        )
    known = {field.name for field in dataclasses.fields(FeatureConfig)}
    if unknown := sorted(set(feature) - known):
        raise UserError(
            f"{path} has unknown feature keys {', '.join(map(shown, unknown))}; "
            "take it from the model's release."
        )
    return model, feature


def _weights_file(model_dir: Path, checkpoint_name: str | None) -> Path:
    names = (checkpoint_name,) if checkpoint_name else CHECKPOINT_NAMES
    for name in names:
        if (model_dir / name).is_file():
            return model_dir / name
    raise UserError(
        f"{model_dir} holds no {' or '.join(names)}; a model directory holds the weights, "
        f"{MODEL_JSON} and {TOKENS_TXT}."
    )


def read_official(
    model_dir: Path,
    kind: str | None = None,
    *,
    checkpoint_name: str | None = None,
    which: str = "auto",
    **config_overrides: Any,
) -> Loaded:
    """Reads a model directory of the official release.

    Args:
        model_dir: holds model.pt or model.safetensors, model.json and tokens.txt.
        kind: one of `MODEL_KINDS`; None takes what the tensors tell.
        checkpoint_name: the weights' file name in the directory; None tries model.pt, then
            model.safetensors.
        which: entry of the checkpoint, see `read_state_dict`.
        **config_overrides: `ModelConfig` fields such as dtype, remat or speaker_turns.

    Raises:
        UserError: a file is missing or damaged, or weights, kind, model.json and token table
            do not belong together.
    """
    model_dir = Path(model_dir)
    if not model_dir.is_dir():
        raise UserError(f"the model directory {model_dir} does not exist.")
    if kind is not None and kind not in MODEL_KINDS:
        raise UserError(
            f"the model kind {kind!r} is unknown; choose one of {', '.join(MODEL_KINDS)}."
        )
    weights = _weights_file(model_dir, checkpoint_name)
    model, feature = _read_model_json(model_dir / MODEL_JSON)
    table = TokenTable.load(model_dir / TOKENS_TXT)
    state = read_state_dict(weights, which=which)
    held = infer_kind(state)
    if kind is not None and kind != held:
        raise UserError(
            f"{weights} holds the tensors of a {held} model, not of {kind}; "
            f"choose {held} or another checkpoint."
        )
    if "embed.weight" in state and np.ndim(state["embed.weight"]) == 2:
        rows = state["embed.weight"].shape[0]
        if rows != table.vocab_size:
            raise UserError(
                f"{model_dir / TOKENS_TXT} has {table.vocab_size} tokens but the embedding in "
                f"{weights.name} has {rows} rows; use the token table of this model."
            )
    ids: dict[str, Any] = {"vocab_size": table.vocab_size, "pad_id": table.pad_id}
    if held.startswith("zipvoice_dialog"):
        if table.spk_a_id is None or table.spk_b_id is None:
            raise UserError(
                f"{model_dir / TOKENS_TXT} lacks the speaker tags [S1] and [S2] that a {held} "
                "model needs; use the token table of this model."
            )
        ids |= {"spk_a_id": table.spk_a_id, "spk_b_id": table.spk_b_id}
    config = ModelConfig.from_model_json(model, kind=held, **{**ids, **config_overrides})
    check_table(config, table)
    features = FeatureConfig(**{"n_mels": config.feat_dim, **feature})
    return Loaded(config, features, table, from_official(state, config, source=str(weights)))


def not_official(config: ModelConfig) -> str:
    """What the official code lacks of a model, as "of 3 speakers"; "" where it has all."""
    speakers = config.speaker_tokens, config.speaker_embedding
    options = (
        (
            speakers != ("tags", "text_output"),
            f"with speaker_tokens={speakers[0]!r} and speaker_embedding={speakers[1]!r}",
        ),
        (config.looks_up_durations, "with upsampling='durations'"),
        (config.separates_channels, "with channel_decoding='separate'"),
        (config.num_speakers > 2, f"of {config.num_speakers} speakers"),
    )
    return next((what for is_ours, what in options if is_ours), "")


def write_official(
    model_dir: Path,
    config: ModelConfig,
    features: FeatureConfig,
    table: TokenTable,
    params: Params,
    *,
    format: FileFormat = "pt",
    overwrite: bool = False,
) -> Path:
    """Writes a model directory that the official code loads; all of it or nothing.

    Args:
        model_dir: the directory to make.
        config: sizes and options of the model.
        features: the model's; the official format keeps type and sampling rate.
        table: the token table, whose ids the embedding has.
        params: our parameter tree; a head for the length of the speech is left out.
        format: "pt" (torch.save's) or "safetensors".
        overwrite: whether to replace a model directory that is already there.

    Returns:
        the weights' file.

    Raises:
        UserError: parameters or table do not fit the config, or the directory cannot be written.
    """
    if format not in get_args(FileFormat):
        raise UserError(f"the format {format!r} is unknown; choose pt or safetensors.")
    check_table(config, table)
    if what := not_official(config):
        raise UserError(f"the official code has no model {what}; keep it in the native format.")
    feature: dict[str, Any] = {"sampling_rate": features.sampling_rate, "type": features.type}
    if features != FeatureConfig(n_mels=features.n_mels, **feature):
        raise UserError(
            f"the official format has no place for windows of {features.n_fft} samples every "
            f"{features.hop_length}; keep the model in the native format."
        )
    state = to_official(params, config)
    model_json = {"model": config.to_model_json(), "feature": feature}
    name = CHECKPOINT_NAMES[format == "safetensors"]
    with new_directory(model_dir, overwrite=overwrite) as made:
        if format == "pt":
            write_torch_file(made / name, state)
        else:
            try:
                safetensors.numpy.save_file(state, made / name, metadata={"format": "pt"})
            except safetensors.SafetensorError as error:
                raise UserError(
                    f"{model_dir} cannot be written ({shown(error)}); "
                    "check the space and the rights there."
                ) from None
        (made / MODEL_JSON).write_text(json.dumps(model_json, indent=2) + "\n", encoding="utf-8")
        (made / TOKENS_TXT).write_bytes(table.dumps().encode())
    return Path(model_dir) / name
