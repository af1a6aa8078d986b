"""Dialogues of more than two: tags, prompts, lists, tracks, and models grown from those of two."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from complaints import user_error
from fakes import Tone, fake_models
from generation import (
    RELEASE,
    TEXT1,
    TEXT2,
    WAV1,
    WAV2,
    command,
    made,
    one_line,
    read_wav,
    run_main,
    write_list,
)
from training import TOKENS, write_config

from zipvoice_jax.checkpoint.growth import dialog_table, grow_vocabulary
from zipvoice_jax.checkpoint.hub import load_model
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.checkpoint.mapping import check_params
from zipvoice_jax.checkpoint.native import read_native
from zipvoice_jax.config import ModelConfig, SamplingConfig
from zipvoice_jax.data.checks import Rejected, check_text, count_turns
from zipvoice_jax.infer.requests import Request, read_requests
from zipvoice_jax.infer.synthesizer import Synthesizer
from zipvoice_jax.infer.tracks import speakers_of
from zipvoice_jax.models.zipvoice import bound, init_params
from zipvoice_jax.text.chunking import validate_dialog
from zipvoice_jax.text.repair import repair
from zipvoice_jax.text.tokenizer import make_tokenizer
from zipvoice_jax.text.tokens import TokenTable
from zipvoice_jax.train.load import load_config
from zipvoice_jax.train.stages import grown, plan_stage

PANEL = "[S1] Good morning. [S3] Hello, you two. [S2] Yes. [S4] No. [S3] Never."
FOUR: dict[str, Any] = dict(
    prompt_wav=[WAV1, WAV2, WAV1, WAV2], prompt_text=[TEXT1, TEXT2, TEXT1, TEXT2]
)


def panel(speakers: int = 4) -> Loaded:
    """The small released model of two speakers, grown to more."""
    loaded = load_model(model_dir=RELEASE / "zipvoice_dialog")
    table = dialog_table(loaded.table, speakers)
    params, config = grow_vocabulary(
        loaded.params, loaded.config, old_table=loaded.table, new_table=table,
        key=jax.random.key(0),
    )  # fmt: skip
    return Loaded(config, loaded.features, table, params)


def test_a_table_says_who_may_speak() -> None:
    table = dialog_table(TokenTable.load(TOKENS), 4)
    assert table.tokens[-2:] == ("[S3]", "[S4]") and len(table.speaker_ids) == 4
    # Without [S3] there is no third speaker, whatever else there is.
    gap = TokenTable((*TokenTable.load(TOKENS).tokens, "[S4]"))
    assert len(gap.speaker_ids) == 2
    tokens = make_tokenizer("dialog", table).tokens(PANEL)
    assert [t for t in tokens if t.startswith("[")] == ["[S1]", "[S3]", "[S2]", "[S4]", "[S3]"]
    with user_error("[S3]", "write [S1] or [S2]"):
        make_tokenizer("dialog", TokenTable.load(TOKENS)).tokens(PANEL)
    validate_dialog(PANEL, 4)
    with user_error("'[S4]'", "write [S1] to [S3]"):
        validate_dialog(PANEL, 3)
    for wrong in ("[S0] No.", "[S 3] No.", "[S03] No.", "[S100] No."):
        with user_error("write [S1] to [S4]"):
            validate_dialog(f"[S1] Yes. {wrong}", 4)
    check_text(PANEL, dialogue=True, speakers=4)
    assert count_turns(PANEL) == 5 and speakers_of(PANEL) == 4 and speakers_of("[S1] Yes.") == 2
    with pytest.raises(Rejected, match=r"\[S3\]"):
        check_text(PANEL, dialogue=True)


def test_texts_of_a_third_speaker_are_repaired_like_those_of_the_second() -> None:
    for text in (
        "[S1] # News\n[S2] - Milk\n[S2](https://a.b/c) yes",
        "[S1] Yes. [S2] > It is 5 °C.",
    ):
        third = repair(text.replace("[S2]", "[S3]"), ("en",))
        assert third == repair(text, ("en",)).replace("[S2]", "[S3]")


def test_a_grown_model_says_the_same_of_two_speakers() -> None:
    two, four = load_model(model_dir=RELEASE / "zipvoice_dialog"), panel()
    assert four.config.num_speakers == 4
    assert four.params["spk_embed"]["embedding"].shape[0] == 4
    old = two.params["spk_embed"]["embedding"]
    np.testing.assert_array_equal(four.params["spk_embed"]["embedding"][:2], old)
    ids = two.config.spk_a_id, 3, 4, two.config.spk_b_id, 5, two.config.pad_id
    tokens, lens = jnp.asarray([ids]), jnp.asarray([5])
    before, after = (bound(m.params, m.config).text_embed(tokens, lens) for m in (two, four))
    np.testing.assert_array_equal(before, after)
    third = tokens.at[0, 3].set(four.config.more_speaker_ids[0])
    embed = bound(four.params, four.config).text_embed(third, lens)
    added = four.params["spk_embed"]["embedding"][[1, 1, 1, 2, 2]]
    silent = dict(four.params) | {"spk_embed": {"embedding": np.zeros((4, added.shape[1]))}}
    plain = bound(silent, four.config).text_embed(third, lens)
    np.testing.assert_allclose((embed - plain)[0, :5], added, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "zipvoice_dialog_stereo"}, "'zipvoice_dialog_stereo' is for two speakers"),
        ({"speaker_turns": "official"}, "speaker_turns 'official' is for two"),
        ({"speaker_prompts": "own"}, "speaker_prompts 'own' is for two"),
        ({"more_speaker_ids": (5, 5)}, "must differ"),
    ],
)
def test_what_two_speakers_alone_can_have(settings: dict[str, Any], words: str) -> None:
    with user_error(words):
        ModelConfig(**{"more_speaker_ids": (5, 6), **settings})


def test_four_speak_in_turn_and_get_a_track_each(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_models(monkeypatch)
    speech = Synthesizer(panel(), vocoder=Tone()).generate(PANEL, **FOUR)
    assert [turn.speaker for turn in speech.turns] == ["S1", "S3", "S2", "S4", "S3"]
    tracks = speech.tracks()
    assert len(tracks) == 4 and all(np.abs(track).max() > 0 for track in tracks)
    np.testing.assert_allclose(np.sum(tracks, axis=0), speech.wave, atol=1e-6)


def test_each_of_four_recordings_keeps_its_own_part_of_the_prompt() -> None:
    four = Synthesizer(panel(), vocoder=Tone())
    prepare = four.preparation(SamplingConfig.for_kind("zipvoice_dialog"))
    prompts = ((TEXT1, TEXT2, TEXT1, TEXT2), (WAV1, WAV2, WAV1, WAV2))
    (job,) = prepare(Request("a", "[S1] Yes.", *prompts)).jobs
    tags = four.config.speaker_ids[1:]
    assert [job.token_ids[tokens] for tokens, _ in job.prompt_parts] == list(tags)
    frames = [0, *(frames for _, frames in job.prompt_parts), job.prompt_features.shape[0]]
    lasts = np.diff(frames)  # the last has the silence at the end besides
    assert lasts[0] == pytest.approx(lasts[2], abs=1) and (lasts > 50).all()
    assert lasts[1] == pytest.approx(lasts[3], abs=25)
    three = Request("a", "[S1] Yes.", *(one[:3] for one in prompts))
    assert [job.token_ids[tokens] for tokens, _ in prepare(three).jobs[0].prompt_parts] == [
        *tags[:2]
    ]


def test_prompts_and_turns_have_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_models(monkeypatch)
    four = Synthesizer(panel(), vocoder=Tone())
    pair = {name: value[:2] for name, value in FOUR.items()}
    with user_error("has the speaker [S3], but there are 2 prompts"):
        four.generate(PANEL, **pair)
    assert four.generate("[S1] Yes. [S2] No.", **pair).speakers == 2
    three = Synthesizer(panel(3), vocoder=Tone())
    with user_error("4 prompts", "knows 3 speakers"):
        three.generate("[S1] Yes.", **FOUR)


def test_lists_and_commands_take_a_prompt_per_speaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(
        "convert", "--from", RELEASE / "zipvoice_dialog", "--to", tmp_path / "panel",
        "--speakers", "4", "--format", "native",
    )  # fmt: skip
    assert read_native(tmp_path / "panel").config.num_speakers == 4
    status, _, err = run_main(
        "convert", "--from", tmp_path / "panel", "--to", tmp_path / "official", "--format", "pt"
    )
    one_line(status, err, "no model of 4 speakers")
    status, _, err = run_main(
        "convert", "--from", RELEASE / "zipvoice_dialog", "--to", tmp_path / "x", "--speakers", "1"
    )
    one_line(status, err, "--speakers is 1")
    row = ("talk", *FOUR["prompt_text"], *map(str, FOUR["prompt_wav"]), PANEL)
    listed = write_list(tmp_path / "list.tsv", [row, ("odd", "a", "b", "c", "d", "e", "f")])
    good, bad = read_requests(listed)
    assert len(good.prompt_wavs) == 4 and "2 more for each further speaker" in bad.error
    fake_models(monkeypatch)
    run = command(tmp_path / "panel", "--tracks", "--res-wav-path", tmp_path / "x.wav")
    prompts = ["--prompt-wav", *FOUR["prompt_wav"], "--prompt-text", *FOUR["prompt_text"]]
    made(*run, *prompts, "--text", PANEL)
    whole = read_wav(tmp_path / "x.wav")
    tracks = [read_wav(tmp_path / f"x.s{number}.wav") for number in (1, 2, 3, 4)]
    np.testing.assert_allclose(np.sum(tracks, axis=0), whole, atol=2)


def test_a_stage_of_four_speakers_starts_from_a_model_of_one_or_two(tmp_path: Path) -> None:
    table = dialog_table(TokenTable.load(TOKENS), 4)
    (tmp_path / "four.txt").write_text(table.dumps(), encoding="utf-8")
    settings = [f"data={tmp_path}", "stages.two.speaker_std=0.5"]
    four = f"stages.two.tokens={tmp_path / 'four.txt'}"
    run = load_config(write_config(tmp_path), [*settings, four])
    one, two = plan_stage(run, 0), plan_stage(run, 1)
    assert (one.config.num_speakers, two.config.num_speakers) == (1, 4)
    params = jax.device_get(init_params(one.config, jax.random.key(0)))
    before = Loaded(one.config, run.features, one.table, params)
    made = grown(before, two, jax.random.key(1))
    check_params(made, two.config, source="the grown model")
    rows = made["spk_embed"]["embedding"]
    assert rows.shape[0] == 4 and 0.3 < float(np.std(rows)) < 0.7
    pair = load_config(write_config(tmp_path), settings)
    of_two = plan_stage(pair, 1)
    known = grown(before, of_two, jax.random.key(1))
    again = grown(Loaded(of_two.config, run.features, of_two.table, known), two, jax.random.key(2))
    np.testing.assert_array_equal(again["spk_embed"]["embedding"][:2], rows[:2])
