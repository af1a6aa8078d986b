"""What loading a model gives, whatever the format, and how a directory is replaced safely."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zipvoice_jax.checkpoint.mapping import Params
from zipvoice_jax.config import FeatureConfig, ModelConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.outputs import check_folder
from zipvoice_jax.text.tokens import TokenTable, speaker_tag

MODEL_JSON = "model.json"
TOKENS_TXT = "tokens.txt"
NATIVE_JSON = "zipvoice_jax.json"
NATIVE_PARAMS = "params"
COMPACT_PARAMS = "params.safetensors"
CHECKPOINT_NAMES = ("model.pt", "model.safetensors")
# What a model directory may hold for us to dare replace it as a whole.
_OURS = frozenset(
    {MODEL_JSON, TOKENS_TXT, NATIVE_JSON, NATIVE_PARAMS, COMPACT_PARAMS, *CHECKPOINT_NAMES}
)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model ready to run: its settings, features, token table and parameters.

    Attributes:
        params: nested dicts of float32 numpy arrays (see `mapping`).
    """

    config: ModelConfig
    features: FeatureConfig
    table: TokenTable
    params: Params


def check_table(config: ModelConfig, table: TokenTable) -> None:
    """Checks that a token table is one that a model can use.

    Raises:
        UserError: sizes or special ids differ.
    """
    if table.vocab_size != config.vocab_size:
        raise UserError(
            f"the token table has {table.vocab_size} tokens but the model's embedding has "
            f"{config.vocab_size} rows; use the tokens.txt that came with the model."
        )
    ids = [("_", table.pad_id, config.pad_id)]
    if config.is_dialog:
        numbered = enumerate(config.speaker_ids, 1)
        ids += [(tag := speaker_tag(n), table.token2id.get(tag), id) for n, id in numbered]
    for token, in_table, in_config in ids:
        if in_table != in_config:
            raise UserError(
                f"the token {token} is {in_table} in the token table but {in_config} in the "
                "model config; use the tokens.txt that came with the model."
            )


def check_new_directory(target: Path, *, overwrite: bool) -> None:
    """Makes sure that a model directory can be made, without leaving anything there.

    Args:
        target: the directory.
        overwrite: whether a model directory already there may be replaced.

    Raises:
        UserError: `target` exists and may not be replaced, or cannot be written.
    """
    target = Path(os.path.abspath(target))
    try:
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise UserError(f"{target} is a link or a file; give another place to write to.")
        if target.is_dir() and (names := {entry.name for entry in target.iterdir()}):
            if not overwrite:
                raise UserError(f"{target} is not empty; allow overwriting or give a new place.")
            if others := sorted(names - _OURS):
                raise UserError(
                    f"{target} also holds {others[0]!r}, so it is not replaced; "
                    "give a directory that holds nothing but a model."
                )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{target} cannot be written ({reason}).") from None
    check_folder(target.parent)


@contextlib.contextmanager
def new_directory(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields an empty directory beside `target` that takes its place if all goes well.

    A failure in between leaves what was at `target` as it was.

    Args:
        target: the directory to make.
        overwrite: whether a model directory already there may be replaced.

    Raises:
        UserError: `target` exists and may not be replaced, or cannot be written.
    """
    target = Path(os.path.abspath(target))
    check_new_directory(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}).") from None
    old = work / "old"
    try:
        made = work / "new"
        made.mkdir()
        yield made
        check_new_directory(target, overwrite=overwrite)  # another may have been made meanwhile
        # Two renames: a directory cannot replace a full one in a single step.
        if target.exists():
            os.rename(target, old)
        os.rename(made, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error}).") from None
    finally:
        if old.exists() and not target.exists():
            os.rename(old, target)
        shutil.rmtree(work, ignore_errors=True)
