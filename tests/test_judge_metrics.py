"""Each metric moves as it must, on real speech with a recogniser that hears what it is told."""

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from complaints import message
from conftest import ROOT
from generation import run_main

from zipvoice_jax.infer.requests import Request
from zipvoice_jax.judge import judge as judge_module
from zipvoice_jax.judge import packages
from zipvoice_jax.judge.backends import RATE, SpeakerEncoder, Word
from zipvoice_jax.judge.config import JudgeConfig
from zipvoice_jax.judge.judge import Judge
from zipvoice_jax.judge.quality import open_quality_predictor
from zipvoice_jax.judge.speakers import open_speaker_encoder
from zipvoice_jax.judge.summary import summarise

CORPUS = runpy.run_path(str(ROOT / "data" / "demo" / "make_corpus.py"))
CLIPS = CORPUS["read_clips"](CORPUS["CORPUS"])
# Of either voice, the one with most to hear first: that is the prompt.
HERS, HIS = (
    sorted(
        (clip for clip in CLIPS if clip.id.startswith(voice)),
        key=lambda clip: -soundfile.info(str(clip.path)).frames,
    )[:5]
    for voice in ("allison", "librivox")
)
TURNS = (HERS[1], HIS[4], HERS[2], HIS[3])
TEXT = " ".join(f"[S{1 + i % 2}] {clip.text}" for i, clip in enumerate(TURNS))


class FakeRecogniser:
    """A recogniser that hears what it is told, one thing after another, and the last again."""

    english_only = False

    def __init__(self, *answers: Sequence[Word], tags: bool = False) -> None:
        self.description = {"name": "told", "library": "", "weights": "", "options": ""}
        self._answers, self.writes_tags = list(answers), tags

    def words(self, wave: np.ndarray, language: str) -> Sequence[Word]:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


class Remembering:
    """A speaker encoder that hears everything once."""

    def __init__(self, encoder: SpeakerEncoder) -> None:
        self.description, self._encoder = encoder.description, encoder
        self._known: dict[bytes, np.ndarray] = {}

    def embed(self, wave: np.ndarray) -> np.ndarray:
        key = wave.tobytes()
        if key not in self._known:
            self._known[key] = self._encoder.embed(wave)
        return self._known[key]


@pytest.fixture(scope="module")
def encoder() -> SpeakerEncoder:
    packages.fetch("resemblyzer")
    return Remembering(open_speaker_encoder("resemblyzer"))


def read(clip: Any) -> np.ndarray:
    return soundfile.read(clip.path, dtype="float32")[0]


def raised(clip: Any) -> np.ndarray:
    """A clip as if by another speaker."""
    return soxr.resample(read(clip), 1.35, 1.0)


def dialogue(pause: float) -> tuple[np.ndarray, list[Word]]:
    """The turns with so many seconds between them (below 0: overlaps) as (2, samples), words."""
    length = sum(len(read(clip)) for clip in TURNS) + round(3 * RATE * max(pause, 0.0))
    stereo, words, begin = np.zeros((2, length), np.float32), [], 0
    for i, clip in enumerate(TURNS):
        wave = read(clip)
        stereo[i % 2, begin : begin + len(wave)] += wave
        parts = clip.text.split()
        times = (begin + np.linspace(0, len(wave), len(parts) + 1)) / RATE
        words += [Word(f" {p}", *pair) for p, *pair in zip(parts, times, times[1:], strict=False)]
        begin += len(wave) + round(pause * RATE)
    return stereo[:, : begin - round(pause * RATE)], words


def judged(
    folder: Path,
    wave: np.ndarray,
    metrics: str,
    *,
    text: str = TEXT,
    prompts: Sequence[Any] = (HERS[0], HIS[0]),
    recogniser: Any = None,
    encoder: Any = None,
    predictor: Any = None,
    made: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The record of one recording, with ratios of its metrics as numbers."""
    path = folder / "item.wav"
    soundfile.write(path, wave.T, RATE)
    config = JudgeConfig(metrics=tuple(metrics.split()), **settings)
    paths = tuple(prompt if isinstance(prompt, Path) else prompt.path for prompt in prompts)
    request = Request("item", text, ("a prompt",) * len(paths), paths)
    judge = Judge(config, recogniser, encoder, predictor)
    record = judge.judge(request, path, made or {})
    return record | {name: a / b for name, (a, b) in record["metrics"].items()}


def test_another_voice_is_less_alike(tmp_path: Path, encoder: SpeakerEncoder) -> None:
    her = read(HERS[1])
    sim = [
        judged(tmp_path, her, "sim", text="Yes.", prompts=[prompt], encoder=encoder)["sim"]
        for prompt in (HERS[0], HIS[0])
    ]
    assert sim[0] > sim[1] + 0.2
    stereo, words = dialogue(0.4)
    cpsim = [
        judged(tmp_path, stereo.sum(axis=0), "cpsim", prompts=prompts, encoder=encoder,
               recogniser=FakeRecogniser(words))["cpsim"]
        for prompts in ((HERS[0], HIS[0]), (HIS[0], HERS[0]), (HERS[0], HERS[3]))
    ]  # fmt: skip
    assert cpsim[0] == pytest.approx(cpsim[1])  # labels of speakers mean nothing
    assert cpsim[0] > cpsim[2] + 0.1
    # Only one speaks: the other is like nobody.
    alone = judged(
        tmp_path,
        her,
        "cpsim",
        encoder=encoder,
        recogniser=FakeRecogniser([Word(" hello", 0.1, 3.0)]),
    )
    assert 0.3 < alone["cpsim"] < 0.5


def test_turns_are_held_to_the_prompts_of_their_speakers(
    tmp_path: Path, encoder: SpeakerEncoder
) -> None:
    waves = [read(clip) for clip in TURNS]
    ends = np.cumsum([len(wave) for wave in waves]) / RATE
    turns = [
        {"speaker": f"S{1 + i % 2}", "start": float(end) - len(wave) / RATE, "end": float(end)}
        for i, (end, wave) in enumerate(zip(ends, waves, strict=True))
    ]
    mono = np.concatenate(waves)
    found = [
        judged(tmp_path, mono, "voices", prompts=prompts, encoder=encoder, made={"turns": turns})
        for prompts in ((HERS[0], HIS[0]), (HIS[0], HERS[0]))
    ]
    assert [record["voices"] for record in found] == [1.0, 0.0]
    # The first turn in the other's voice is one of four.
    swapped = np.concatenate([read(HIS[1])[: len(waves[0])], *waves[1:]])
    shift = (len(waves[0]) - len(swapped) + len(np.concatenate(waves[1:]))) / RATE
    moved = [{**t, "start": t["start"] - shift, "end": t["end"] - shift} for t in turns]
    moved[0]["start"] = 0.0
    one = judged(tmp_path, swapped, "voices", encoder=encoder, made={"turns": moved})
    assert one["voices"] == 0.75
    assert "voices" not in judged(tmp_path, mono, "voices", encoder=encoder)


def test_noise_lowers_the_predicted_opinion(tmp_path: Path) -> None:
    packages.fetch("dnsmos")
    predictor = open_quality_predictor("dnsmos")
    wave = read(HERS[0])
    noise = np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)

    def mos(wave: np.ndarray) -> float:
        return judged(tmp_path, wave, "mos", predictor=predictor)["mos"]

    assert mos(wave) > mos(wave + 0.02 * noise) + 0.3
    # Of two channels the mix is heard, not the silence of whoever listens.
    stereo = np.stack([wave, 0.0 * wave])
    assert mos(stereo) == pytest.approx(mos(0.5 * wave), abs=1e-2)


def test_rate_and_pauses_follow_what_was_done(tmp_path: Path) -> None:
    first, second = read(HERS[1]), read(HERS[2])

    def times(wave: np.ndarray) -> dict[str, Any]:
        return judged(tmp_path, wave, "rate silence", text="one two three four five six")

    fast = soxr.resample(first, 5 * RATE, 4 * RATE)
    assert times(fast)["rate"] == pytest.approx(1.25 * times(first)["rate"], rel=0.05)
    found = [
        times(np.concatenate([first, np.zeros(round(s * RATE), np.float32), second]))
        for s in (0.5, 2.0)
    ]
    silence = [record["metrics"]["silence"][0] for record in found]
    assert silence[1] - silence[0] == pytest.approx(1.5, abs=0.1)
    assert found[1]["silence"] > found[0]["silence"]
    longest = [record["longest_pause"] for record in found]
    assert longest[1] - longest[0] == pytest.approx(1.5, abs=0.1)
    assert found[1]["pause"] > found[0]["pause"]


def test_gaps_and_overlaps_are_those_that_were_made(
    tmp_path: Path, encoder: SpeakerEncoder
) -> None:
    narrow, wide, over = (
        judged(
            tmp_path, dialogue(pause)[0], "turns", encoder=encoder, recogniser=FakeRecogniser([])
        )
        for pause in (0.4, 0.9, -0.8)
    )
    assert narrow["turns"] == wide["turns"] == over["turns"] == 1.0
    assert wide["gap"] - narrow["gap"] == pytest.approx(0.5, abs=0.05)
    assert narrow["overlaps"] == 0.0 and over["overlaps"] == 1.0 and "gap" not in over
    # Clips begin and end with some silence, which is in both.
    assert over["overlap"] + narrow["gap"] == pytest.approx(1.2, abs=0.05)
    stereo, words = dialogue(0.4)
    mixed = judged(
        tmp_path, stereo.sum(axis=0), "turns", encoder=encoder, recogniser=FakeRecogniser(words)
    )
    assert mixed["turns"] == 1.0 and mixed["gap"] == pytest.approx(0.4, abs=0.02)
    assert "overlaps" not in mixed  # one word after another cannot overlap


def test_leakage_is_that_which_was_mixed_in(tmp_path: Path) -> None:
    # Where turns overlap, some of that is too faint to be found as speech of both.
    for pause, nothing, slack in ((0.4, -99.0, 0.1), (-0.8, -40.0, 1.0)):
        clean, _ = dialogue(pause)
        assert judged(tmp_path, clean, "leakage")["leakage"] < nothing
        leaky = judged(tmp_path, clean + 0.5 * clean[::-1], "leakage")
        assert leaky["leakage"] == pytest.approx(-6.0, abs=slack)
        same = judged(tmp_path, np.tile(clean.sum(axis=0), (2, 1)), "leakage")
        assert same["leakage"] == 0.0


def test_speakers_are_told_apart_by_prompts(tmp_path: Path, encoder: SpeakerEncoder) -> None:
    stereo, words = dialogue(0.4)
    for prompts, label in (((HERS[0], HIS[0]), "S1"), ((HIS[0], HERS[0]), "S2")):
        found = judged(
            tmp_path, stereo.sum(axis=0), "cpwer", prompts=prompts, attribution="prompt",
            encoder=encoder, recogniser=FakeRecogniser(words),
        )  # fmt: skip
        assert found["attribution"] == {"words": "prompt", "voices": "prompt"}
        assert found["cpwer"] == 0.0 and found["speakers"]["S1"]["label"] == label


def test_speakers_are_told_apart_by_tags(tmp_path: Path, encoder: SpeakerEncoder) -> None:
    mono = dialogue(0.4)[0].sum(axis=0)
    seconds = len(mono) / RATE
    turns = TEXT.split(" [S2] ")
    crossed = " [S1] ".join(turns[:2]) + f" [S2] {turns[2]}"
    right, wrong, three = (
        judged(
            tmp_path, mono, "wer cpwer turns", attribution="tags", encoder=encoder,
            recogniser=FakeRecogniser([Word(text, 0.0, seconds)], tags=True),
        )
        for text in (TEXT, crossed, TEXT.replace("[S2]", "[S3]"))
    )  # fmt: skip
    assert right["attribution"] == {"words": "tags", "voices": "cluster"}
    assert right["wer"] == right["cpwer"] == wrong["wer"] == 0.0
    assert wrong["cpwer"] > 0.3 and right["turns"] == 1.0
    assert three["cpwer"] == 0.0  # whatever the second one is called


def test_three_speakers_are_judged_as_two_are(tmp_path: Path, encoder: SpeakerEncoder) -> None:
    # The third one is his voice, higher and faster.
    turns = [(0, read(HERS[1]), HERS[1]), (1, read(HIS[4]), HIS[4]), (2, raised(HIS[1]), HIS[1]),
             (0, read(HERS[2]), HERS[2]), (2, raised(HIS[2]), HIS[2])]  # fmt: skip
    waves, words, spans, end = [], [], [], 0.0
    for speaker, wave, clip in turns:
        parts, seconds = clip.text.split(), len(wave) / RATE
        times = end + np.linspace(0.0, seconds, len(parts) + 1)
        words += [Word(f" {p}", *pair) for p, *pair in zip(parts, times, times[1:], strict=False)]
        spans.append({"speaker": f"S{speaker + 1}", "start": end, "end": end + seconds})
        waves += [wave, np.zeros(round(0.4 * RATE), np.float32)]
        end += seconds + 0.4
    mono = np.concatenate(waves)
    text = " ".join(f"[S{speaker + 1}] {clip.text}" for speaker, _, clip in turns)
    high = tmp_path / "high.wav"
    soundfile.write(high, raised(HIS[0]), RATE)

    def found(wave: np.ndarray = mono, **more: Any) -> dict[str, Any]:
        return judged(
            tmp_path, wave, "cpwer cpsim turns voices", text=text, encoder=encoder,
            recogniser=FakeRecogniser(words), made={"turns": spans},
            **{"prompts": (HERS[0], HIS[0], high), **more},
        )  # fmt: skip

    for how in ("auto", "prompt"):
        right = found(attribution=how)
        assert right["cpwer"] == 0.0 and right["turns"] == 1.0 and right["cpsim"] > 0.8
        assert right["voices"] == 1.0 and list(right["speakers"]) == ["S1", "S2", "S3"]
    assert right["attribution"]["voices"] == "prompt"
    wrong = found(attribution="prompt", prompts=(HERS[0], high, HIS[0]))
    assert wrong["cpwer"] == 0.0 and wrong["voices"] == 0.4
    both = np.stack([mono, mono])  # two channels say nothing of three speakers
    assert found(both)["attribution"] == {"words": "cluster", "voices": "cluster"}
    assert "two channels for 3 speakers" in message(found, both, attribution="channel")


def test_only_those_who_speak_are_looked_for(tmp_path: Path, encoder: SpeakerEncoder) -> None:
    # One of the two whose prompts there are, in two phrases.
    mono = np.concatenate([read(HERS[1]), np.zeros(RATE, np.float32), read(HERS[2])])
    first, second = len(read(HERS[1])) / RATE, len(mono) / RATE
    begin = first + 1.0
    words = [Word(f" {HERS[1].text}.", 0.1, first), Word(f" {HERS[2].text}", begin, second)]
    found = judged(
        tmp_path, mono, "cpwer cpsim", text=f"[S1] {HERS[1].text} {HERS[2].text}",
        encoder=encoder, recogniser=FakeRecogniser(words),
    )  # fmt: skip
    assert found["cpwer"] == 0.0 and found["cpsim"] > 0.8
    stereo = np.stack([mono, np.zeros_like(mono)])  # where they have a channel, as ever
    alone = judged(
        tmp_path, stereo, "cpwer", text=f"[S1] {HERS[1].text} {HERS[2].text}",
        encoder=encoder, recogniser=FakeRecogniser(words, words, []),
    )  # fmt: skip
    assert alone["attribution"]["words"] == "channel" and alone["cpwer"] == 0.0


def test_voices_of_one_prompt_are_named_by_its_tags(
    tmp_path: Path, encoder: SpeakerEncoder
) -> None:
    merged = tmp_path / "merged.wav"
    both = np.concatenate([read(HIS[0]), np.zeros(RATE, np.float32), read(HERS[0])])
    soundfile.write(merged, both, RATE)
    border = len(read(HIS[0])) / RATE
    heard = [Word(" he.", 0.1, border), Word(" she", border + 1.0, len(both) / RATE)]
    her = read(HERS[1])
    path = tmp_path / "item.wav"
    soundfile.write(path, her, RATE)
    judge = Judge(JudgeConfig(metrics=("voices",)), FakeRecogniser(heard), encoder, None)
    turns = {"turns": [{"speaker": "S1", "start": 0.0, "end": len(her) / RATE}]}
    for transcript, wanted in (("[S2] He. [S1] She.", 1.0), ("[S1] He. [S2] She.", 0.0)):
        request = Request("item", "[S1] Yes. [S2] No.", (transcript,), (merged,))
        assert judge.judge(request, path, turns)["metrics"]["voices"] == [wanted, 1.0]


def test_speakers_who_cannot_be_told_apart_are_an_error(
    tmp_path: Path, encoder: SpeakerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stereo, words = dialogue(0.4)
    mono = stereo.sum(axis=0)

    def said(recogniser: FakeRecogniser, how: str, **more: Any) -> str:
        return message(
            judged, tmp_path, mono, "cpwer", attribution=how, encoder=encoder,
            recogniser=recogniser, **more,
        )  # fmt: skip

    assert "one channel" in said(FakeRecogniser(words), "channel")
    one_phrase = FakeRecogniser(words, [Word(" hello", 0.2, 2.0)])
    assert "cannot be told apart" in said(one_phrase, "prompt", prompts=[HERS[0]])
    other = FakeRecogniser(words)
    monkeypatch.setattr(judge_module, "open_recogniser", lambda name: other)
    monkeypatch.setattr(judge_module, "check_fetched", lambda names: None)
    assert "writes no tags" in message(Judge.open, JudgeConfig(attribution="tags"))
    other.english_only = True
    assert "English only" in message(Judge.open, JudgeConfig(language="zh"))


def test_words_without_times_are_given_to_nobody(tmp_path: Path, encoder: SpeakerEncoder) -> None:
    mono = dialogue(0.4)[0].sum(axis=0)
    for how in ("cluster", "prompt"):
        found = judged(
            tmp_path, mono, "wer cpwer cpsim turns", attribution=how, encoder=encoder,
            recogniser=FakeRecogniser([Word(TEXT, 0.0, len(mono) / RATE)]),
        )  # fmt: skip
        assert found["attribution"] == {"words": "nothing", "voices": how}
        assert "cpwer" not in found["metrics"] and "speakers" not in found
        assert found["wer"] == 0.0 and found["turns"] == 1.0 and found["cpsim"] > 0.8


def test_a_merged_prompt_is_parted_by_voice_without_times(
    tmp_path: Path, encoder: SpeakerEncoder
) -> None:
    mono = dialogue(0.4)[0].sum(axis=0)
    merged = tmp_path / "merged.wav"
    soundfile.write(merged, np.concatenate([read(HERS[0]), read(HIS[0])]), RATE)
    whole = [Word("[S1] a [S2] b", 0.0, 1000.0)]
    found = judged(
        tmp_path, mono, "cpsim", prompts=[merged], attribution="tags", encoder=encoder,
        recogniser=FakeRecogniser(whole, tags=True),
    )  # fmt: skip
    assert found["cpsim"] > 0.8


def test_silence_has_no_turns_and_no_voices(tmp_path: Path, encoder: SpeakerEncoder) -> None:
    found = judged(
        tmp_path, np.zeros(2 * RATE, np.float32), "wer cpwer cpsim turns silence leakage rate",
        encoder=encoder, recogniser=FakeRecogniser([]),
    )  # fmt: skip
    assert found["metrics"]["turns"] == [0, 4]
    assert found["wer"] == found["cpwer"] == found["silence"] == 1.0 and found["cpsim"] == 0.0
    assert not {"gap", "rate", "leakage"} & set(found["metrics"])


def test_long_dialogues_are_told_apart_from_short_ones(
    tmp_path: Path, encoder: SpeakerEncoder
) -> None:
    stereo, words = dialogue(0.4)
    mono = stereo.sum(axis=0)
    long = np.pad(mono, (0, 31 * RATE - len(mono)))
    records = [
        judged(tmp_path, wave, "cpwer", encoder=encoder, recogniser=FakeRecogniser(heard))
        for wave, heard in ((mono, words), (long, words[:-2]))
    ]
    found = summarise([record | {"id": str(i)} for i, record in enumerate(records)])
    assert found["cpwer_short"].value == 0.0 and found["cpwer_long"].value > 3.0
    assert found["cpwer"].value == pytest.approx(found["cpwer_long"].value / 2)
    whole = FakeRecogniser([Word(TEXT, 0.0, 31.0)], tags=True)
    tagged = judged(tmp_path, long, "cpwer", attribution="tags", encoder=encoder, recogniser=whole)
    assert "cpwer" not in tagged["metrics"]  # tags mean nothing from one window to the next


def test_chinese_is_counted_by_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: SpeakerEncoder
) -> None:
    words = [Word("今天", 0.2, 0.6), Word("天汽很好。", 0.6, 1.5), Word("是", 2.5, 2.8)]
    words += [Word("嗎", 2.8, 3.0), Word(" OK", 3.0, 3.4)]
    monkeypatch.setattr(judge_module, "open_recogniser", lambda name: FakeRecogniser(words))
    monkeypatch.setattr(judge_module, "open_speaker_encoder", lambda name: encoder)
    soundfile.write(tmp_path / "item.wav", dialogue(0.4)[0].sum(axis=0), RATE)
    row = ["item", "a", "b", str(HERS[0].path), str(HIS[0].path)]
    row.append("[S1] 今天天气很好。[S2] 是吗,OK?")
    (tmp_path / "list.tsv").write_text("\t".join(row) + "\n", encoding="utf-8")
    status, _, err = run_main(
        "evaluate", "--test-list", tmp_path / "list.tsv", "--wav-dir", tmp_path,
        "--to", tmp_path / "report", "--language", "zh", "--metrics", "wer", "cpwer", "rate",
    )  # fmt: skip
    assert status == 0, err
    (line,) = (tmp_path / "report" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert record["metrics"]["wer"] == [1, 9]  # 8 characters and a word
    assert record["metrics"]["cpwer"] == [1, 9]
    assert ["substitute", "气", "汽"] in record["alignment"]
    assert record["metrics"]["rate"][0] == 9
    summary = json.loads((tmp_path / "report" / "summary.json").read_text(encoding="utf-8"))
    assert {"zhconv", "whisper-normalizer", "jiwer"} <= set(summary["judge"]["libraries"])
