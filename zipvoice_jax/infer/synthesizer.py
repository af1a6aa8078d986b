"""The Python API: `zipvoice_jax.load(dir).generate(...)` and batches of requests."""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from zipvoice_jax.audio.io import write_audio
from zipvoice_jax.audio.recording import RecordingLike, recordings
from zipvoice_jax.audio.voice import Voice
from zipvoice_jax.checkpoint.hub import load_model
from zipvoice_jax.checkpoint.loaded import Loaded
from zipvoice_jax.config import FeatureConfig, ModelConfig, SamplingConfig
from zipvoice_jax.core.compiling import Compilation
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.plan import Bucket
from zipvoice_jax.infer.engine import Engine
from zipvoice_jax.infer.joining import join
from zipvoice_jax.infer.prepare import Item, Job, Preparation
from zipvoice_jax.infer.requests import Request
from zipvoice_jax.infer.tracks import Track, speakers_of, tracks_of
from zipvoice_jax.infer.turns import Turn
from zipvoice_jax.infer.voice_requests import transcripts_for
from zipvoice_jax.infer.voices import make_voice
from zipvoice_jax.text.tokenizer import make_tokenizer
from zipvoice_jax.vocoder.base import Vocoder
from zipvoice_jax.vocoder.find import find_vocoder


@dataclasses.dataclass(frozen=True)
class Speech:
    """A generated item.

    Attributes:
        item_id: id of the request.
        wave: float32 samples, full scale at 1.
        sampling_rate: Hz.
        mel: unscaled log-mel of all chunks, before silence was cut.
        turns: who speaks when, in seconds of the wave; estimated from durations of tokens.
        seconds_model: this item's share of the seconds of sampling, without compilation.
        seconds_vocoder: its share of the seconds of the vocoder.
        buckets: shapes to which its chunks were padded.
        notes: notes for the user.
        speakers: number of tracks of a dialogue.
    """

    item_id: str
    wave: Float[np.ndarray, "channels samples"]
    sampling_rate: int
    mel: Float[np.ndarray, "frames channels_feat"]
    turns: tuple[Turn, ...]
    seconds_model: float
    seconds_vocoder: float
    buckets: tuple[Bucket, ...]
    notes: tuple[str, ...]
    speakers: int = 2

    @property
    def duration(self) -> float:
        """Seconds of the wave."""
        return self.wave.shape[1] / self.sampling_rate

    @property
    def seconds(self) -> float:
        """Seconds that model and vocoder took."""
        return self.seconds_model + self.seconds_vocoder

    @property
    def rtf(self) -> float:
        """Real-time factor of model and vocoder."""
        return self.seconds / max(self.duration, 1e-9)

    @property
    def rtf_no_vocoder(self) -> float:
        """Real-time factor of the model alone."""
        return self.seconds_model / max(self.duration, 1e-9)

    def tracks(self) -> tuple[Track, ...]:
        """Each speaker of a dialogue alone, as long as the wave (see `tracks_of`).

        Raises:
            UserError: there is one speaker, or turns have no times.
        """
        return tracks_of(self.wave, self.turns, self.sampling_rate, self.speakers)

    def save(self, path: str | Path) -> None:
        """Writes the wave in the format of the path's extension."""
        write_audio(Path(path), self.wave, self.sampling_rate)


class Synthesizer:
    """A loaded model with its tokenizer, vocoder and compiled programs."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        vocoder: Vocoder,
        tokenizer: str | None = None,
        lang: str = "en-us",
        devices: Sequence[jax.Device] | None = None,  # type: ignore[valid-type]
    ) -> None:
        self.config, self.features = loaded.config, loaded.features
        _check_features(loaded.config, loaded.features)
        name = tokenizer or ("dialog" if loaded.config.is_dialog else "emilia")
        self.tokenizer = make_tokenizer(name, loaded.table, lang=lang)
        self.vocoder = vocoder
        self.engine = Engine(loaded.config, loaded.params, devices)

    @property
    def compilations(self) -> tuple[Compilation, ...]:
        """Every program compiled so far."""
        return (*self.engine.compilations, *self.vocoder.compilations)

    def preparation(
        self,
        sampling: SamplingConfig,
        *,
        min_duration: float | None = None,
        duration: float | int | None = None,
        raw_evaluation: bool = False,
        text_repair: bool = True,
    ) -> Preparation:
        """The preparation of requests; arguments as for `generate`."""
        repair = text_repair and not raw_evaluation
        return Preparation(
            model=self.config,
            features=self.features,
            sampling=sampling,
            tokenizer=dataclasses.replace(self.tokenizer, repair=repair),
            min_duration=min_duration,
            duration=duration,
            raw_evaluation=raw_evaluation,
            durations=self.engine.durations if self.config.has_durations else None,
        )

    def generate(
        self,
        text: str,
        *,
        prompt_wav: RecordingLike | Sequence[RecordingLike],
        prompt_text: str | Sequence[str] = (),
        item_id: str = "result",
        min_duration: float | None = None,
        duration: float | int | None = None,
        raw_evaluation: bool = False,
        text_repair: bool = True,
        remove_long_sil: bool = False,
        **sampling: Any,
    ) -> Speech:
        """Speaks one text.

        Args:
            text: what to say; a dialogue has [S1], [S2] and so on before its turns, and [pause
                0.5s] is silence.
            prompt_wav: a recording, or one per speaker of a dialogue; each is a path, a file open
                for reading, or (array, rate) with samples (samples,) or (channels, samples),
                floating-point with full scale 1 or int16; or a voice.
            prompt_text: the transcript, or one per recording; not needed for voices.
            item_id: name of the speech in messages and pictures.
            min_duration: least seconds for a text; None: 1, or 0.2 if the model predicts
                durations.
            duration: seconds of the whole speech, exact to the sample; replaces speed and
                min_duration, and no silence is cut.
            raw_evaluation: no chunking, punctuation, repair or removal of silence.
            text_repair: read texts as people would (docs/text.md); False gives the tokens of the
                official code.
            remove_long_sil: shorten long silences within the speech too.
            **sampling: fields of `SamplingConfig` (num_step, guidance_scale, speed, seed, ...);
                by default the official values of the model.

        Raises:
            UserError: something in the input cannot be used.
        """
        texts = (prompt_text,) if isinstance(prompt_text, str) else tuple(prompt_text)
        prompts = recordings(prompt_wav)
        texts = transcripts_for(prompts, texts)
        names = tuple(Path(str(prompt)) for prompt in prompts)
        request = Request(item_id, text, texts, names, contents=prompts)
        unknown = set(sampling) - {field.name for field in dataclasses.fields(SamplingConfig)}
        if unknown:
            raise UserError(f"generate has no option {', '.join(sorted(unknown))}.")
        config = SamplingConfig.for_model(self.config, **sampling)
        prepare = self.preparation(
            config,
            min_duration=min_duration,
            duration=duration,
            raw_evaluation=raw_evaluation,
            text_repair=text_repair,
        )
        if duration is not None and remove_long_sil:
            raise UserError("duration sets the length, which remove_long_sil changes; give one.")
        if raw_evaluation and remove_long_sil:
            raise UserError("raw_evaluation cuts no silence; leave remove_long_sil out.")
        (speech,) = self.speak([prepare(request)], config, prepare, remove_long_sil=remove_long_sil)
        return speech

    def voice(self, prompt_wav: RecordingLike, prompt_text: str) -> Voice:
        """A voice, which holds a recording and its transcript, and can be saved.

        Args:
            prompt_wav: the recording, as for `generate`.
            prompt_text: what it says.

        Raises:
            UserError: the recording or its transcript cannot be used as a prompt.
        """
        voice, _ = make_voice(prompt_wav, prompt_text, self.features.sampling_rate)
        return voice

    def speak(
        self,
        items: Sequence[Item],
        sampling: SamplingConfig,
        prepare: Preparation,
        *,
        wanted: Collection[str] | None = None,
        remove_long_sil: bool = False,
        failed: Callable[[Item, UserError], None] | None = None,
    ) -> Iterator[Speech]:
        """Generates prepared items, each as soon as its last chunk is done.

        Args:
            items: items from `preparation`.
            sampling: settings of the ODE solver.
            prepare: the preparation that made the items.
            wanted: ids of the items to generate, with the same samples as if all were; None: all.
            remove_long_sil: shorten long silences within the speech too.
            failed: called with an item without a usable wave, and the reason; the others go on.

        Yields:
            Speech in the order in which items are done, which is not that of `items`: batches are
            packed by length.

        Raises:
            UserError: an item has no usable wave, and `failed` is None.
        """
        fps = self.features.sampling_rate / self.features.hop_length
        owners = {job.item_id: item for item in items for job in item.jobs}
        parts: dict[str, dict[int, _Part]] = {item_id: {} for item_id in owners}
        jobs = [job for item in items for job in item.jobs]
        batches = self.engine.pack(jobs, sampling, fps)
        chosen = owners.keys() if wanted is None else owners.keys() & set(wanted)
        batches, involved = _involved(batches, chosen)
        for bucket, batch in self.engine.run(batches, sampling):
            for job, mel, seconds in batch:
                parts[job.item_id][job.chunk] = _Part(mel / sampling.feat_scale, bucket, seconds)
            ready = [
                owners[item_id]
                for item_id in dict.fromkeys(job.item_id for job, _, _ in batch)
                if item_id in involved and len(parts[item_id]) == len(owners[item_id].jobs)
            ]
            chunks = [[parts[i.request.item_id].pop(job.chunk) for job in i.jobs] for i in ready]
            for item, of_item, rows, seconds in self._waves(ready, chunks):
                if item.request.item_id not in chosen:
                    continue
                try:
                    wave, turns = self._join(item, rows, sampling, prepare, remove_long_sil)
                except UserError as error:
                    if failed is None:
                        raise
                    failed(item, error)
                    continue
                yield Speech(
                    item_id=item.request.item_id,
                    wave=wave,
                    sampling_rate=self.features.sampling_rate,
                    mel=np.concatenate([part.mel for part in of_item]),
                    turns=turns,
                    seconds_model=sum(part.seconds for part in of_item),
                    seconds_vocoder=seconds,
                    buckets=tuple(part.bucket for part in of_item),
                    notes=item.notes,
                    speakers=speakers_of(item.request.text),
                )

    def _waves(
        self, items: Sequence[Item], chunks: Sequence[Sequence["_Part"]]
    ) -> Iterator[tuple[Item, Sequence["_Part"], list[np.ndarray], float]]:
        """Runs the vocoder on all channels of all chunks of some items, in one call.

        Yields:
            Each item with its parts, the waves of its channels chunk by chunk, and its share of
            the seconds, without compilation.
        """
        channels = self.config.channels
        mels = [m for of in chunks for part in of for m in np.split(part.mel, channels, axis=1)]
        before = sum(compilation.seconds for compilation in self.vocoder.compilations)
        start = time.perf_counter()
        waves = self.vocoder(mels) if mels else []
        seconds = time.perf_counter() - start
        seconds -= sum(compilation.seconds for compilation in self.vocoder.compilations) - before
        total, begin = sum(len(mel) for mel in mels), 0
        for item, of_item in zip(items, chunks, strict=True):
            end = begin + channels * len(of_item)
            share = sum(len(mel) for mel in mels[begin:end]) / max(total, 1)
            yield item, of_item, waves[begin:end], seconds * share
            begin = end

    def _join(
        self,
        item: Item,
        rows: Sequence[np.ndarray],
        sampling: SamplingConfig,
        prepare: Preparation,
        remove_long_sil: bool,
    ) -> tuple[np.ndarray, tuple[Turn, ...]]:
        """The waves of an item's channels, chunk by chunk, at the prompt's volume and joined."""
        channels = self.config.channels
        waves = [
            np.stack(rows[i : i + channels]).clip(-1.0, 1.0).astype(np.float32)
            for i in range(0, len(rows), channels)
        ]
        if item.prompt_rms < sampling.target_rms:
            waves = [wave * np.float32(item.prompt_rms / sampling.target_rms) for wave in waves]
        return join(
            item,
            waves,
            self.features,
            raw=prepare.raw_evaluation,
            remove_long_sil=remove_long_sil,
        )


def _involved(
    batches: Sequence[tuple[Bucket, list[Job]]], wanted: Collection[str]
) -> tuple[list[tuple[Bucket, list[Job]]], set[str]]:
    """The batches to run for some items, and all items that go through the vocoder with them.

    Items that are batched together, for the model and for the vocoder, stay together, since the
    shape of a batch affects the last bits of a wave.
    """
    last = {job.item_id: index for index, (_, jobs) in enumerate(batches) for job in jobs}
    ends = {last[item_id] for item_id in wanted}
    involved = {item_id for item_id, index in last.items() if index in ends}
    needed = [b for b in batches if any(job.item_id in involved for job in b[1])]
    return needed, involved


@dataclasses.dataclass(frozen=True)
class _Part:
    """A sampled chunk: its unscaled mel, its bucket, its share of the sampling seconds."""

    mel: Float[np.ndarray, "frames channels_feat"]
    bucket: Bucket
    seconds: float


def _check_features(model: ModelConfig, features: FeatureConfig) -> None:
    """Refuses feature settings that do not fit the model or any recording of speech."""
    if features.n_mels != model.feat_dim:
        raise UserError(
            f"the model makes {model.feat_dim} mel bins but its features have n_mels "
            f"{features.n_mels}; take model.json from the model's release."
        )
    rate, hop, n_fft = features.sampling_rate, features.hop_length, features.n_fft
    if not (4_000 <= rate <= 384_000 and hop <= n_fft <= 65_536):
        raise UserError(
            f"the model's features have sampling_rate {rate}, hop_length {hop} and n_fft {n_fft}, "
            "which do not fit speech; take model.json from the model's release."
        )


def load(
    model_dir: str | Path | None = None,
    *,
    model_name: str | None = None,
    checkpoint_name: str | None = None,
    vocoder_path: str | Path | None = None,
    tokenizer: str | None = None,
    lang: str = "en-us",
    devices: Sequence[jax.Device] | None = None,  # type: ignore[valid-type]
    **config: Any,
) -> Synthesizer:
    """Loads a model for generation.

    Args:
        model_dir: an official directory, or one that `zipvoice-jax convert` wrote; None takes
            `model_name` from the hub.
        model_name: zipvoice, zipvoice_distill, zipvoice_dialog or zipvoice_dialog_stereo; or
            demo, which comes with the package.
        checkpoint_name: weights file in the directory.
        vocoder_path: a directory of Vocos or HiFi-GAN, "hifigan" (fetched by pip) or
            "griffin-lim"; None takes Vocos from the hub, else HiFi-GAN if it was fetched, else
            Griffin-Lim.
        tokenizer: emilia, dialog, espeak, libritts or simple; None: dialog for models of
            dialogues, emilia for the others.
        lang: language of the espeak tokenizer.
        devices: devices to run on; None: all local ones.
        **config: `ModelConfig` fields such as dtype="bfloat16".

    Raises:
        UserError: the model or vocoder is missing, damaged or does not fit.
    """
    loaded = load_model(model_name, model_dir, checkpoint_name=checkpoint_name, **config)
    vocoder, _ = find_vocoder(vocoder_path, loaded.features)
    return Synthesizer(loaded, vocoder=vocoder, tokenizer=tokenizer, lang=lang, devices=devices)
