"""Voices in requests: one file instead of a recording and its transcript."""

import dataclasses
from collections.abc import Sequence

from zipvoice_jax.audio.voice import Voice, is_voice
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.text.normalizer import single_line
from zipvoice_jax.text.tokens import quote


def transcripts_for(sources: Sequence[object], transcripts: Sequence[str]) -> tuple[str, ...]:
    """One transcript for each prompt; "" for voices, which have their own.

    Args:
        sources: the prompts.
        transcripts: transcripts of all prompts, or only of those that are not voices.
    """
    silent = [not is_voice(source) for source in sources]
    if len(transcripts) == len(sources) or len(transcripts) != sum(silent):
        return tuple(transcripts)
    rest = iter(transcripts)
    return tuple(next(rest) if needs else "" for needs in silent)


def with_voices(request: Request, sampling_rate: int) -> Request:
    """The request with its voices loaded and their transcripts filled in.

    Args:
        request: a request, with or without voices.
        sampling_rate: rate of the model's features, Hz.

    Raises:
        UserError: a voice cannot be read, is for another model, or is contradicted by a transcript.
    """
    sources = request.contents or request.prompt_wavs
    if not any(map(is_voice, sources)):
        return request
    contents, texts = [], []
    for source, text in zip(sources, request.prompt_texts, strict=True):
        if is_voice(source):
            source = source if isinstance(source, Voice) else Voice.load(str(source))
            text = _transcript(source, text, sampling_rate)
        contents.append(source)
        texts.append(text)
    return dataclasses.replace(request, prompt_texts=tuple(texts), contents=tuple(contents))


def _transcript(voice: Voice, transcript: str, sampling_rate: int) -> str:
    """The transcript of a voice, after checks of its rate and of a transcript beside it."""
    if voice.sampling_rate != sampling_rate:
        raise UserError(
            f"{voice} has {voice.sampling_rate} Hz and the model's features {sampling_rate} Hz; "
            "make a voice for this model from the recording."
        )
    if transcript.strip() and single_line(transcript) != single_line(voice.transcript):
        raise UserError(
            f"{voice} says {quote(voice.transcript)}, and the transcript that was given for it is "
            f"{quote(transcript.strip())}; leave that out, or make the voice anew."
        )
    return voice.transcript
