"""Voices: a prompt and its transcript in one file, in the place of both, with the same bits."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from generation import (
    DIALOGUE,
    RELEASE,
    TEXT1,
    TEXT2,
    TEXT_MERGED,
    WAV1,
    WAV2,
    WAV_STEREO,
    command,
    made,
    one_line,
    read_wav,
    run_main,
    write_list,
)

import zipvoice_jax
from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.audio.voice import FORMAT, Voice
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.prepare import Item
from zipvoice_jax.infer.requests import BadLine, Request, read_requests
from zipvoice_jax.infer.synthesizer import Synthesizer

MODEL = RELEASE / "zipvoice_dialog"
TEXTS = (TEXT1, TEXT2)


@pytest.fixture(scope="module")
def dialog() -> Synthesizer:
    return zipvoice_jax.load(MODEL, vocoder_path="griffin-lim")


@pytest.fixture(scope="module")
def files(dialog: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The voices of both speakers."""
    folder = tmp_path_factory.mktemp("voices")
    paths = [folder / f"{n}.voice.npz" for n in (1, 2)]
    for path, wav, text in zip(paths, (WAV1, WAV2), TEXTS, strict=True):
        dialog.voice(wav, text).save(path)
    return paths


def assert_alike(ours: Item, truth: Item) -> None:
    """The same tokens, features to the last bit, lengths and level; hence the same speech."""
    assert ours.prompt_rms == truth.prompt_rms and len(ours.jobs) == len(truth.jobs) > 0
    for one, other in zip(ours.jobs, truth.jobs, strict=True):
        assert (one.token_ids, one.features_len) == (other.token_ids, other.features_len)
        np.testing.assert_array_equal(one.prompt_features, other.prompt_features)


@pytest.mark.parametrize("settings", [{}, {"target_rms": 0.3, "feat_scale": 0.2}, {"raw": True}])
def test_voices_give_the_bits_of_their_recordings(
    dialog: Synthesizer, files: list[Path], settings: dict
) -> None:
    raw = settings.pop("raw", False)
    sampling = SamplingConfig.for_kind("zipvoice_dialog", **settings)
    prepare = dialog.preparation(sampling, raw_evaluation=raw)
    truth = prepare(Request("a", DIALOGUE, TEXTS, (WAV1, WAV2)))
    assert_alike(prepare(Request("a", DIALOGUE, ("", ""), tuple(files))), truth)
    assert_alike(prepare(Request("a", DIALOGUE, (TEXT1, ""), (WAV1, files[1]))), truth)
    assert_alike(prepare(Request("a", DIALOGUE, TEXTS, tuple(files))), truth)


def test_a_voice_of_two_channels_and_two_speakers(tmp_path: Path) -> None:
    model = zipvoice_jax.load(RELEASE / "zipvoice_dialog_stereo", vocoder_path="griffin-lim")
    prepare = model.preparation(SamplingConfig.for_kind("zipvoice_dialog_stereo"))
    path = tmp_path / "both.npz"
    model.voice(WAV_STEREO, TEXT_MERGED).save(path)
    truth = prepare(Request("a", DIALOGUE, (TEXT_MERGED,), (WAV_STEREO,)))
    assert_alike(prepare(Request("a", DIALOGUE, ("",), (path,))), truth)


def test_the_command_makes_a_voice_that_generate_takes(
    dialog: Synthesizer, files: list[Path], tmp_path: Path
) -> None:
    path, wav = tmp_path / "new" / "mary.voice.npz", tmp_path / "a.wav"
    status, out, err = run_main("voice", "--prompt-wav", WAV1, "--prompt-text", TEXT1, "--to", path)
    assert (status, err) == (0, "")
    assert out.startswith(f"{path}: 3.25 s at 24000 Hz and its transcript, ")
    assert path.read_bytes() == files[0].read_bytes()
    # A voice and a recording, whose transcript is the only one that is needed.
    run = command(MODEL, "--text", DIALOGUE, "--prompt-wav", path, WAV2, "--prompt-text", TEXT2)
    made(*run, "--res-wav-path", wav)
    truth = dialog.generate(DIALOGUE, prompt_wav=[WAV1, WAV2], prompt_text=TEXTS, num_step=2)
    truth.save(tmp_path / "b.wav")
    np.testing.assert_array_equal(read_wav(wav), read_wav(tmp_path / "b.wav"))
    with files[1].open("rb") as file:
        prompts = [zipvoice_jax.Voice.load(path), file]
        ours = dialog.generate(DIALOGUE, prompt_wav=prompts, num_step=2)
    np.testing.assert_array_equal(ours.wave, truth.wave)


def test_voices_in_lists(dialog: Synthesizer, files: list[Path], tmp_path: Path) -> None:
    prepare = dialog.preparation(SamplingConfig.for_kind("zipvoice_dialog"))
    one, two = map(str, files)
    tsv = write_list(tmp_path / "l.tsv", [("a", "", "", one, two, DIALOGUE),
                                          ("b", TEXT1, "", WAV1, two, DIALOGUE),
                                          ("c", "", "", one, WAV2, DIALOGUE)])  # fmt: skip
    rows = [
        dict(id="a", text=DIALOGUE, prompt_wav=[one, two]),
        dict(id="b", text=DIALOGUE, prompt_wav=[str(WAV1), two], prompt_text=[TEXT1, ""]),
        dict(id="c", text=DIALOGUE, prompt_wav=[one, str(WAV2)]),
    ]
    truth = prepare(Request("a", DIALOGUE, TEXTS, (WAV1, WAV2)))
    for path in (tsv, write_list(tmp_path / "l.jsonl", rows)):
        *good, bad = read_requests(path)
        assert isinstance(bad, BadLine) and "prompt" in bad.error
        for request in good:
            assert isinstance(request, Request)
            assert_alike(prepare(request), truth)
    # Judges read the recording in it.
    np.testing.assert_array_equal(read_audio(files[0], 24_000), read_audio(WAV1, 24_000))
    assert read_audio(files[0], 16_000).shape == read_audio(WAV1, 16_000).shape


def test_contradictions_and_other_rates_are_refused(
    dialog: Synthesizer, files: list[Path], tmp_path: Path
) -> None:
    say = ("--text", DIALOGUE, "--prompt-wav", *files)
    status, _, err = run_main(*command(MODEL, *say, "--prompt-text", TEXT1, "Something else."))
    one_line(status, err, "2.voice.npz says 'He might even have been made amiable himself.', and")
    status, _, err = run_main(*command(MODEL, *say, "--prompt-text", TEXT1))
    one_line(status, err, "2 prompt recordings and 1 transcripts")
    status, _, err = run_main(*command(MODEL, *say[:2], "--prompt-wav", files[0], WAV2))
    one_line(status, err, "give --text, --prompt-wav and --prompt-text")
    wave, rate = soundfile.read(WAV1, dtype="float32")
    other = Voice(wave[None], rate, TEXT1)
    with pytest.raises(UserError, match="the voice has 16000 Hz and the model's features 24000"):
        dialog.generate(DIALOGUE, prompt_wav=[other, files[1]])
    for bad, said in [
        ((WAV1, " "), "transcript of .* is empty"),
        (((wave * 0, rate), TEXT1), "the prompt is silent"),
        ((WAV1, TEXT1 * 30), "words a minute"),
        ((other, TEXT1), "is a voice already"),
    ]:
        with pytest.raises(UserError, match=said):
            dialog.voice(*bad)
    with pytest.raises(UserError, match=r"let it end in \.npz"):
        other.save(tmp_path / "x.voice")
    to = ("--to", tmp_path / "x.wav")
    status, _, err = run_main("voice", "--prompt-wav", WAV1, "--prompt-text", TEXT1, *to)
    one_line(status, err, ".wav is no known one; let it end in .npz.")


def test_damaged_and_foreign_files_are_one_line(files: list[Path], tmp_path: Path) -> None:
    whole = files[0].read_bytes()
    truth = Voice.load(files[0])

    def archive(**parts: object) -> bytes:
        file = io.BytesIO()
        np.savez(file, **parts)  # pyright: ignore[reportArgumentType]
        return file.getvalue()

    ours = dict(format=FORMAT, version=1, sampling_rate=24_000, transcript="Yes.", wave=truth.wave)
    array = io.BytesIO()
    np.save(array, truth.wave)
    cases = {
        "is no voice": [b"", b"no voice", WAV1.read_bytes(), array.getvalue(), archive(a=1)],
        "is a voice of format 2": [archive(**{**ours, "version": 2})],
        "is damaged": [
            whole[:-1],
            whole[: len(whole) // 2],
            archive(format=FORMAT, version=1),
            *(
                archive(**{**ours, **other})
                for other in (
                    {"wave": truth.wave[0]},
                    {"wave": truth.wave.astype(np.float64)},
                    {"wave": truth.wave * np.float32(np.nan)},
                    {"wave": np.array([[{}]], object)},
                    {"sampling_rate": 0},
                    {"sampling_rate": 24e3},
                    {"transcript": " "},
                    {"transcript": 7},
                )
            ),
        ],
    }
    path = tmp_path / "x.npz"
    for said, contents in cases.items():
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(UserError, match=rf"x\.npz {said}") as error:
                Voice.load(path)
            assert "\n" not in str(error.value) and len(str(error.value)) < 400
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 100):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:  # some bytes of an archive mean nothing
            loaded = Voice.load(path)
        except UserError:
            continue
        assert loaded.transcript == TEXT1 and np.array_equal(loaded.wave, truth.wave)
    with pytest.raises(UserError, match=r"none\.npz does not exist"):
        Voice.load(tmp_path / "none.npz")
    with pytest.raises(UserError, match="cannot be read"):
        Voice.load(tmp_path)
    say = ("--text", "[S1] Yes.", "--prompt-wav", path)
    path.write_bytes(json.dumps(TEXT1).encode())
    status, _, err = run_main(*command(MODEL, *say))
    one_line(status, err, "x.npz is no voice")
