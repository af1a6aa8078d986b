"""Judges one recording: each metric as numerator and denominator, and the recognised words."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.io import read_audio
from zipvoice_jax.core.errors import UserError, require
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.judge.attribution import Voices, by_channel, by_tags, by_voice
from zipvoice_jax.judge.backends import (
    RATE,
    QualityPredictor,
    Recogniser,
    SpeakerEncoder,
    Wave,
    Word,
    text_of,
    versions,
)
from zipvoice_jax.judge.config import ROLES, JudgeConfig
from zipvoice_jax.judge.packages import check_fetched
from zipvoice_jax.judge.quality import open_quality_predictor
from zipvoice_jax.judge.recognisers import open_recogniser
from zipvoice_jax.judge.speakers import open_speaker_encoder
from zipvoice_jax.judge.timing import changes, leakage, pauses, speech_regions
from zipvoice_jax.judge.words import (
    by_speaker,
    count_cp_errors,
    count_errors,
    edits,
    normaliser,
    speaker_names,
    without_tags,
)
from zipvoice_jax.text.pauses import without_pauses
from zipvoice_jax.text.tags import BARE_TAG, split_turns

# The metrics of an item: numerators and denominators, each summed over items.
Ratios = dict[str, tuple[float, float]]

_LONGEST = 3600.0  # seconds
_SHORT = 30.0  # seconds of a "short" dialogue in the paper: one window of Whisper
_SHORTEST_VOICE = 0.3  # least seconds of speech that identify a voice


@dataclasses.dataclass(frozen=True)
class Judge:
    """The backends of a config; those that no metric uses are None."""

    config: JudgeConfig
    recogniser: Recogniser | None
    speaker_encoder: SpeakerEncoder | None
    quality_predictor: QualityPredictor | None

    @staticmethod
    def open(config: JudgeConfig) -> "Judge":
        """Loads the backends that the metrics use.

        Raises:
            UserError: a backend is unknown, its library or weights are missing, or it does not
                support the config.
        """
        try:
            return Judge._open(config)
        except UserError:
            # If weights are missing, all that are.
            check_fetched(getattr(config, role) for role in ROLES if role in config.roles())
            raise

    @staticmethod
    def _open(config: JudgeConfig) -> "Judge":
        roles = config.roles()
        recogniser = open_recogniser(config.recogniser) if "recogniser" in roles else None
        if recogniser is not None:
            require(
                config.language == "en" or not recogniser.english_only,
                f"the recogniser {config.recogniser} knows English only; choose another one for "
                f"--language {config.language}, such as whisper-base.",
            )
            require(
                config.attribution != "tags" or recogniser.writes_tags,
                f"the recogniser {config.recogniser} writes no tags of speakers; give "
                "--attribution auto, or --recogniser whisper-d.",
            )
        return Judge(
            config,
            recogniser,
            open_speaker_encoder(config.speaker_encoder) if "speaker_encoder" in roles else None,
            open_quality_predictor(config.quality_predictor)
            if "quality_predictor" in roles
            else None,
        )

    def describe(self) -> dict[str, Any]:
        """Everything that determines its results, for a report; unused backends are None."""
        backends = {
            role: None if (backend := getattr(self, role)) is None else dict(backend.description)
            for role in ROLES
        }
        libraries = {name: versions(name).split()[-1] for name in sorted(self._libraries())}
        return {**dataclasses.asdict(self.config), **backends, "libraries": libraries}

    def _libraries(self) -> set[str]:
        """The libraries that count words and detect speech, besides the backends."""
        wanted, config = set(self.config.metrics), self.config
        libraries = {"soxr"}
        if self.recogniser is not None:
            libraries.add("jiwer")
        if self.recogniser is not None or "rate" in wanted:
            libraries |= {"whisper-normalizer"} if config.normaliser == "whisper" else set()
            libraries |= {"zhconv"} if config.language == "zh" else set()
        if self.recogniser is not None and self.speaker_encoder is not None:
            libraries |= {"meeteval", "faster-whisper"}
        if wanted & {"rate", "silence", "leakage"}:
            libraries.add("faster-whisper")
        return libraries

    def _attribution(self, channels: int, speakers: int) -> str:
        """How words are attributed to speakers, for a number of channels.

        Raises:
            UserError: the config says by channel, and there is not one for each speaker.
        """
        configured = self.config.attribution
        require(
            configured != "channel" or (channels == 2 and speakers <= 2),
            f"the recording has {'one channel' if channels == 1 else 'two channels'} for "
            f"{speakers} speakers, who are therefore not known by channel; give "
            "--attribution auto.",
        )
        if configured != "auto":
            return configured
        return "channel" if channels == 2 and speakers <= 2 else "cluster"

    def judge(self, request: Request, path: Path, made: Mapping[str, Any]) -> dict[str, Any]:
        """The record of one item.

        Args:
            request: the text and the prompts.
            path: the recording.
            made: the item's record in the report of `generate`; empty if there is none.

        Raises:
            UserError: a recording cannot be read.
        """
        wave = read_audio(path, RATE, max_duration=_LONGEST)
        mono = wave.mean(axis=0)
        ratios: Ratios = {}
        record: dict[str, Any] = {
            "id": request.item_id,
            "wav": str(path),
            "seconds": round(len(mono) / RATE, 3),
            "channels": len(wave),
            "text": request.text,
        }
        wanted = set(self.config.metrics)
        if self.recogniser is not None:
            words = self.recogniser.words(mono, self.config.language)
            self._count_words(request, words, ratios, record)
            if _has_tags(request):
                self._speakers(request, wave, words, ratios, record)
        if "sim" in wanted and self.speaker_encoder is not None and not is_dialogue(request):
            prompt = self.speaker_encoder.embed(_mono(request.prompt_wavs[0]))
            ratios["sim"] = (float(prompt @ self.speaker_encoder.embed(mono)), 1.0)
        if "voices" in wanted and made.get("turns") and is_dialogue(request):
            self._count_own_voices(request, mono, made["turns"], ratios)
        if self.quality_predictor is not None:
            ratios["mos"] = (self.quality_predictor.score(mono), 1.0)
        self._times(request, wave, ratios)
        if "rtf" in wanted and made.get("rtf") is not None:
            ratios["rtf"] = (made["rtf"] * len(mono) / RATE, len(mono) / RATE)
        record["metrics"] = {name: [round(x, 6) for x in pair] for name, pair in ratios.items()}
        return record

    def _count_words(
        self, request: Request, words: Sequence[Word], ratios: Ratios, record: dict[str, Any]
    ) -> None:
        clean = normaliser(self.config.normaliser, self.config.language)
        reference, hypothesis = clean(without_tags(request.text)), clean(text_of(words))
        errors = count_errors(reference, hypothesis)
        record["heard"] = text_of(words)
        record["errors"] = dataclasses.asdict(errors)
        record["alignment"] = [
            [piece.kind, piece.reference, piece.hypothesis]
            for piece in edits(reference, hypothesis)
        ]
        if "wer" in self.config.metrics and errors.words:
            ratios["wer"] = (errors.total, errors.words)

    def _speakers(
        self,
        request: Request,
        wave: Float[np.ndarray, "channels samples"],
        words: Sequence[Word],
        ratios: Ratios,
        record: dict[str, Any],
    ) -> None:
        config, encoder = self.config, self.speaker_encoder
        if encoder is None:
            return
        spoken = speakers_in(request.text)
        count = len(spoken)
        how = self._attribution(len(wave), count)
        prompts = self._prompts(request) if how == "prompt" or "cpsim" in config.metrics else None
        mono = wave.mean(axis=0)
        if how == "channel":
            assert self.recogniser is not None
            voices = by_channel(wave, self.recogniser, config.language)
        elif how == "tags":
            voices = by_tags(mono, words, encoder, speakers=count)
        elif how == "prompt" and prompts is None:
            raise UserError(
                f"the voices of the prompt {request.prompt_wavs[0]} cannot be told apart; give "
                "--attribution auto."
            )
        else:
            references = prompts if how == "prompt" else None
            timed = _timed(words, mono)
            voices = by_voice(mono, words, encoder, references, speakers=count, timed=timed)
        record["attribution"] = voices.by
        record["turns"] = [[t.speaker, round(t.start, 2), round(t.end, 2)] for t in voices.turns]
        if voices.by["words"] != "nothing":
            self._count_cp_words(request, voices, wave.shape[1] / RATE, ratios, record)
        if "cpsim" in config.metrics and prompts is not None:
            own = [prompts[name] for name in spoken if name in prompts]
            if own:
                ratios["cpsim"] = (self._likeness(own, voices), 1.0)
        if "turns" in config.metrics:
            _count_turns(request, voices, ratios)

    def _count_cp_words(
        self,
        request: Request,
        voices: Voices,
        seconds: float,
        ratios: Ratios,
        record: dict[str, Any],
    ) -> None:
        clean = normaliser(self.config.normaliser, self.config.language)
        reference = {name: clean(text) for name, text in by_speaker(request.text).items()}
        hypothesis = {name: clean(text) for name, text in voices.words.items()}
        errors, assigned = count_cp_errors(reference, hypothesis)
        record["speakers"] = {
            name: {"label": label, "heard": voices.words.get(label or "", "")}
            for name, label in ((name, assigned.get(name)) for name in reference)
        }
        record["cp_errors"] = dataclasses.asdict(errors)
        # Tags are not consistent from one window of the recogniser to the next.
        is_reliable = seconds <= _SHORT or voices.by["words"] != "tags"
        if "cpwer" in self.config.metrics and errors.words and is_reliable:
            ratios["cpwer"] = (errors.total, errors.words)
            ratios["cpwer_short" if seconds <= _SHORT else "cpwer_long"] = ratios["cpwer"]

    def _count_own_voices(
        self, request: Request, mono: Wave, turns: Sequence[Mapping[str, Any]], ratios: Ratios
    ) -> None:
        """Counts turns, at the times of `generate`, whose voice is nearer to their own prompt."""
        prompts = self._prompts(request)
        if prompts is None or self.speaker_encoder is None:
            return
        names, vectors, own, counted = list(prompts), np.stack([*prompts.values()]), 0, 0
        for turn in turns:
            sound = mono[round(turn["start"] * RATE) : round(turn["end"] * RATE)]
            if turn["speaker"] in names and len(sound) >= _SHORTEST_VOICE * RATE:
                nearest = np.argmax(vectors @ self.speaker_encoder.embed(sound))
                own += names[nearest] == turn["speaker"]
                counted += 1
        if counted:
            ratios["voices"] = (own, counted)

    def _prompts(self, request: Request) -> dict[str, Float[np.ndarray, " dim"]] | None:
        """Voice vectors of the prompts' speakers, by name.

        None if one prompt has all of them and they are not found.
        """
        encoder = self.speaker_encoder
        assert encoder is not None
        first, *others = request.prompt_wavs
        if others:
            names = speaker_names(len(request.prompt_wavs))
            vectors = [encoder.embed(_mono(path)) for path in request.prompt_wavs]
            return dict(zip(names, vectors, strict=True))
        wave = read_audio(first, RATE)
        # In the order in which they are heard.
        names = speakers_in(" ".join(request.prompt_texts))
        if len(names) < 2:  # a prompt whose transcript says nothing
            names = speaker_names(max(2, len(speakers_in(request.text))))
        if len(wave) == len(names) == 2:
            left_and_right = [encoder.embed(channel) for channel in wave]
            return dict(zip(("S1", "S2"), left_and_right, strict=True))
        assert self.recogniser is not None
        mono = wave.mean(axis=0)
        words = self.recogniser.words(mono, self.config.language)
        timed = _timed(words, mono)
        voices = by_voice(mono, words, encoder, speakers=len(names), timed=timed)
        sounds = voices.sound.values()
        if any(len(sound) < _SHORTEST_VOICE * RATE for sound in sounds):
            return None
        return {name: encoder.embed(sound) for name, sound in zip(names, sounds, strict=True)}

    def _likeness(self, prompts: list[Float[np.ndarray, " dim"]], voices: Voices) -> float:
        """Mean cosine under the best assignment; one of them without speech counts as 0."""
        from scipy.optimize import linear_sum_assignment

        assert self.speaker_encoder is not None
        heard = [
            self.speaker_encoder.embed(sound)
            if len(sound) >= _SHORTEST_VOICE * RATE
            else np.zeros_like(prompts[0])
            for sound in voices.sound.values()
        ]
        cosines = np.stack(prompts) @ np.stack(heard).T
        return float(cosines[linear_sum_assignment(cosines, maximize=True)].sum()) / len(prompts)

    def _times(
        self, request: Request, wave: Float[np.ndarray, "channels samples"], ratios: Ratios
    ) -> None:
        wanted = set(self.config.metrics)
        if "leakage" in wanted and len(wave) == 2:
            values = leakage(wave, [speech_regions(channel) for channel in wave])
            if values:
                ratios["leakage"] = (sum(values), len(values))
        if not wanted & {"rate", "silence"}:
            return
        mono = wave.mean(axis=0)
        regions = speech_regions(mono)
        spoken = sum(region.end - region.start for region in regions)
        seconds = len(mono) / RATE
        if "rate" in wanted and spoken > 0:
            clean = normaliser(self.config.normaliser, self.config.language)
            ratios["rate"] = (len(clean(without_tags(request.text)).split()), spoken)
        if "silence" in wanted:
            values = pauses(regions)
            ratios["silence"] = (max(seconds - spoken, 0.0), seconds)
            ratios["longest_pause"] = (max(values, default=0.0), 1.0)
            if values:
                ratios["pause"] = (sum(values), len(values))


def _count_turns(request: Request, voices: Voices, ratios: Ratios) -> None:
    text = without_pauses(request.text)
    written = [turn for turn in split_turns(text) if BARE_TAG.sub("", turn).strip()]
    offsets = changes(voices.turns)
    overlaps = [-change for change in offsets if change < 0]
    gaps = [change for change in offsets if change >= 0]
    ratios["turns"] = (len(voices.turns), len(written))
    if gaps:
        ratios["gap"] = (sum(gaps), len(gaps))
    if voices.by["voices"] != "channel":
        return  # in one channel words come one after another, so overlaps are not detected
    if offsets:
        ratios["overlaps"] = (len(overlaps), len(offsets))
    if overlaps:
        ratios["overlap"] = (sum(overlaps), len(overlaps))


def _timed(words: Sequence[Word], wave: Wave) -> bool:
    """Whether a recogniser returned times, and not everything as one word."""
    return len(words) != 1 or words[0].end - words[0].start < len(wave) / RATE


def speakers_in(text: str) -> list[str]:
    """Names of the speakers of a text with tags, as S1, in the order in which they begin."""
    return list(dict.fromkeys(tag.strip("[]") for tag in BARE_TAG.findall(text)))


def is_dialogue(request: Request) -> bool:
    """Whether there is more than one speaker."""
    return _has_tags(request) or len(request.prompt_wavs) > 1


def _has_tags(request: Request) -> bool:
    return BARE_TAG.search(request.text) is not None


def _mono(path: Path) -> Wave:
    return read_audio(path, RATE).mean(axis=0)
