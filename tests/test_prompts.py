"""Prompts that are no paths: arrays with a rate, open files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from generation import DIALOGUE, RELEASE, TEXT1, TEXT2, WAV1, WAV2

import zipvoice_jax
from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.audio.recording import Recording, recordings
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.prepare import Preparation
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.infer.synthesizer import Synthesizer

PCM, RATE = soundfile.read(WAV1, dtype="int16")
FLOAT = PCM.astype(np.float32) / 32768


@pytest.fixture(scope="module")
def dialog() -> Synthesizer:
    return zipvoice_jax.load(RELEASE / "zipvoice_dialog", vocoder_path="griffin-lim")


@pytest.fixture(scope="module")
def prepare(dialog: Synthesizer) -> Preparation:
    return dialog.preparation(SamplingConfig.for_kind("zipvoice_dialog"))


def read(prompt: Any) -> np.ndarray:
    (one,) = recordings(prompt)
    return read_audio(one, 24_000)


def test_arrays_and_open_files_are_heard_as_paths_are(tmp_path: Path) -> None:
    truth = read_audio(WAV1, 24_000)
    for wave in (PCM, FLOAT, FLOAT[None], FLOAT.astype(np.float64), FLOAT.tolist()):
        np.testing.assert_array_equal(read((wave, RATE)), truth)
    with WAV1.open("rb") as file:
        file.seek(99)
        for _ in range(2):  # from its beginning, however often
            np.testing.assert_array_equal(read(file), truth)
    np.testing.assert_array_equal(read(io.BytesIO(WAV1.read_bytes())), truth)
    two = np.stack([PCM, PCM[::-1]])
    soundfile.write(tmp_path / "two.wav", two.T, RATE)
    np.testing.assert_array_equal(read((two, RATE)), read_audio(tmp_path / "two.wav", 24_000))
    assert recordings(str(WAV1)) == (WAV1,)
    # A pair of prompts is not a pair of samples and rate.
    pair = recordings([WAV1, (PCM, np.int64(RATE))])
    assert pair[0] == WAV1 and str(pair[1]) == "the prompt of S2"
    assert isinstance(pair[1], Recording) and len(repr(pair[1])) < 100


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ((PCM[:0], RATE), "the prompt holds no samples"),
        ((PCM * 0, RATE), "the prompt is silent"),
        ((FLOAT * np.nan, RATE), "the prompt holds NaN"),
        ((FLOAT.astype(np.float64) * 1e300, RATE), "the prompt holds NaN or infinite"),
        ((FLOAT * 32768, RATE), r"the prompt has floating-point samples up to .*full scale is 1"),
        ((np.stack([FLOAT, -FLOAT]), RATE), "the two channels of the prompt cancel out"),
        ((np.tile(PCM, 20), RATE), "the prompt is too long: 65.0 s"),
        ((PCM, 100), "the prompt has a sampling rate of 100 Hz"),
        ((PCM, 0), "the prompt has the rate 0; give a whole number of Hz"),
        ((PCM, float("nan")), "the prompt has the rate nan"),
        ((PCM, 44_100.5), "the prompt has the rate 44100.5"),
        ((RATE, PCM), r"the prompt begins with the number .*\(array, rate\), in this order"),
        (PCM, "the prompt is an array without its rate"),
        (
            (PCM[:, None], RATE),
            r"the prompt is an array of shape \(52004, 1\); give \(samples,\), or",
        ),
        ((PCM.astype(np.int32), RATE), "the prompt is an array of int32; give floating-point"),
        (([[1.0], [1.0, 2.0]], RATE), "the prompt is no array of samples"),
        (None, "the prompt is of type NoneType"),
        (b"RIFF", "the prompt is bytes; give the path"),
        (io.BytesIO(), "the prompt is an empty file"),
        (io.BytesIO(WAV1.read_bytes()[:9000]), "the prompt"),
        (io.BytesIO(b"no audio at all"), "the prompt cannot be decoded as audio"),
        (io.StringIO("RIFF"), "the prompt is open as text; open it with mode 'rb'"),
    ],
)
def test_checks_are_those_of_paths_and_name_the_prompt(
    prepare: Preparation, prompt: Any, said: str
) -> None:
    def heard() -> None:
        found = recordings(prompt)
        names = tuple(Path(str(one)) for one in found)
        prepare(Request("a", DIALOGUE, (f"[S1] {TEXT1}",), names, contents=found))

    with pytest.raises(UserError, match=f"^{said}") as error:
        heard()
    assert "\n" not in str(error.value)


def test_open_files_are_called_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(b"no audio at all")
    with path.open("rb") as file, pytest.raises(UserError, match=r"broken\.wav cannot be decoded"):
        read(file)
    with pytest.raises(UserError, match=r"broken\.wav cannot be read \(.*closed"):
        read(file)
    with path.open() as text, pytest.raises(UserError, match=r"broken\.wav is open as text"):
        read(text)


def test_speech_after_arrays_is_that_after_paths(dialog: Synthesizer) -> None:
    texts = [TEXT1, TEXT2]
    paths = dialog.generate(DIALOGUE, prompt_wav=[WAV1, WAV2], prompt_text=texts, num_step=2)
    with WAV2.open("rb") as file:
        prompts = [(PCM, RATE), file]
        arrays = dialog.generate(DIALOGUE, prompt_wav=prompts, prompt_text=texts, num_step=2)
    np.testing.assert_array_equal(arrays.wave, paths.wave)
    prompts = [(PCM, RATE), (0 * PCM, RATE)]
    with pytest.raises(UserError, match="the prompt of S2 is silent"):
        dialog.generate(DIALOGUE, prompt_wav=prompts, prompt_text=texts)


def test_a_pipe_that_gives_little_at_a_time_is_read_to_its_end() -> None:
    class Dripping(io.RawIOBase):
        def __init__(self, content: bytes) -> None:
            self.left = content

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            part, self.left = self.left[:64], self.left[64:]
            return part

    content = WAV1.read_bytes()
    assert len(content) > 512 * 64  # as many reads as whole parts would be too much
    (recording,) = recordings(Dripping(content))
    assert recording.content == content
