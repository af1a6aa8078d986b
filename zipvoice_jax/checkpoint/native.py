"""Our own checkpoint of a finished model: arrays by Orbax or `compact`, all else in a JSON file.

The only place that talks to Orbax about inference weights; Orbax is imported on use. Orbax
0.12 returns whatever shape it finds, even for an abstract tree of another shape, and does
not notice every flipped byte. So the JSON keeps a digest of each of its files, and what
comes back is held against the config.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from zipvoice_jax.checkpoint.compact import read_arrays, write_arrays
from zipvoice_jax.checkpoint.loaded import (
    COMPACT_PARAMS,
    NATIVE_JSON,
    NATIVE_PARAMS,
    Loaded,
    check_table,
    new_directory,
)
from zipvoice_jax.checkpoint.mapping import Params, check_params
from zipvoice_jax.checkpoint.restricted_pickle import shown
from zipvoice_jax.config import FeatureConfig, ModelConfig, read_json
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import TokenTable

_FORMAT = "zipvoice_jax"
# Versions of the JSON file, by how the arrays are kept.
NativeFormat = Literal["native", "bfloat16"]
_VERSIONS: dict[NativeFormat, int] = {"native": 1, "bfloat16": 2}
_KEYS = ("config", "features", "tokens", "fingerprint", "files")


def is_native(model_dir: Path) -> bool:
    """Whether a directory is one that `save_native` wrote."""
    return (Path(model_dir) / NATIVE_JSON).is_file()


def native_kind(model_dir: Path) -> str:
    """The kind of a model in our format, without its arrays.

    Raises:
        UserError: its JSON file is damaged.
    """
    path = Path(model_dir) / NATIVE_JSON
    config = _read_meta(path)["config"]
    kind = config.get("kind") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise UserError(f"{path} is damaged (it has no kind); convert the model again.")
    return kind


def save_native(
    model_dir: Path,
    config: ModelConfig,
    features: FeatureConfig,
    table: TokenTable,
    params: Params,
    *,
    format: NativeFormat = "native",
    overwrite: bool = False,
) -> Path:
    """Writes a model in our format; all of it or nothing.

    Args:
        model_dir: the directory to make.
        config: sizes and options of the model.
        features: log-mel settings that the model was trained with.
        table: the token table, whose ids the embedding has.
        params: our parameter tree; stored as float32, unless the format says otherwise.
        format: "native" keeps float32 by Orbax, "bfloat16" rounds to that in a single file.
        overwrite: whether to replace a model directory that is already there.

    Returns:
        `model_dir`.

    Raises:
        UserError: parameters or table do not fit the config, bfloat16 cannot hold them, or the
            directory cannot be written.
    """
    if format not in _VERSIONS:
        raise UserError(f"the format {format!r} is unknown; choose {' or '.join(_VERSIONS)}.")
    check_table(config, table)
    check_params(params, config, source="the parameter tree")
    # Plain numpy: the file must not remember which devices held the arrays.
    params = jax.tree.map(lambda leaf: np.array(leaf, np.float32), params)
    meta = {
        "format": _FORMAT,
        "version": _VERSIONS[format],
        "config": config.to_dict(),
        "features": {name: getattr(features, name) for name in features.__dataclass_fields__},
        "fingerprint": table.fingerprint,
        "tokens": table.dumps(),
    }
    with new_directory(model_dir, overwrite=overwrite) as made:
        arrays = made / NATIVE_PARAMS if format == "native" else made
        try:
            if format == "native":
                _write_orbax(arrays, params)
            else:
                write_arrays(made / COMPACT_PARAMS, params)
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise types of every kind
            raise UserError(
                f"{model_dir} cannot be written ({type(error).__name__}: {shown(error)}); "
                "check the space and the rights there."
            ) from None
        files = sorted(path for path in arrays.rglob("*") if path.is_file())
        meta["files"] = {path.relative_to(arrays).as_posix(): _digest(path) for path in files}
        (made / NATIVE_JSON).write_text(
            json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return Path(model_dir)


def _write_orbax(arrays: Path, params: Params) -> None:
    import orbax.checkpoint as ocp

    # Orbax's v1 calls broadcast over the devices of all processes; v0 can write alone.
    alone = ocp.options.MultiprocessingOptions(**_alone())
    handler = ocp.CompositeCheckpointHandler(
        NATIVE_PARAMS, composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        item = ocp.args.StandardSave(params)
        checkpointer.save(str(arrays), ocp.args.Composite(**{NATIVE_PARAMS: item}))


def _alone() -> dict[str, Any]:
    """Options by which Orbax waits for no other process: one writes, each reads for itself."""
    index, count = jax.process_index(), jax.process_count()
    if count == 1:
        return {}
    return {
        "primary_host": index,
        "active_processes": {index},
        "barrier_sync_key_prefix": f"alone{index}",
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(arrays: Path, digests: Mapping[str, Any]) -> None:
    """Raises UserError for the first file that is missing or not as it was written."""
    for name, digest in digests.items():
        try:
            good = _digest(arrays / name) == digest
        except (OSError, ValueError) as error:
            raise UserError(
                f"{arrays} cannot be read ({shown(error)}); copy or convert the model again."
            ) from None
        if not good:
            raise UserError(
                f"{arrays / name} is damaged (its digest differs); copy or convert the model again."
            )


def _read_meta(path: Path) -> dict[str, Any]:
    meta = read_json(path)
    if not isinstance(meta, dict) or meta.get("format") != _FORMAT:
        raise UserError(f"{path} does not describe a zipvoice_jax model; convert the model again.")
    if meta.get("version") not in _VERSIONS.values():
        known = " and ".join(map(str, _VERSIONS.values()))
        raise UserError(
            f"{path} is of version {meta.get('version')!r}, this code reads {known}; "
            "update zipvoice-jax."
        )
    if missing := [key for key in _KEYS if key not in meta]:
        raise UserError(f"{path} lacks {', '.join(missing)}; convert the model again.")
    if not isinstance(meta["files"], dict):
        raise UserError(f"{path} is damaged (files is no object); convert the model again.")
    return meta


def read_native_table(model_dir: Path) -> TokenTable:
    """The token table of a model that `save_native` wrote, without its arrays.

    Raises:
        UserError: its JSON file is missing or damaged.
    """
    path = Path(model_dir) / NATIVE_JSON
    return _stored_table(path, _read_meta(path))


def _stored_table(path: Path, meta: Mapping[str, Any]) -> TokenTable:
    try:
        stored = TokenTable.loads(meta["tokens"], name=f"tokens in {path}")
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({shown(error)}); convert the model again.") from None
    if stored.fingerprint != meta["fingerprint"]:
        raise UserError(
            f"{path} holds tokens of fingerprint {stored.fingerprint} but names "
            f"{shown(meta['fingerprint'])}; convert the model again."
        )
    return stored


def read_native(
    model_dir: Path, *, table: TokenTable | None = None, **config_overrides: Any
) -> Loaded:
    """Reads a model that `save_native` wrote.

    Args:
        model_dir: the directory.
        table: a token table that must be the model's; None takes the stored one.
        **config_overrides: `ModelConfig` fields such as dtype, remat or speaker_turns.

    Raises:
        UserError: missing or damaged files, another token table, or arrays that do not fit
            the config, each named.
    """
    model_dir = Path(model_dir)
    path = model_dir / NATIVE_JSON
    meta = _read_meta(path)
    try:
        config = ModelConfig.from_dict({**meta["config"], **config_overrides})
        features = FeatureConfig(**meta["features"])
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({shown(error)}); convert the model again.") from None
    stored = _stored_table(path, meta)
    if table is not None and table.fingerprint != stored.fingerprint:
        raise UserError(
            f"the token table has fingerprint {table.fingerprint} but {model_dir} was made with "
            f"{stored.fingerprint}; use the model's own token table."
        )
    check_table(config, stored)
    if meta["version"] == _VERSIONS["native"]:
        _check_files(model_dir / NATIVE_PARAMS, meta["files"])
        params = _restore(model_dir / NATIVE_PARAMS)
    else:
        _check_files(model_dir, meta["files"])
        params = read_arrays(model_dir / COMPACT_PARAMS)
    check_params(params, config, source=str(model_dir))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    return Loaded(config, features, stored, params)


def _restore(path: Path) -> Params:
    from orbax.checkpoint import v1 as ocp

    if not path.is_dir():
        raise UserError(f"{path} does not exist; convert the model again.")
    try:
        context = ocp.Context()
        for name, value in _alone().items():
            setattr(context.multiprocessing, name, value)
        with context:
            params = ocp.load_checkpointables(str(path.absolute()))[NATIVE_PARAMS]
    except Exception as error:  # Orbax and TensorStore raise types of every kind
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {shown(error)}); convert the model again."
        ) from None
    if not isinstance(params, dict):
        raise UserError(f"{path} holds no parameter tree; convert the model again.")
    return params
