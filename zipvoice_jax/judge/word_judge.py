"""Word errors of a model's speech, as validation beside the loss.

A loss can fall while speech stays unintelligible. `train --listen LIST` speaks some items of a
list with the averaged parameters of every checkpoint and counts word errors.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.infer.requests import read_usable
from zipvoice_jax.infer.synthesizer import Synthesizer
from zipvoice_jax.judge.backends import RATE, text_of
from zipvoice_jax.judge.judge import is_dialogue
from zipvoice_jax.judge.recognisers import open_recogniser
from zipvoice_jax.judge.words import count_errors, normaliser, without_tags
from zipvoice_jax.vocoder.base import GriffinLim
from zipvoice_jax.vocoder.find import find_vocoder


class WordJudge:
    """Speaks the same few items with every model, and counts word errors.

    Args:
        lists: lists as for `generate --test-list`; items with speaker tags are for dialogue
            models, the others for models of one speaker.
        items: most items of either kind to speak.
        recogniser: name of the recogniser, such as whisper-tiny.

    Raises:
        UserError: a list or the recogniser cannot be used.
    """

    def __init__(
        self,
        lists: Sequence[Path],
        *,
        items: int = 24,
        recogniser: str = "whisper-tiny",
    ) -> None:
        requests = [
            # Two lists may both call their first item 1.
            dataclasses.replace(item, item_id=f"{number}/{item.item_id}")
            for number, path in enumerate(lists)
            for item in read_usable(path)
        ]
        self._requests = {
            kind: [request for request in requests if is_dialogue(request) == kind][:items]
            for kind in (False, True)
        }
        self._recogniser = open_recogniser(recogniser)
        self._normalise = normaliser("whisper", "en")
        self._synthesizer: Synthesizer | None = None

    def __call__(self, loaded: Loaded) -> dict[str, float]:
        """Word error rate of a model in percent, and the seconds that this took.

        The result is empty if no item is for this kind of model.
        """
        requests = self._requests[loaded.config.is_dialog]
        if not requests:
            return {}
        begin = time.perf_counter()
        synthesizer = self._opened(loaded)
        sampling = SamplingConfig.for_model(loaded.config)
        prepare = synthesizer.preparation(sampling)
        texts = {
            request.item_id: self._normalise(without_tags(request.text)) for request in requests
        }
        errors = {item_id: len(text.split()) for item_id, text in texts.items()}
        prepared = [prepare(request) for request in requests]
        # An item without a usable wave counts all its words as errors.
        spoken = synthesizer.speak(prepared, sampling, prepare, failed=lambda *_: None)
        for speech in spoken:
            wave = _resampled(speech.wave.mean(axis=0), speech.sampling_rate)
            heard = self._normalise(text_of(self._recogniser.words(wave, "en")))
            errors[speech.item_id] = count_errors(texts[speech.item_id], heard).total
        words = sum(len(text.split()) for text in texts.values())
        return {
            "wer": 100.0 * sum(errors.values()) / max(words, 1),
            "listening_seconds": time.perf_counter() - begin,
        }

    def _opened(self, loaded: Loaded) -> Synthesizer:
        """A synthesizer with these parameters; reused, with its programs, for the same config."""
        if self._synthesizer is None or self._synthesizer.config != loaded.config:
            vocoder, _ = find_vocoder(GriffinLim.name, loaded.features)
            self._synthesizer = Synthesizer(loaded, vocoder=vocoder)
        else:
            self._synthesizer.engine.load(loaded.params)
        return self._synthesizer


def _resampled(
    wave: Float[np.ndarray, " samples"], rate: int
) -> Float[np.ndarray, " judged_samples"]:
    import soxr

    return soxr.resample(wave, rate, RATE, quality="HQ")
