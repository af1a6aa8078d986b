"""Broken and hostile input to `generate`: each ends in one clear line, never in a traceback."""

import functools
import io
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import soundfile
from conftest import RunCli
from fuzz_models import MODELS, NOISE
from fuzz_models import SOURCE as SINGLE
from generation import RELEASE, TEXT1, TEXT2, WAV1, WAV2, command, one_line, run_main

from zipvoice_jax.checkpoint import hub

DIALOG = RELEASE / "zipvoice_dialog"
Case = tuple[Callable[[Path], list[str]], str]


@pytest.fixture(autouse=True)
def _as_a_person_runs_it(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away from the repository; without the tests' type checker, which would speak first."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


_load_once = functools.cache(hub.load_model)


@pytest.fixture
def _sound_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are read once for all tests that break something else."""
    monkeypatch.setattr(hub, "load_model", _load_once)


# --- recordings ------------------------------------------------------------------------------

SPEECH, RATE = soundfile.read(str(WAV1), dtype="float32")


def encoded(wave: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=form, subtype=subtype)
    return file.getvalue()


def riff(channels: int = 1, rate: int = RATE, bits: int = 16, data: bytes = b"\1\2" * 999) -> bytes:
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, (rate * align) % 2**32, align % 2**16, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


WAV, FLAC = encoded(SPEECH, subtype="PCM_16"), encoded(SPEECH, form="FLAC", subtype="PCM_16")
OGG = encoded(SPEECH, form="OGG", subtype="VORBIS")
HUGE = WAV[:40] + struct.pack("<I", 0x7000_0000) + WAV[44:]
AUDIO: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "one_byte": (b"R", "decoded"),
    "noise": (NOISE, "decoded"),
    "text": (b"This is no recording.\n", "decoded"),
    "html": (b"<!DOCTYPE html><html>404</html>", "decoded"),
    "git_lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "decoded"),
    "zip": (b"PK\x03\x04" + NOISE, "decoded"),
    "png": (b"\x89PNG\r\n\x1a\n" + NOISE, "decoded"),
    "elf": (b"\x7fELF" + NOISE, "decoded"),
    "riff_alone": (b"RIFF\xff\xff\xff\xffWAVE", "x.wav"),
    "riff_noise": (b"RIFF\xff\xff\xff\xffWAVE" + NOISE, "x.wav"),
    "flac_noise": (b"fLaC" + NOISE, "decoded"),
    "ogg_noise": (b"OggS" + NOISE, "decoded"),
    "wav_header_only": (WAV[:44], "x.wav"),
    "wav_half_a_header": (WAV[:30], "x.wav"),
    "wav_truncated": (WAV[: len(WAV) // 2], "truncated"),
    "wav_promises_2_gib": (HUGE, "truncated"),
    "flac_truncated": (FLAC[: len(FLAC) // 2], "x.wav"),
    "flac_header_only": (FLAC[:42], "x.wav"),
    "flac_damaged": (FLAC[:5000] + NOISE + FLAC[10_000:], "x.wav"),
    "ogg_truncated": (OGG[: len(OGG) // 2], "truncated"),
    "rate_0": (riff(rate=0), "x.wav"),
    "rate_1": (encoded(SPEECH, 1), "1 Hz"),
    "rate_100": (encoded(SPEECH, 100), "100 Hz"),
    "rate_10_million": (encoded(SPEECH, 10_000_000), "10000000 Hz"),
    "rate_huge": (riff(rate=2**31 - 1), "Hz"),
    "channels_0": (riff(channels=0), "x.wav"),
    "channels_3": (encoded(np.stack([SPEECH] * 3, 1)), "3 channels"),
    "channels_6": (encoded(np.stack([SPEECH] * 6, 1)), "6 channels"),
    "channels_65535": (riff(channels=65_535), "x.wav"),
    "bits_0": (riff(bits=0), "x.wav"),
    "bits_77": (riff(bits=77), "x.wav"),
    "no_samples": (encoded(SPEECH[:0]), "no samples"),
    "nan": (encoded(SPEECH * np.float32(np.nan)), "NaN"),
    "one_inf": (encoded(np.append(SPEECH, np.float32(np.inf))), "infinite"),
    "silent": (encoded(SPEECH * 0), "silent"),
    "nearly_silent": (encoded(SPEECH * 1e-5), "silent"),
    "one_sample": (encoded(SPEECH[:1]), "silent"),
    "ten_minutes": (encoded(np.tile(SPEECH, 185), subtype="PCM_16"), "too long"),
}


def with_wav(path: Path | str) -> list[str]:
    return command(SINGLE, "--prompt-wav", path, "--prompt-text", TEXT1, "--text", "Hello.")


@pytest.mark.usefixtures("_sound_models")
@pytest.mark.parametrize("name", AUDIO)
def test_recording(name: str, tmp_path: Path) -> None:
    content, said = AUDIO[name]
    (tmp_path / "x.wav").write_bytes(content)
    status, _, err = run_main(*with_wav(tmp_path / "x.wav"))
    one_line(status, err, said)


PATHS: dict[str, Case] = {
    "missing": (lambda d: with_wav(d / "none.wav"), "does not exist"),
    "directory": (lambda d: with_wav(d), "is a directory"),
    "below_a_file": (lambda d: with_wav(WAV1 / "a.wav"), "does not exist"),
    "nul": (lambda d: with_wav("a\0b.wav"), "read"),
    "surrogate": (lambda d: with_wav("a\ud800b.wav"), "read"),
    "empty_name": (lambda d: with_wav(""), "is a directory"),
    "very_long": (lambda d: with_wav("x" * 300), "too long"),
    "null_device": (lambda d: with_wav("/dev/null"), "no regular file"),
    "zero_device": (lambda d: with_wav("/dev/zero"), "/dev/zero"),
}


@pytest.mark.usefixtures("_sound_models")
@pytest.mark.parametrize("name", PATHS)
def test_path_of_a_recording(name: str, tmp_path: Path) -> None:
    make, said = PATHS[name]
    status, _, err = run_main(*make(tmp_path))
    one_line(status, err, said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_recording_without_permission(tmp_path: Path) -> None:
    path = Path(shutil.copy(WAV1, tmp_path / "x.flac"))
    path.chmod(0)
    status, _, err = run_main(*with_wav(path))
    one_line(status, err, "Permission denied")


# --- texts -----------------------------------------------------------------------------------


def say(text: str, prompt: str = TEXT1) -> list[str]:
    return command(SINGLE, "--prompt-wav", WAV1, "--prompt-text", prompt, "--text", text)


def talk(text: str, *prompts: str) -> list[str]:
    wavs = (WAV1, WAV2)[: len(prompts or (TEXT1, TEXT2))]
    flags = ["--prompt-wav", *wavs, "--prompt-text", *(prompts or (TEXT1, TEXT2))]
    return command(DIALOG, *flags, "--text", text)


TEXTS: dict[str, tuple[list[str], str]] = {
    "empty": (say(""), "empty"),
    "blank": (say(" \t\n "), "empty"),
    "unicode_blank": (say("\u3000\u2003\u00a0"), "empty"),
    "only_emoji": (say("😀🎉"), "text"),
    "only_other_script": (say("Привет мир"), "English or Chinese"),
    "only_zero_width": (say("\u200b\u200d\ufeff"), "text"),
    "only_unknown_tag": (say("[nonsense]"), "text"),
    "bad_pinyin": (say("<xyz9>"), "text"),
    "only_punctuation": (say("... !?"), "words"),
    "control": (say("\x01\x02\x03"), "text"),
    "nul": (say("\0"), "text"),
    "lone_surrogate": (say("Hello \ud83d there"), "text"),
    "undecodable_bytes": (say(os.fsdecode(b"Hello \xff\xfe")), "text"),
    "too_long": (say("word " * 20_001), "100,005 characters"),
    "unbroken": (say("word " * 5000), "punctuation"),
    "one_long_word": (say("a" * 50_000), "tokens"),
    "prompt_empty": (say("Hello.", ""), "transcript"),
    "prompt_blank": (say("Hello.", "  "), "transcript"),
    "prompt_only_emoji": (say("Hello.", "😀"), "text"),
    "prompt_surrogate": (say("Hello.", "\udfff"), "text"),
    "no_tags": (talk("Hello."), "does not start with"),
    "text_before_tags": (talk("Hello [S1] there."), "does not start with"),
    "third_speaker": (talk("[S1] Hello. [S3] Hi."), "[S3]"),
    "small_tag": (talk("[s1] Hello."), "[s1]"),
    "spelt_tag": (talk("[Speaker 1] Hello."), "[Speaker 1]"),
    "open_tag": (talk("[S1 Hello."), "[S1"),
    "wide_tag": (talk("\uff3bS1\uff3d Hello."), "S1"),
    "turn_without_words": (talk("[S1] [S2] Hello."), "turn 1"),
    "last_turn_without_words": (talk("[S1] Hello. [S2]"), "turn 2"),
    "turn_of_punctuation": (talk("[S1] Hello. [S2] ..."), "turn 2"),
    "only_a_tag": (talk("[S1]"), "turn 1"),
    "merged_prompt_without_tags": (talk("[S1] Hello.", TEXT1), "does not start with"),
    "prompt_with_two_speakers": (talk("[S1] Hi.", "[S1] a [S9] b", TEXT2), "[S9]"),
    "prompt_tag_alone": (talk("[S1] Hi.", "[S1]", TEXT2), "turn 1"),
}


@pytest.mark.usefixtures("_sound_models")
@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str) -> None:
    argv, said = TEXTS[name]
    status, out, err = run_main(*argv)
    one_line(status, err, said)
    assert out == ""


# --- options ---------------------------------------------------------------------------------


def option(*flags: str) -> list[str]:
    return [*say("Hello."), *flags]


OPTIONS: dict[str, tuple[list[str], str]] = {
    " ".join(flags): (option(*flags), said)
    for *flags, said in [
        ("--num-step", "0", "num_step is 0"),
        ("--num-step", "-1", "num_step is -1"),
        ("--num-step", "1000000000", "num_step is 1000000000"),
        ("--guidance-scale", "nan", "guidance_scale is nan"),
        ("--guidance-scale", "inf", "guidance_scale is inf"),
        ("--guidance-scale", "-1", "guidance_scale is -1"),
        ("--speed", "0", "speed is 0"),
        ("--speed", "nan", "speed is nan"),
        ("--speed", "-1", "speed is -1"),
        ("--speed", "1e30", "speed is 1e+30"),
        ("--t-shift", "0", "t_shift is 0"),
        ("--t-shift", "2", "t_shift is 2"),
        ("--t-shift", "nan", "t_shift is nan"),
        ("--seed", "-1", "seed is -1"),
        ("--seed", str(2**40), "seed is 1099511627776"),
        ("--feat-scale", "0", "feat_scale is 0"),
        ("--feat-scale", "inf", "feat_scale is inf"),
        ("--max-duration", "nan", "max_duration is nan"),
        ("--max-duration", "0", "max_duration is 0"),
        ("--target-rms", "-1", "target_rms is -1"),
        ("--target-rms", "nan", "target_rms is nan"),
        ("--min-duration", "nan", "min_duration is nan"),
        ("--min-duration", "1e9", "min_duration is 1000000000"),
        ("--min-duration", "60", "--speed", "0.05", "shorten"),
        ("--model-name", "zipvoice_dialog", "zipvoice_dialog"),
        ("--checkpoint-name", "none.pt", "none.pt"),
        ("--checkpoint-name", "model.pt/x", "model.pt/x"),
        ("--checkpoint-name", "tokens.txt", "not a torch checkpoint"),
        ("--tokenizer", "dialog", "[S1]"),
        ("--tokenizer", "espeak", "--lang", "xx-none", "xx-none"),
        ("--lang", "de", "espeak"),
        ("--res-wav-path", "/proc/nowhere/a.wav", "cannot be written"),
        ("--res-wav-path", "/dev/null/a.wav", "cannot be written"),
        ("--res-wav-path", "a.mp3", "extension"),
        ("--res-wav-path", "/", "name"),
        ("--res-wav-path", "", "name"),
        ("--res-wav-path", "a\nb.wav", "control characters"),
        ("--res-wav-path", "x" * 300 + ".wav", "200 bytes"),
        ("--res-wav-path", "a\udcff.wav", "Unicode"),
        ("--test-list", "list.tsv", "--test-list, or --text"),
    ]
}
USAGE = [
    [],
    ["speak"],
    ["generate", "--num-step", "many"],
    ["generate", "--num-step", "1.5"],
    ["generate", "--speed", "fast"],
    ["generate", "--dtype", "float16"],
    ["generate", "--model-name", "tacotron"],
    ["generate", "--tokenizer", "none"],
    ["generate", "--remove-long-sil", "perhaps"],
    ["generate", "--no-such-option"],
    ["generate", "--seed"],
    ["init", "--kind", "zipvoice"],
    ["convert"],
    ["bench"],
]


@pytest.mark.usefixtures("_sound_models")
@pytest.mark.parametrize("name", OPTIONS)
def test_option(name: str) -> None:
    argv, said = OPTIONS[name]
    status, out, err = run_main(*argv)
    one_line(status, err, said)
    assert out == "" and list(Path().iterdir()) == []


@pytest.mark.parametrize("argv", USAGE, ids=" ".join)
def test_usage(argv: list[str]) -> None:
    status, _, err = run_main(*argv)
    lines = err.splitlines()
    assert status == 2
    assert lines[0].startswith("usage: zipvoice-jax")
    assert "error: " in lines[-1] and err.count("error: ") == 1


def test_nothing_to_do_and_no_model() -> None:
    for argv, said in [
        (["generate"], "--test-list"),
        (["generate", "--text", "Hello."], "--prompt-wav"),
        (["generate", *say("Hello.")[3:]], "--model-dir"),
        (["generate", "--model-name", "zipvoice", *say("Hello.")[3:]], "place model.pt"),
    ]:
        status, _, err = run_main(*argv)
        one_line(status, err, said)


def test_the_process_ends_so_too(run_cli: RunCli, tmp_path: Path) -> None:
    content, said = AUDIO["wav_truncated"]
    (tmp_path / "x.wav").write_bytes(content)
    done = run_cli(*with_wav(tmp_path / "x.wav"))
    one_line(done.returncode, done.stderr, said)
    assert done.stdout == ""


# --- models and vocoders ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_model_or_vocoder(name: str, tmp_path: Path) -> None:
    make, said = MODELS[name]
    flags = make(tmp_path)
    argv = say("Hello.")
    if "--vocoder-path" not in flags:
        argv = [*argv[:1], *argv[3:]]
    status, _, err = run_main(*argv, *flags, "--res-wav-path", tmp_path / "a.wav")
    one_line(status, err, said)
    assert not (tmp_path / "a.wav").exists()


def test_there_are_many_cases() -> None:
    kinds = (AUDIO, PATHS, TEXTS, OPTIONS, USAGE, MODELS)
    assert sum(map(len, kinds)) >= 200
