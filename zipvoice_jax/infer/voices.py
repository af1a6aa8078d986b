"""Makes voices, with the same checks as for prompts."""

from pathlib import Path

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.audio.ops import check_prompt, prompt_doubts, remove_silence
from zipvoice_jax.audio.recording import RecordingLike, recordings
from zipvoice_jax.audio.voice import Voice
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.prepare import MAX_PROMPT_SECONDS, check_speaking_rate
from zipvoice_jax.text.pauses import check_no_pause


def make_voice(
    prompt_wav: RecordingLike, prompt_text: str, sampling_rate: int
) -> tuple[Voice, tuple[str, ...]]:
    """Makes a voice of a recording; also returns notes for the user.

    Args:
        prompt_wav: the recording: a path, an open file, or (array, rate).
        prompt_text: what it says; with both tags if it is a dialogue.
        sampling_rate: rate of the model's features, Hz.

    Raises:
        UserError: the recording or its transcript cannot be used as a prompt.
    """
    sources = recordings(prompt_wav)
    if len(sources) != 1:
        raise UserError(f"a voice is of one recording, not {len(sources)}; make one for each.")
    (source,) = sources
    if not prompt_text.strip():
        raise UserError(f"the transcript of {source} is empty; write what the recording says.")
    check_no_pause(prompt_text, f"the transcript of {source}")
    if isinstance(source, Voice):
        raise UserError(f"{source} is a voice already; give a recording.")
    name = str(source)
    wave = read_audio(source, sampling_rate, max_duration=MAX_PROMPT_SECONDS)
    check_prompt(wave, name, sampling_rate)
    notes = prompt_doubts(wave, name, mixed=True)
    seconds = remove_silence(wave, sampling_rate).shape[1] / sampling_rate
    check_speaking_rate(prompt_text, Path(name), seconds, notes)
    return Voice(wave, sampling_rate, prompt_text.strip()), tuple(notes)
