"""Texts as `generate` and `prepare` take them: speaker tags, turns without a word, scripts."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from complaints import user_error
from generation import RELEASE, TEXT1, TEXT2, WAV1, WAV2
from preparing import TABLE, tsv

import zipvoice_jax
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.checks import Limits, Rejected, count_words
from zipvoice_jax.data.prepare_config import TokenizerSettings
from zipvoice_jax.data.prepare_shards import make_utterance
from zipvoice_jax.data.sources import CorpusItem, Source
from zipvoice_jax.data.utterance import Utterance
from zipvoice_jax.infer.prepare import Item
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.infer.synthesizer import Synthesizer
from zipvoice_jax.text.tokenizer import make_tokenizer
from zipvoice_jax.text.tokens import TokenTable


@pytest.fixture(scope="module")
def dialog() -> Synthesizer:
    return zipvoice_jax.load(RELEASE / "zipvoice_dialog", vocoder_path="griffin-lim")


@pytest.fixture(scope="module")
def single() -> Synthesizer:
    return zipvoice_jax.load(RELEASE / "zipvoice", vocoder_path="griffin-lim")


def made_ready(
    model: Synthesizer, text: str, transcripts: tuple[str, ...] = (), **options: Any
) -> Item:
    kind = model.config.kind
    two = model.config.is_dialog and len(transcripts) != 1
    transcripts = transcripts or ((TEXT1, TEXT2) if two else (TEXT1,))
    wavs = (WAV1, WAV2)[: len(transcripts)]
    prepare = model.preparation(SamplingConfig.for_kind(kind), **options)
    return prepare(Request("a", text, transcripts, wavs))


def spoken(item: Item) -> tuple[str, ...]:
    return tuple(token for job in item.jobs for token in job.tokens)


# Generation


@pytest.mark.parametrize(
    ("transcript", "seconds", "outcome"),
    [
        (TEXT1, 3.25, ""),
        (TEXT1 * 6, 3.25, "note"),
        (TEXT1 * 30, 3.25, "error"),
        ("Hi.", 6.5, "note"),
        ("Hi.", 40.0, "error"),
        ("他们昨天在公园里看见了一只小狗", 3.25, ""),
        ("他们昨天在公园里看见了一只小狗" * 4, 3.25, "note"),
        ("The code is 4 7 1 1.", 3.25, ""),
        ("4711", 3.25, ""),
    ],
)
def test_transcripts_that_cannot_belong_to_a_recording(
    single: Synthesizer, transcript: str, seconds: float, outcome: str, tmp_path: Path
) -> None:
    wave, rate = soundfile.read(WAV1)
    soundfile.write(tmp_path / "x.wav", np.resize(wave, round(seconds * rate)), rate)
    prepare = single.preparation(SamplingConfig.for_kind("zipvoice"))
    request = Request("a", "Yes.", (transcript,), (tmp_path / "x.wav",))
    if outcome == "error":
        with user_error(f"the transcript '{transcript[:9]}", "x.wav", "words a minute"):
            prepare(request)
        return
    notes = [note for note in prepare(request).notes if "words a minute" in note]
    assert len(notes) == (outcome == "note"), notes
    assert all(f"the transcript '{transcript[:9]}" in note for note in notes)


def test_words_are_counted_in_scripts_without_blanks() -> None:
    assert count_words("[S1] Good morning, 42. [S2] Yes.") == (5, 5.0)
    assert count_words("他们昨天") == (4, 4.0)
    least, most = count_words("สวัสดีครับผมชื่อสมชายและผมชอบดื่มกาแฟตอนเช้า")
    assert least == 1 and most > 4


@pytest.mark.parametrize(("name", "lang"), [("espeak", "de"), ("simple", "en-us")])
def test_dialogues_in_other_tokenizers(dialog: Synthesizer, name: str, lang: str) -> None:
    table = dialog.tokenizer.table
    tokenizer = make_tokenizer(name, table, lang=lang)
    prepare = dataclasses.replace(
        dialog.preparation(SamplingConfig.for_kind("zipvoice_dialog")), tokenizer=tokenizer
    )
    text = "[S1] guten morgen. [S2] ja."
    item = prepare(Request("a", text, ("hallo.", "danke."), (WAV1, WAV2)))
    assert spoken(item) == tokenizer.tokens(text)
    assert spoken(item)[0] == "[S1]" and "[S2]" in spoken(item)
    assert table is not None
    (job,) = item.jobs
    prompt = job.token_ids[: job.prompt_tokens]
    assert (prompt.count(table.spk_a_id), prompt.count(table.spk_b_id)) == (1, 1)


def test_each_recordings_share_of_the_prompt_is_known(dialog: Synthesizer, tmp_path: Path) -> None:
    wave, rate = soundfile.read(WAV1)
    quiet = np.zeros(rate)  # which counts for neither speech nor transcript
    soundfile.write(tmp_path / "1.wav", np.concatenate([quiet, wave]), rate)
    prepare = dialog.preparation(SamplingConfig.for_kind("zipvoice_dialog"))
    two = Request("a", "[S1] Yes.", (TEXT1, TEXT2), (tmp_path / "1.wav", WAV2))
    (job,) = prepare(two).jobs
    ((tokens, frames),) = job.prompt_parts
    assert job.token_ids[tokens] == dialog.config.spk_b_id and tokens < job.prompt_tokens
    assert frames == pytest.approx(len(wave) / rate * 24_000 / 256, abs=12)
    first, second = (soundfile.info(path).duration for path in (WAV1, WAV2))
    share = job.prompt_features.shape[0] * first / (first + second)
    assert frames == pytest.approx(share, rel=0.2)
    one = Request("a", "[S1] Yes.", (f"[S1] {TEXT1} [S2] {TEXT2}",), (WAV1,))
    assert prepare(one).jobs[0].prompt_parts == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[S1] Привет [S2] мир", "turn 1 of the text, '[S1] Привет'"),
        ("[S1] Hello there. [S2] <xx9>", "turn 2 of the text, '[S2] <xx9>.'"),
        ("[S1] Hello there. [S2] こんにちは [S1] ok", "turn 2 of the text, '[S2] こんにちは'"),
    ],
)
def test_a_turn_without_a_word_is_named(dialog: Synthesizer, text: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        made_ready(dialog, text)


def test_a_speaker_whom_the_prompt_lacks_is_named(dialog: Synthesizer) -> None:
    def notes(transcript: str) -> str:
        return " ".join(made_ready(dialog, "[S1] One. [S2] Two.", (transcript,)).notes)

    assert "the prompt has no [S2]: any voice may come" in notes("[S1] This is me alone.")
    assert "the prompt has no" not in notes("[S1] This is me. [S2] And I.")


@pytest.mark.parametrize(
    ("transcripts", "says"),
    [
        (("Привет", "Hello."), "turn 1 of the transcript, '[S1]Привет'"),
        (("Hello.", "مرحبا"), "turn 2 of the transcript, '[S2]مرحبا.'"),
        (("[S1] Hi. [S2] Привет.",), "turn 2 of the transcript"),
    ],
)
def test_a_transcript_without_a_word_is_named(
    dialog: Synthesizer, transcripts: tuple[str, ...], says: str
) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        made_ready(dialog, "[S1] One. [S2] Two.", transcripts)


def test_one_speaker_without_a_word(single: Synthesizer) -> None:
    for text in ("Привет!", "[laughter]", "[S1] ...", "(!)"):
        with pytest.raises(UserError, match=r"the text '.*(nothing|no words|token table)"):
            made_ready(single, text)
        with pytest.raises(UserError, match=r"the transcript '.*(nothing|no words|token table)"):
            made_ready(single, "Hello.", (text,))


def test_digits_alone_are_read_in_the_language_of_the_transcript(
    single: Synthesizer, dialog: Synthesizer
) -> None:
    english, chinese = (
        spoken(made_ready(single, "42", (transcript,))) for transcript in ("Hello.", "你好。")
    )
    assert english == single.tokenizer.tokens("forty-two.")
    assert chinese == single.tokenizer.tokens("四十二.")
    turns = spoken(made_ready(dialog, "[S1] 42 [S2] 43", ("你好", "再见")))
    assert turns == dialog.tokenizer.tokens("[S1]四十二[S2]四十三.")
    # As the official code takes it: a turn that says nothing.
    with pytest.raises(UserError, match="turn 1 of the text"):
        made_ready(dialog, "[S1] 42 [S2] 43", raw_evaluation=True)


def test_scripts_that_are_left_out_are_reported(single: Synthesizer) -> None:
    item = made_ready(single, "Hello Привет there.")
    assert spoken(item) == single.tokenizer.tokens("Hello there.")
    assert any("Привет" in note for note in item.notes)


def test_texts_are_repaired_unless_told_not_to(single: Synthesizer) -> None:
    text = "# Offer\n\n- **now** $2.5 million"
    official, repaired = (
        make_tokenizer("emilia", single.tokenizer.table, repair=on) for on in (False, True)
    )
    assert spoken(made_ready(single, text)) == repaired.tokens(
        "Offer. now two point five million dollars."
    )
    line = "# Offer - **now** $2.5 million"
    assert spoken(made_ready(single, text, text_repair=False)) == official.tokens(line + ".")
    assert spoken(made_ready(single, text, raw_evaluation=True)) == official.tokens(line)


# Preparation


def utterance(root: Path, text: str, settings: TokenizerSettings) -> Utterance:
    (item, *_) = next(iter(Source("tsv", tsv(root, 1, text=text)).units()))
    assert isinstance(item, CorpusItem)
    return make_utterance(item, settings, Limits())


@pytest.mark.parametrize(("name", "lang"), [("espeak", "de"), ("simple", "en-us")])
def test_prepare_keeps_speaker_tags_in_every_tokenizer(
    tmp_path: Path, name: str, lang: str
) -> None:
    settings = TokenizerSettings(name=name, lang=lang)
    stored = utterance(tmp_path, "[S1] Guten Morgen alle. [S2] Ja danke sehr.", settings)
    assert [t for t in stored.tokens if t.startswith("[")] == ["[S1]", "[S2]"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("espeak", "One two three [S1] four five.", "broken turn tags"),
        ("espeak", "[S1] One two three. [S2] Four [S 2] five.", "broken turn tags"),
        ("espeak", "[S1] One two three. [S2] Four [laughter] five.", "broken turn tags"),
        ("emilia", "One two three Привет four", "unknown tokens"),
        ("emilia", "One two three こんにちは four", "unknown tokens"),
        ("dialog", "[S1] 42 [S2] 43", "unknown tokens"),
        ("emilia", "[S1] One two three. [S2] …", "empty text"),
    ],
)
def test_prepare_leaves_out_what_it_cannot_say(
    tmp_path: Path, name: str, text: str, reason: str
) -> None:
    settings = TokenizerSettings(name=name, table=TokenTable.load(TABLE))
    with pytest.raises(Rejected) as caught:
        utterance(tmp_path, text, settings)
    assert caught.value.reason == reason


def test_prepare_repairs_only_if_asked(tmp_path: Path) -> None:
    text = "He paid $2.5 million for it."
    by_default = utterance(tmp_path / "a", text, TokenizerSettings(name="emilia"))
    asked = utterance(tmp_path / "b", text, TokenizerSettings(name="emilia", text_repair=True))
    assert by_default.tokens == make_tokenizer("emilia").tokens(text)
    assert asked.tokens == make_tokenizer("emilia").tokens(
        "He paid two point five million dollars for it."
    )
    assert by_default.text == asked.text == text
