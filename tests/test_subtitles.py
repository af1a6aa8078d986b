"""Subtitles of generated speech: their form, their times, and where they are cut."""

import itertools
from pathlib import Path

from generation import RELEASE, command, one_line, prompt_flags, run_main

from zipvoice_jax.infer.subtitles import subtitles
from zipvoice_jax.infer.turns import Turn

DIALOGUE = "[S1] Good morning. [S2] Hello, is it <late> & cold? [S2] Yes."
TURNS = (Turn("S1", 0.0, 1.25), Turn("S2", 1.25, 3661.5))


def test_each_turn_is_a_cue_with_its_speaker() -> None:
    assert subtitles(DIALOGUE, TURNS, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,250\nS1: Good morning.\n\n"
        "2\n00:00:01,250 --> 01:01:01,500\nS2: Hello, is it <late> & cold? Yes.\n"
    )
    assert subtitles(DIALOGUE, TURNS, "vtt") == (
        "WEBVTT\n\n"
        "1\n00:00:00.000 --> 00:00:01.250\n<v S1>Good morning.\n\n"
        "2\n00:00:01.250 --> 01:01:01.500\n<v S2>Hello, is it &lt;late&gt; &amp; cold? Yes.\n"
    )


def test_a_third_speaker_has_cues_too() -> None:
    turns = (Turn("S1", 0.0, 1.0), Turn("S3", 1.0, 2.0), Turn("S12", 2.0, 3.0))
    shown = subtitles("[S1] One. [S3] Two. [S12] Three.", turns, "srt").splitlines()[2::4]
    assert shown == ["S1: One.", "S3: Two.", "S12: Three."]


def test_long_turns_are_cut_where_people_breathe() -> None:
    first, second = "This sentence is a rather long one, I would say.", "And so is this other one."
    text = f"{first} {second}\nIt goes on, {'and on ' * 30}until it ends."
    cues = subtitles(text, (Turn("", 0.0, 30.0),), "srt").split("\n\n")
    shown = [cue.splitlines()[2] for cue in cues]
    assert shown[:2] == [first, second] and len(shown) > 4
    assert all(len(line) <= 84 for line in shown)
    assert " ".join(" ".join(shown).split()) == " ".join(text.split())
    times = [cue.splitlines()[1].split(" --> ") for cue in cues]
    assert times[0][0] == "00:00:00,000" and times[-1][1] == "00:00:30,000"
    assert all(one[1] == other[0] for one, other in itertools.pairwise(times))
    chinese = "今天天气很好我们去公园散步吧。" * 8
    shown = subtitles(chinese, (Turn("", 0.0, 9.0),), "srt").splitlines()[2::4]
    assert "".join(shown) == chinese and set(shown) == {"今天天气很好我们去公园散步吧。"}


def test_turns_that_cannot_be_told_apart_are_one_stretch() -> None:
    (cue,) = subtitles(DIALOGUE, TURNS[:1], "srt").split("\n\n")
    assert "00:00:00,000 --> 00:00:01,250" in cue and "Good morning. Hello" in cue
    assert subtitles(DIALOGUE, (), "srt") == ""


def test_subtitles_need_the_times_of_turns(tmp_path: Path) -> None:
    run = command(RELEASE / "zipvoice", *prompt_flags("zipvoice"), "--text", "Yes.")
    status, _, err = run_main(*run, "--subtitles", "srt", "--remove-long-sil")
    one_line(status, err, "--remove-long-sil")
