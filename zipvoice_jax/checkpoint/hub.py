"""Finds model and vocoder directories, in the package, locally or on the Hugging Face hub.

The hub is asked only if nothing local was named, after one short probe: its client retries
for minutes where there is no network. What was downloaded before is used offline.
"""

from pathlib import Path
from typing import Any

from zipvoice_jax.checkpoint.loaded import (
    CHECKPOINT_NAMES,
    MODEL_JSON,
    NATIVE_JSON,
    TOKENS_TXT,
    Loaded,
)
from zipvoice_jax.checkpoint.native import is_native, native_kind, read_native, read_native_table
from zipvoice_jax.checkpoint.official import read_official
from zipvoice_jax.config import BUNDLED, MODEL_NAMES
from zipvoice_jax.core.assets import DEMO
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.text.tokens import TokenTable

MODEL_REPO = "k2-fsa/ZipVoice"
VOCODER_REPO = "charactr/vocos-mel-24khz"
MODEL_FILES = ("model.pt", MODEL_JSON, TOKENS_TXT)
VOCODER_FILES = ("config.yaml", "pytorch_model.bin")
BUNDLED_DIR = DEMO / "model"
_TIMEOUT = 5.0  # seconds, for the probe and for the hub's metadata


def _hub_answers() -> bool:
    """Whether the hub's endpoint answers at all, offline mode and proxies respected."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        # The client's own session without its retries; any answer will do.
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception:  # httpx, SSL, URL and proxy errors: all mean that it cannot be asked
        return False
    return True


def _download(repo: str, names: list[str], missing: str) -> Path:
    """The directory with all `names` of a hub repository, downloaded or from the cache.

    Raises:
        UserError: `missing`, with what went wrong.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"huggingface_hub is not installed; {missing}") from None
    cached_only = not _hub_answers()
    paths = []
    for name in names:
        try:
            path = huggingface_hub.hf_hub_download(
                repo, name, etag_timeout=_TIMEOUT, local_files_only=cached_only
            )
        except Exception as error:  # the client's errors come from many libraries
            reason = (
                "the hub cannot be reached"
                if cached_only
                else f"the hub answers with {type(error).__name__}"
            )
            raise UserError(f"{repo}/{name} cannot be downloaded ({reason}); {missing}") from None
        paths.append(Path(path))
    if len({path.parent for path in paths}) != 1:
        raise UserError(f"the cached files of {repo} are of different versions; {missing}")
    return paths[0].parent


def find_model(model_name: str | None = None, model_dir: str | Path | None = None) -> Path:
    """The directory of a model.

    Args:
        model_name: one of `MODEL_NAMES`. Those of `BUNDLED` come with the package; others are
            downloaded from the hub if `model_dir` is None.
        model_dir: a local directory, official or ours; it wins over the hub.

    Raises:
        UserError: the directory is missing or incomplete, the name is unknown, or the model
            cannot be downloaded; says which files to place where.
    """
    if model_name is not None and model_name not in MODEL_NAMES:
        raise UserError(
            f"the model {model_name!r} is unknown; choose one of {', '.join(MODEL_NAMES)}."
        )
    if model_name in BUNDLED:
        return _bundled(model_name, model_dir)
    if model_dir is None:
        if model_name is None:
            raise UserError("no model was named; give --model-name or --model-dir.")
        missing = (
            f"place {', '.join(MODEL_FILES)} of {model_name} in a directory and give it with "
            "--model-dir; or take demo, the small model that comes with zipvoice-jax."
        )
        return _download(MODEL_REPO, [f"{model_name}/{name}" for name in MODEL_FILES], missing)
    path = Path(model_dir)
    try:
        found = path.is_dir()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the model directory {path} cannot be read ({reason}).") from None
    if not found:
        raise UserError(
            f"the model directory {path} does not exist; give one that holds "
            f"{', '.join(MODEL_FILES)}."
        )
    if not is_native(path):
        lacking = [name for name in (MODEL_JSON, TOKENS_TXT) if not (path / name).is_file()]
        if lacking:
            raise UserError(
                f"the model directory {path} lacks {' and '.join(lacking)}; it must hold "
                f"{' or '.join(CHECKPOINT_NAMES)}, {MODEL_JSON} and {TOKENS_TXT} (official) or "
                f"{NATIVE_JSON} (converted)."
            )
    return path


def find_start(init: str) -> Path:
    """The directory of a model that a training starts from.

    Args:
        init: a model's directory; or one of `MODEL_NAMES`, where no directory of that name holds
            a model.

    Raises:
        UserError: as of `find_model`.
    """
    path = Path(init)
    if init in MODEL_NAMES and not is_native(path) and not (path / MODEL_JSON).is_file():
        return find_model(init)
    return find_model(model_dir=path)


def may_be_dialog(model_name: str | None, model_dir: Path | None) -> bool:
    """Whether a model may have two speakers, as far as is known without its weights.

    Args:
        model_name: as of `find_model`; it alone can rule out a second speaker.
        model_dir: from `find_model`; None: not yet found. A token table without speaker tags
            belongs to a model of one speaker; one with them may do so.

    Raises:
        UserError: the model's description or token table cannot be read.
    """
    kind = BUNDLED.get(model_name or "", model_name)
    if kind is None and model_dir is not None:
        if not is_native(model_dir):
            table = stored_table(model_dir)
            return None not in (table.spk_a_id, table.spk_b_id)
        kind = native_kind(model_dir)
    return kind is None or kind.startswith("zipvoice_dialog")


def _bundled(model_name: str, model_dir: str | Path | None) -> Path:
    if model_dir is not None and Path(model_dir) != BUNDLED_DIR:
        raise UserError(
            f"the model {model_name} comes with zipvoice-jax; leave the directory {model_dir} out, "
            "or name the kind of its model."
        )
    if not is_native(BUNDLED_DIR):
        raise UserError(
            f"{BUNDLED_DIR} does not hold the model {model_name}; install zipvoice-jax again."
        )
    return BUNDLED_DIR


def find_vocos(vocoder_path: str | Path | None = None) -> tuple[Path | None, str]:
    """The directory of a Vocos vocoder with config.yaml and pytorch_model.bin.

    Args:
        vocoder_path: a local directory; None asks the hub for charactr/vocos-mel-24khz.

    Returns:
        the directory and "", or None and why there is none: then Griffin-Lim must do.

    Raises:
        UserError: `vocoder_path` was given but lacks a file.
    """
    if vocoder_path is not None:
        path = Path(vocoder_path)
        lacking = [name for name in VOCODER_FILES if not (path / name).is_file()]
        if lacking:
            raise UserError(
                f"the vocoder directory {path} lacks {' and '.join(lacking)}; place "
                f"{' and '.join(VOCODER_FILES)} of {VOCODER_REPO} there."
            )
        return path, ""
    missing = f"place {' and '.join(VOCODER_FILES)} in a directory and give it with --vocoder-path."
    try:
        return _download(VOCODER_REPO, list(VOCODER_FILES), missing), ""
    except UserError as error:
        return None, str(error)


def stored_table(model_dir: str | Path) -> TokenTable:
    """The token table of a model directory of either format.

    Raises:
        UserError: it holds none.
    """
    path = Path(model_dir)
    return read_native_table(path) if is_native(path) else TokenTable.load(path / TOKENS_TXT)


def load_model(
    model_name: str | None = None,
    model_dir: str | Path | None = None,
    *,
    checkpoint_name: str | None = None,
    which: str = "auto",
    **config_overrides: Any,
) -> Loaded:
    """Loads a model of either format.

    Args:
        model_name: its kind, downloaded if there is no `model_dir`, else checked against it; or
            one of `BUNDLED`.
        model_dir: a local directory, official or ours.
        checkpoint_name: weights' file in an official directory, None for the usual ones. Where
            it is given, the directory is read as an official one.
        which: entry of a torch checkpoint, see `official.read_state_dict`.
        **config_overrides: `ModelConfig` fields such as dtype, remat or speaker_turns.

    Raises:
        UserError: the model is missing, damaged or of another kind.
    """
    path = find_model(model_name, model_dir)
    if model_name in BUNDLED:
        if checkpoint_name is not None or which != "auto":
            raise UserError(f"the model {model_name} has one set of weights; name no other.")
        return read_native(path, **config_overrides)
    if checkpoint_name is not None or not is_native(path):
        return read_official(
            path, model_name, checkpoint_name=checkpoint_name, which=which, **config_overrides
        )
    if which != "auto":
        raise UserError(f"{path} holds one set of weights, not {which}; leave the entry at auto.")
    loaded = read_native(path, **config_overrides)
    if model_name is not None and loaded.config.kind != model_name:
        raise UserError(
            f"{path} holds a {loaded.config.kind} model, not {model_name}; "
            f"choose {loaded.config.kind} or another directory."
        )
    return loaded


__all__ = [
    "BUNDLED_DIR",
    "find_model",
    "find_vocos",
    "load_model",
    "may_be_dialog",
    "stored_table",
]
