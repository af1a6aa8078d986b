"""Turns requests into sampling jobs: prompt features, tokens, chunks and their lengths.

Official: generate_sentence and generate_sentence_raw_evaluation in zipvoice/bin/infer_*.py.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.audio.mel import log_mel_host
from zipvoice_jax.audio.ops import (
    check_prompt,
    is_silent,
    mix_prompt,
    prompt_doubts,
    remove_silence,
    rms_norm,
    stereo_prompt,
)
from zipvoice_jax.audio.voice import Voice
from zipvoice_jax.config import FeatureConfig, ModelConfig, SamplingConfig
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.numbers import check_number
from zipvoice_jax.data.checks import Limits, count_words
from zipvoice_jax.flow.sampling import frames_at_rate_of, predicted_frames
from zipvoice_jax.infer.jobs import Item, Job
from zipvoice_jax.infer.lengths import fitted
from zipvoice_jax.infer.requests import DURATIONS, Request
from zipvoice_jax.infer.voice_requests import with_voices
from zipvoice_jax.text.chunking import (
    add_punctuation,
    chunk_tokens_dialog,
    chunk_tokens_punctuation,
    validate_dialog,
)
from zipvoice_jax.text.normalizer import single_line
from zipvoice_jax.text.pauses import Passage, split_pauses, without_pauses
from zipvoice_jax.text.tags import BARE_TAG, language_of, split_turns, turns_without_words
from zipvoice_jax.text.tokenizer import Tokenizer
from zipvoice_jax.text.tokens import SPEAKER_B, is_speaker_tag, quote, speaker_tag

# Approximate seconds of prompt and speech in one chunk; chunks longer than in training fail.
CHUNK_SECONDS = {"zipvoice": 25.0, "zipvoice_distill": 25.0}
DIALOG_CHUNK_SECONDS = 40.0
MAX_PROMPT_SECONDS = 60.0
_MIN_DURATION, _MIN_PREDICTED = 1.0, 0.2  # seconds
# Factor beyond the rates that `prepare` accepts at which a prompt is refused: the speech, which
# takes its rate, would be absurdly fast or slow.
_ABSURD = 2.5
MAX_FRAMES = 8192  # in one chunk: 87 s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """Turns requests into items; the same settings for all requests of a run.

    Attributes:
        min_duration: least seconds for each chunk of a text; None: 1, or 0.2 with predicted
            durations. The prompt's frames per token are a poor guide for a word or two, which are
            then clipped.
        duration: seconds of each item's whole speech, instead of a length from the prompt's rate,
            speed and min_duration; a request's own duration takes precedence.
        raw_evaluation: use prompt and text unchanged: no chunks, no added punctuation, no removal
            of silence.
        durations: for models that predict durations, a function from token ids to the frames of
            each token.
    """

    model: ModelConfig
    features: FeatureConfig
    sampling: SamplingConfig
    tokenizer: Tokenizer
    min_duration: float | None = None
    duration: float | int | None = None
    raw_evaluation: bool = False
    durations: Callable[[tuple[int, ...]], Float[np.ndarray, " tokens"]] | None = None

    def __post_init__(self) -> None:
        if self.min_duration is not None and not 0.0 <= self.min_duration <= 60.0:
            raise UserError(f"min_duration is {self.min_duration}; give 0 to 60 seconds.")
        if self.raw_evaluation and self.min_duration is not None:
            raise UserError(
                "raw evaluation takes the length as it is predicted; leave min_duration out."
            )
        if self.duration is not None:
            check_number("duration", self.duration, *DURATIONS)

    def __call__(self, request: Request) -> Item:
        """Prepares a request.

        Raises:
            UserError: a recording or a text cannot be used.
        """
        notes: list[str] = []
        original, request = request, with_voices(request, self.features.sampling_rate)
        wave, spoken = self._prompt_wave(request, notes)
        wave, rms = rms_norm(wave, self.sampling.target_rms)
        seconds = wave.shape[1] / self.features.sampling_rate
        if seconds > (20.0 if self.model.is_dialog else 10.0):
            notes.append(
                f"the prompt is long ({seconds:.1f} s); a shorter one is faster and better"
            )
        mel = log_mel_host(wave, self.features, channels=self.model.channels)
        mel = (mel * self.sampling.feat_scale).astype(np.float32)

        text = self._line(without_pauses(request.text))
        if self.model.is_dialog:
            self._check_speakers(request, text)
        transcript = self._prompt_text(request)
        if self.model.is_dialog and len(request.prompt_wavs) == 1:
            silent = set(BARE_TAG.findall(text)) - set(BARE_TAG.findall(transcript))
            if silent:
                missing = " and no ".join(sorted(silent))
                notes.append(f"the prompt has no {missing}: any voice may come")
        prompt_ids, prompt_tokens = self._encode(transcript, text, "transcript", notes)
        parts = self._prompt_parts(prompt_ids, spoken, mel.shape[0])
        passages, ending = self._passages(request.text)
        tokens = []
        for number, passage in enumerate(passages, 1):
            what = "text" if len(passages) == 1 else f"text's part {number}"
            other = text if language_of(text) else transcript
            tokens.append(self._encode(passage.text, other, what, notes)[1])
        for prompt_text, path, lasting in zip(
            request.prompt_texts, request.prompt_wavs, spoken, strict=True
        ):
            check_speaking_rate(prompt_text, path, lasting, notes)
        speed = request.speed or self.sampling.speed
        duration = self.duration if request.duration is None else request.duration
        if duration is not None and speed != 1.0:
            notes.append(f"the duration of {duration:g} s takes the place of the speed {speed:g}")
        speed, floor = (speed, self.min_duration) if duration is None else (1.0, None)
        count = sum(map(len, tokens))
        lasting = seconds / (len(prompt_tokens) * speed) if duration is None else duration / count
        jobs: list[Job] = []
        for passage, words in zip(passages, tokens, strict=True):
            chunks = [list(words)] if self.raw_evaluation else self._chunk(words, seconds, lasting)
            pause = passage.pause
            for chunk in chunks:
                ids, unknown = self.tokenizer.ids(chunk)
                # SentencePiece keeps an id for what is unknown; other tokenizers leave it out.
                whole = len(ids) == len(chunk)
                known = chunk if whole else [token for token in chunk if token not in unknown]
                if not ids:
                    continue
                job = self._job(
                    request.item_id, len(jobs), prompt_ids, ids, known, mel, speed, floor
                )
                jobs.append(dataclasses.replace(job, pause=pause, prompt_parts=parts))
                pause = 0.0
        samples = None
        if duration is not None:
            samples = round(duration * self.features.sampling_rate)
            jobs = fitted(jobs, samples, ending, self.features)
        for job in jobs:
            self._check_size(job)
        return Item(original, tuple(jobs), rms, tuple(dict.fromkeys(notes)), samples, ending)

    def _check_speakers(self, request: Request, text: str) -> None:
        """Refuses prompts and turns of speakers that the model or the prompts lack."""
        known, prompts = self.model.num_speakers, len(request.prompt_wavs)
        if prompts > known:
            raise UserError(
                f"{request.item_id} has {prompts} prompts, but the model knows {known} speakers; "
                "use a model of more."
            )
        validate_dialog(text, known)
        tags = set(BARE_TAG.findall(text)) if prompts > 1 else set()
        heard = {speaker_tag(number) for number in range(1, prompts + 1)}
        if silent := sorted(tags - heard):
            raise UserError(
                f"the text of {request.item_id} has the speaker {silent[0]}, but there are "
                f"{prompts} prompts; give one for each speaker."
            )

    def _passages(self, text: str) -> tuple[list[Passage], float]:
        """The passages between pauses, and the seconds of silence at the end."""
        parts, ending = split_pauses(text)
        passages = []
        for number, passage in enumerate(parts):
            line = self._line(passage.text)
            if self.raw_evaluation and (len(parts) > 1 or passage.pause or ending):
                raise UserError(
                    "raw evaluation takes a text as it is, so it has no [pause]; leave one out."
                )
            if number and line.startswith(SPEAKER_B) and self.model.speaker_turns == "official":
                raise UserError(
                    f"no {SPEAKER_B} can follow a pause where speaker_turns is 'official'; load "
                    "the model with speaker_turns='tag', or leave the pause out."
                )
            if not self.raw_evaluation:
                goes_on = number + 1 < len(parts) and parts[number + 1].goes_on
                line = add_punctuation(line, "," if goes_on else ".")
            passages.append(dataclasses.replace(passage, text=line))
        return passages, ending

    def _prompt_wave(
        self, request: Request, notes: list[str]
    ) -> tuple[Float[np.ndarray, "channels samples"], list[float]]:
        """The prompt as the model gets it, and the seconds of each recording in it."""
        rate = self.features.sampling_rate
        waves = []
        for path in request.contents or request.prompt_wavs:
            if isinstance(path, Voice):
                wave = path.wave
            else:
                wave = read_audio(path, rate, max_duration=MAX_PROMPT_SECONDS)
            check_prompt(wave, str(path), rate)
            notes += prompt_doubts(wave, str(path), mixed=not self.model.is_stereo)
            if not self.model.is_stereo:
                wave = mix_prompt(wave, str(path))
                check_prompt(wave, f"{path}, mixed to one channel,", rate)
            waves.append(wave)
        wave = stereo_prompt(waves) if self.model.is_stereo else np.concatenate(waves, axis=1)
        for side, channel in zip(("left", "right"), wave, strict=False):
            if self.model.is_stereo and is_silent(channel[None], rate):
                notes.append(f"nobody speaks in the {side} channel of the prompt")
        if not self.raw_evaluation:
            # 0.2 s of silence keep the end of the prompt out of the speech.
            wave = remove_silence(wave, rate, trail_ms=200.0)
            trimmed = (remove_silence(part, rate) for part in waves)
            return wave, [part.shape[1] / rate for part in trimmed]
        return wave, [part.shape[1] / rate for part in waves]

    def _prompt_parts(
        self, prompt_ids: tuple[int, ...], spoken: list[float], frames: int
    ) -> tuple[tuple[int, int], ...]:
        """Where each recording but the last ends, in tokens and frames; empty if there is one.

        The second one begins at the only [S2], and so on.
        """
        tags = self.model.speaker_ids[1 : len(spoken)]
        if any(prompt_ids.count(tag) != 1 for tag in tags):
            return ()
        rate = self.features.sampling_rate / self.features.hop_length
        ends = [round(sum(spoken[: i + 1]) * rate) for i in range(len(tags))]
        return tuple(
            (prompt_ids.index(tag), min(end, frames)) for tag, end in zip(tags, ends, strict=True)
        )

    def _prompt_text(self, request: Request) -> str:
        texts = [self._line(text).strip() for text in request.prompt_texts]
        if not self.model.is_dialog:
            if len(texts) > 1:
                count = "two" if len(texts) == 2 else str(len(texts))
                raise UserError(
                    f"{request.item_id} has {count} prompts, but a {self.model.kind} model takes "
                    "one speaker; use a dialogue model."
                )
            text = texts[0]
        elif len(texts) == 1:
            text = texts[0]
            validate_dialog(text, self.model.num_speakers)
        else:
            # One speaker's transcript may already carry its tag.
            bare = [
                text.removeprefix(speaker_tag(number)).strip()
                for number, text in enumerate(texts, 1)
            ]
            text = "".join(speaker_tag(n) + words for n, words in enumerate(bare, 1))
            validate_dialog(text, self.model.num_speakers)
        return text if self.raw_evaluation else add_punctuation(text)

    def _line(self, text: str) -> str:
        """A text on one line; text repair joins lines itself, since Markdown needs them."""
        return text.strip() if self.tokenizer.repair else single_line(text)

    def _encode(
        self, text: str, other: str, what: str, notes: list[str]
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Ids and tokens of a text; bare digits are read in the language of the other text."""
        language = "" if self.raw_evaluation else language_of(text) or language_of(other) or "en"
        where = f"the {what}"
        try:
            done = self.tokenizer.encode(text, language=language)
        except UserError as error:  # the tokenizer does not know which of the texts this is
            raise UserError(str(error).replace("the text", where, 1)) from None
        tags = [tag for tag in done.unknown if is_speaker_tag(tag)]
        if self.model.is_dialog and tags:
            raise UserError(
                f"the tokenizer has no token for {tags[0]}; give one whose table has all tags."
            )
        for number in turns_without_words(done.tokens, done.unknown):
            turns = split_turns(text.strip())
            turns = turns[1:] if len(turns) > 1 and not turns[0] else turns
            shown = text
            if len(turns) > 1 and number <= len(turns):
                where, shown = f"turn {number} of {where},", turns[number - 1].strip()
            raise UserError(f"{where} {quote(shown)} has no words that can be spoken; write some.")
        if done.unknown:
            shown = " ".join(map(repr, done.unknown[:10]))
            notes.append(f"{where} has tokens that the model does not know, left out: {shown}")
        if done.dropped:
            shown = ", ".join(map(repr, done.dropped[:5]))
            notes.append(f"{where} has parts in no known language, left out: {shown}")
        return done.ids, done.tokens

    def _chunk(
        self, tokens: tuple[str, ...], prompt_seconds: float, token_seconds: float
    ) -> list[list[str]]:
        limit = CHUNK_SECONDS.get(self.model.kind, DIALOG_CHUNK_SECONDS)
        most = max(1, int((limit - prompt_seconds) / token_seconds))
        if self.model.is_dialog:
            split_long = self.model.speaker_turns == "tag"
            return chunk_tokens_dialog(tokens, most, split_long=split_long)
        return chunk_tokens_punctuation(tokens, most)

    def _job(
        self,
        item_id: str,
        chunk: int,
        prompt_ids: tuple[int, ...],
        ids: tuple[int, ...],
        tokens: list[str],
        mel: Float[np.ndarray, "frames channels_feat"],
        speed: float,
        least: float | None,
    ) -> Job:
        predicted = None
        if self.durations is None:
            new = predicted_frames(mel.shape[0], len(prompt_ids), len(ids), speed)
        else:
            frames = self.durations((*prompt_ids, *ids))
            predicted = frames[len(prompt_ids) :]
            new = frames_at_rate_of(
                mel.shape[0], float(frames.sum() - predicted.sum()), float(predicted.sum()), speed
            )
        if not self.raw_evaluation:
            rate = self.features.sampling_rate / self.features.hop_length
            if least is None:
                least = _MIN_DURATION if predicted is None else _MIN_PREDICTED
            new = max(new, math.ceil(least * rate / speed))
        return Job(
            item_id,
            chunk,
            (*prompt_ids, *ids),
            tuple(tokens),
            mel,
            mel.shape[0] + max(new, 1),
            prompt_tokens=len(prompt_ids),
            durations=predicted if self.model.looks_up_durations else None,
        )

    def _check_size(self, job: Job) -> None:
        """Refuses a job that no bucket holds."""
        text_tokens = len(job.token_ids) - job.prompt_tokens
        if len(job.token_ids) >= MAX_FRAMES:
            raise UserError(
                f"a piece of {job.item_id} has {text_tokens:,} tokens; add punctuation or speaker "
                "turns to the text, so that it can be split."
            )
        if job.features_len > MAX_FRAMES:
            seconds = job.features_len * self.features.hop_length / self.features.sampling_rate
            raise UserError(
                f"a piece of {job.item_id} would be {seconds:.0f} s long with its prompt; shorten "
                "the prompt, raise the speed, or add punctuation or speaker turns to the text."
            )


def check_speaking_rate(transcript: str, path: Path, seconds: float, notes: list[str]) -> None:
    """Checks a transcript against the length of its recording; adds a note if it is doubtful.

    Args:
        transcript: what the recording should say.
        path: what messages call the recording.
        seconds: duration of the recording, without long silences.
        notes: list to which the note is appended.

    Raises:
        UserError: nobody speaks that fast or that slowly.
    """
    least, most = (60.0 * count / max(seconds, 0.01) for count in count_words(transcript))
    limits = Limits()
    if least > limits.max_words_per_minute:
        rate, much = least, least / limits.max_words_per_minute
    elif most < limits.min_words_per_minute:
        rate, much = most, limits.min_words_per_minute / max(most, 1e-3)
    else:
        return
    finding = (
        f"the transcript {quote(transcript.strip())} and the {seconds:.1f} s of {path} make "
        f"{rate:.0f} words a minute, where people speak 100 to 300"
    )
    if much > _ABSURD:
        raise UserError(f"{finding}; write what the recording says, all of it and nothing else.")
    notes.append(f"{finding}: does it say what the recording says?")
