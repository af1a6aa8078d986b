"""Every setting of a model, its features and its sampling, checked on construction.

The fields of `ModelConfig` carry the names of the official `model.json` (k2-fsa/ZipVoice),
so that one dataclass reads and writes it; what the official code takes from the token
table (`vocab_size`, `pad_id`, speaker ids) and what only this package has (`dtype`,
`remat`, `speaker_turns`) sit beside them.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from zipvoice_jax.core.errors import UserError, require
from zipvoice_jax.core.numbers import check_choice, check_number

ModelKind = Literal["zipvoice", "zipvoice_distill", "zipvoice_dialog", "zipvoice_dialog_stereo"]
MODEL_KINDS: tuple[str, ...] = get_args(ModelKind)
# Models in the package itself, by their kinds.
BUNDLED: dict[str, ModelKind] = {"demo": "zipvoice_dialog"}
MODEL_NAMES: tuple[str, ...] = (*MODEL_KINDS, *BUNDLED)
Dtype = Literal["float32", "bfloat16"]
RematPolicy = Literal["none", "full", "dots"]
SpeakerTurns = Literal["tag", "official"]
SpeakerTokens = Literal["tags", "separator"]
SpeakerEmbedding = Literal["text_output", "text_input", "none"]
Upsampling = Literal["average", "durations"]
SpeakerPrompts = Literal["joint", "own"]
ChannelDecoding = Literal["joint", "separate"]
TimeSchedule = Literal["uniform", "epss"]

# Inputs of a distilled model's guidance embedding: officially a default that no model.json holds
# and that ZipVoiceDistill never sets (TTSZipformer.__init__).
GUIDANCE_SCALE_EMBED_DIM = 192
DURATION_HEAD_DIM = 128  # hidden channels
SPEAKER_STD = 0.1  # ZipVoiceDialog initialises spk_embed with N(0, 0.1)
# Times of EPSS (empirically pruned step sampling, arXiv 2505.19931) in 32nds, by number of steps:
# those of 32 equal steps that are left when the redundant ones, most of them late, are dropped. As
# published with F5-TTS (get_epss_timesteps), which has no others.
EPSS_TIMES: dict[int, tuple[int, ...]] = {
    5: (0, 2, 4, 8, 16, 32),
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
}

# What comes from the token table or is ours, hence is absent from an official model.json.
_NOT_IN_MODEL_JSON = (
    "kind",
    "vocab_size",
    "pad_id",
    "spk_a_id",
    "spk_b_id",
    "more_speaker_ids",
    "dtype",
    "remat",
    "unroll_layers",
    "speaker_turns",
    "speaker_tokens",
    "speaker_embedding",
    "speaker_prompts",
    "upsampling",
    "duration_head",
    "channel_decoding",
)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields with JSON's lists as tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _check_size(name: str, value: object) -> None:
    """Refuses what is no size of a model, or no id of a token."""
    if name.endswith("_id") or name == "vocab_size":
        check_number(name, value, 0 if name.endswith("_id") else 1, 10_000_000, whole=True)
    else:
        check_number(name, value, 1, 100_000, whole=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Hyper-parameters of one model; defaults are the released base size (123M parameters).

    Raises:
        UserError: a value that cannot work, with what to do about it.
    """

    kind: ModelKind = "zipvoice_dialog"
    fm_decoder_downsampling_factor: tuple[int, ...] = (1, 2, 4, 2, 1)
    fm_decoder_num_layers: tuple[int, ...] = (2, 2, 4, 4, 4)
    fm_decoder_cnn_module_kernel: tuple[int, ...] = (31, 15, 7, 15, 31)
    fm_decoder_feedforward_dim: int = 1536
    fm_decoder_num_heads: int = 4
    fm_decoder_dim: int = 512
    text_encoder_num_layers: int = 4
    text_encoder_feedforward_dim: int = 512
    text_encoder_cnn_module_kernel: int = 9
    text_encoder_num_heads: int = 4
    text_encoder_dim: int = 192
    query_head_dim: int = 32
    value_head_dim: int = 12
    pos_head_dim: int = 4
    pos_dim: int = 48
    time_embed_dim: int = 192
    text_embed_dim: int = 192
    feat_dim: int = 100
    vocab_size: int = 362
    pad_id: int = 0
    spk_a_id: int = 360  # the token [S1]
    spk_b_id: int = 361  # the token [S2]
    more_speaker_ids: tuple[int, ...] = ()  # the tokens [S3], [S4] and so on; officially none
    dtype: Dtype = "float32"  # of matmuls and activations; norms, softmax, losses stay float32
    remat: RematPolicy = "none"
    # Layers are scanned, which keeps programs small; unrolled, each reads its parameters in
    # place instead of a copy, which is faster on CPU where they are large.
    unroll_layers: bool = False
    # "tag": the embedding follows the speaker's tag. "official": it flips at every tag, which
    # goes wrong where one speaker has two turns in a row.
    speaker_turns: SpeakerTurns = "tag"
    # What ablations vary; the first of each is the official model. "separator": both tags are read
    # as one token that says no more than that the speaker changes. The speaker-turn embedding is
    # added to what the text encoder gives ("text_output"), to what it takes, or nowhere.
    speaker_tokens: SpeakerTokens = "tags"
    speaker_embedding: SpeakerEmbedding = "text_output"
    # What of a dialogue's prompt a frame is sampled from. "joint": all of it, as officially; the
    # model has to know which voice is whose. "own": what the frame's own speaker says in it, at the
    # cost of one more branch where both speakers share a channel.
    speaker_prompts: SpeakerPrompts = "joint"
    # How tokens are spread over frames. "average": all alike, the official rule. "durations": in
    # proportion to durations that a small head on the text encoder predicts, prompt and text each
    # within its own frames; such a model is trained on alignments.
    upsampling: Upsampling = "average"
    # The same head beside a model of average upsampling, for the length of the speech alone. One of
    # upsampling "durations" has it whatever is set here.
    duration_head: bool = False
    # How a stereo model makes its two channels. "joint": both in one pass of the decoder, as
    # officially. "separate": each in a pass of its own, by the same weights, as the channel of
    # [S1] in a text whose tags are swapped for the second; a decoder that is large enough for one
    # channel is then large enough for two.
    channel_decoding: ChannelDecoding = "joint"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, tuple[int, ...]):
                require(
                    isinstance(value, tuple) == (field.type is not int),
                    f"{field.name} is {value!r}; it takes whole numbers.",
                )
                for part in value if isinstance(value, tuple) else (value,):
                    _check_size(field.name, part)
        check_choice("kind", self.kind, MODEL_KINDS)
        check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("remat", self.remat, get_args(RematPolicy))
        check_choice("speaker_turns", self.speaker_turns, get_args(SpeakerTurns))
        check_choice("speaker_tokens", self.speaker_tokens, get_args(SpeakerTokens))
        check_choice("speaker_embedding", self.speaker_embedding, get_args(SpeakerEmbedding))
        check_choice("speaker_prompts", self.speaker_prompts, get_args(SpeakerPrompts))
        check_choice("upsampling", self.upsampling, get_args(Upsampling))
        check_choice("channel_decoding", self.channel_decoding, get_args(ChannelDecoding))
        require(
            isinstance(self.duration_head, bool),
            f"duration_head is {self.duration_head!r}; give true or false.",
        )
        factors = self.fm_decoder_downsampling_factor
        half = len(factors) // 2
        # Up to the middle each stack doubles the factor, after it each halves it.
        u_shaped = factors[:1] == factors[-1:] == (1,) and all(
            factors[i] == (factors[i - 1] * 2 if i <= half else factors[i - 1] // 2)
            for i in range(1, len(factors))
        )
        require(
            u_shaped,
            f"fm_decoder_downsampling_factor is {factors}; it must rise by twos from 1 and "
            "fall back to 1, such as (1, 2, 4, 2, 1).",
        )
        for name in ("fm_decoder_num_layers", "fm_decoder_cnn_module_kernel"):
            require(
                len(getattr(self, name)) == len(factors),
                f"{name} has {len(getattr(self, name))} entries for {len(factors)} stacks; "
                "give one per stack.",
            )
        kernels = (*self.fm_decoder_cnn_module_kernel, self.text_encoder_cnn_module_kernel)
        require(
            all(k % 2 == 1 for k in kernels),
            f"cnn_module_kernel sizes {kernels} (fm_decoder, then text_encoder) must be odd, so "
            "that frames stay aligned.",
        )
        require(self.pos_dim % 2 == 0, f"pos_dim is {self.pos_dim}; it must be even.")
        for stack in ("fm_decoder", "text_encoder"):
            dim, heads = getattr(self, f"{stack}_dim"), getattr(self, f"{stack}_num_heads")
            require(
                dim % 4 == 0,
                f"{stack}_dim is {dim}; it must be a multiple of 4, since the feed-forward and "
                f"attention parts of its {heads} heads take three quarters of it.",
            )
        ids = (self.pad_id, *(self.speaker_ids if self.is_dialog else ()))
        require(
            max(ids) < self.vocab_size and len(set(ids)) == len(ids),
            f"pad and speaker ids {ids} must differ and be below vocab_size {self.vocab_size}; "
            "check that the token table belongs to this model.",
        )
        require(
            not self.separates_channels or self.speaker_turns == "tag",
            f"speaker_turns is {self.speaker_turns!r}, which reads both channels' tags alike; with "
            "channel_decoding 'separate' choose tag.",
        )
        require(
            not self.separates_channels
            or (self.speaker_tokens, self.speaker_embedding) != ("separator", "none"),
            "with speaker_tokens 'separator' and speaker_embedding 'none' a text does not say "
            "which words are whose, and so not which channel's; keep one of the two for "
            "channel_decoding 'separate'.",
        )
        if self.is_dialog and self.more_speaker_ids:
            for name, value, two in (
                ("kind", self.kind, "zipvoice_dialog_stereo"),
                ("speaker_turns", self.speaker_turns, "official"),
                ("speaker_prompts", self.speaker_prompts, "own"),
            ):
                require(
                    value != two,
                    f"{name} {two!r} is for two speakers, and this model has {len(ids) - 1}; "
                    "choose another, or a token table with [S1] and [S2] alone.",
                )

    @property
    def is_dialog(self) -> bool:
        """Whether the model has speaker-turn embeddings."""
        return self.kind in ("zipvoice_dialog", "zipvoice_dialog_stereo")

    @property
    def speaker_ids(self) -> tuple[int, ...]:
        """Token ids of the speakers' tags, from [S1] on."""
        return (self.spk_a_id, self.spk_b_id, *self.more_speaker_ids)

    @property
    def num_speakers(self) -> int:
        """How many may speak in a dialogue."""
        return len(self.speaker_ids) if self.is_dialog else 1

    @property
    def is_stereo(self) -> bool:
        """Whether the model has the two-channel input and output projections."""
        return self.kind == "zipvoice_dialog_stereo"

    @property
    def separates_channels(self) -> bool:
        """Whether each channel of a stereo dialogue takes a pass of the decoder."""
        return self.is_stereo and self.channel_decoding == "separate"

    @property
    def speaker_embed_dim(self) -> int:
        """Channels of the speaker-turn embedding; 0 without one."""
        dims = {"text_output": self.feat_dim, "text_input": self.text_embed_dim, "none": 0}
        return dims[self.speaker_embedding] if self.is_dialog else 0

    @property
    def samples_by_speaker(self) -> bool:
        """Whether each speaker's frames are sampled from that speaker's part of the prompt."""
        # A channel that is sampled by itself has nobody else in its prompt.
        return self.has_own_prompts and not self.separates_channels

    @property
    def has_own_prompts(self) -> bool:
        """Whether what a speaker says is sampled with no other voice in sight."""
        return self.is_dialog and self.speaker_prompts == "own"

    @property
    def is_distill(self) -> bool:
        """Whether guidance is an input of the network rather than a second branch."""
        return self.kind == "zipvoice_distill"

    @property
    def has_durations(self) -> bool:
        """Whether the model predicts its tokens' durations, for whatever use."""
        return self.looks_up_durations or self.duration_head

    @property
    def looks_up_durations(self) -> bool:
        """Whether frames look tokens up by these durations; else by the average rule."""
        return self.upsampling == "durations"

    @property
    def channels(self) -> int:
        """Audio channels that the model generates."""
        return 2 if self.is_stereo else 1

    @classmethod
    def from_model_json(cls, model: Mapping[str, Any], *, kind: str, **rest: Any) -> "ModelConfig":
        """Builds a config from the `model` part of an official model.json.

        Args:
            model: the mapping under "model".
            kind: one of `MODEL_KINDS`.
            **rest: fields that model.json does not hold (vocab_size, pad_id, dtype, ...).

        Raises:
            UserError: unknown or missing keys, or values that cannot work.
        """
        known = {f.name for f in dataclasses.fields(cls)} - set(_NOT_IN_MODEL_JSON)
        unknown, missing = sorted(set(model) - known), sorted(known - set(model))
        require(
            not unknown,
            f"model.json has unknown keys {', '.join(unknown)}; remove them, or update "
            "zipvoice-jax.",
        )
        require(
            not missing, f"model.json lacks {', '.join(missing)}; take it from the model's release."
        )
        return cls(**{"kind": kind, **_tuples(model), **rest})

    def to_model_json(self) -> dict[str, Any]:
        """The `model` part of an official model.json."""
        return {
            f.name: list(v) if isinstance(v := getattr(self, f.name), tuple) else v
            for f in dataclasses.fields(self)
            if f.name not in _NOT_IN_MODEL_JSON
        }

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values; `from_dict` reads them back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`; an unknown key is an error that names it."""
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        require(not unknown, f"the model config has unknown keys {', '.join(unknown)}.")
        return cls(**_tuples(values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Vocos log-mel features (zipvoice/utils/feature.py of the official code)."""

    type: str = "vocos"
    sampling_rate: int = 24_000  # Hz
    n_mels: int = 100
    n_fft: int = 1024  # samples
    hop_length: int = 256  # samples

    def __post_init__(self) -> None:
        require(
            self.type == "vocos",
            f"feature type is {self.type!r}; only 'vocos' features are known.",
        )
        for name, low, high in (
            ("sampling_rate", 1000, 384_000),
            ("n_mels", 1, 10_000),
            ("n_fft", 2, 1_000_000),
            ("hop_length", 1, 1_000_000),
        ):
            check_number(name, getattr(self, name), low, high, whole=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How to solve the ODE; `SamplingConfig.for_kind` gives the official defaults.

    `schedule` says where the steps lie before `t_shift` moves them towards noise: equally spaced
    ("uniform", the official rule), or by the tables of EPSS ("epss"), which are for some numbers
    of steps only. With `t_shift=1` the times of either are taken as they stand.

    `speaker_guidance`, `voice_matching` and `voice_contrast` are not official, and 0 by default but
    for models of `speaker_prompts="own"`, with one channel or, `voice_matching`, any; see
    `zipvoice_jax.flow.sampling.sample`.
    """

    num_step: int = 16
    schedule: TimeSchedule = "uniform"
    guidance_scale: float = 1.5
    speaker_guidance: float = 0.0  # away from the other speaker's voice
    voice_matching: float = 0.0  # share of the way to the prompt's mean and deviation
    voice_contrast: float = 0.0  # and beyond them, away from the other speaker's
    t_shift: float = 0.5
    speed: float = 1.0
    target_rms: float = 0.1
    feat_scale: float = 0.1
    max_duration: float = 100.0  # seconds of prompt and speech in one batch
    seed: int = 666

    def __post_init__(self) -> None:
        check_number("num_step", self.num_step, 1, 1000, whole=True)
        for name, low, high in (
            ("guidance_scale", 0.0, 100.0),
            ("speaker_guidance", 0.0, 100.0),
            ("voice_matching", 0.0, 1.0),
            ("voice_contrast", 0.0, 10.0),
            ("t_shift", 1e-3, 1.0),
            ("speed", 0.05, 20.0),
            ("target_rms", 0.0, 1.0),
            ("feat_scale", 1e-4, 100.0),
            ("max_duration", 1.0, 1e6),
        ):
            check_number(name, getattr(self, name), low, high)
        check_number("seed", self.seed, 0, 2**32 - 1, whole=True)
        check_choice("schedule", self.schedule, get_args(TimeSchedule))
        *most, last = EPSS_TIMES
        require(
            self.schedule != "epss" or self.num_step in EPSS_TIMES,
            f"num_step is {self.num_step}, for which the schedule epss has no table; give "
            f"{', '.join(map(str, most))} or {last} steps, or take the schedule uniform.",
        )

    @property
    def steps_in_words(self) -> str:
        """How many steps, and by which schedule, in words."""
        return f"{self.num_step} {'' if self.schedule == 'uniform' else f'{self.schedule} '}steps"

    @classmethod
    def for_kind(cls, kind: str, **overrides: Any) -> "SamplingConfig":
        """Official defaults of a model (infer_zipvoice.py, infer_zipvoice_dialog.py).

        Args:
            kind: one of `MODEL_KINDS`.
            **overrides: values that replace a default; None leaves the default.
        """
        check_choice("kind", kind, MODEL_KINDS)
        defaults = {
            "zipvoice": {"num_step": 16, "guidance_scale": 1.0},
            "zipvoice_distill": {"num_step": 8, "guidance_scale": 3.0},
        }.get(kind, {"num_step": 16, "guidance_scale": 1.5})
        return cls(**{**defaults, **{k: v for k, v in overrides.items() if v is not None}})

    @classmethod
    def for_model(cls, config: ModelConfig, **overrides: Any) -> "SamplingConfig":
        """Defaults of a model: the official ones of its kind, and what only models of ours have.

        Args:
            config: the model's config.
            **overrides: values that replace a default; None leaves the default.

        Raises:
            UserError: a value that this model can't use.
        """
        steered = {}
        named = {k: v for k, v in overrides.items() if v is not None}
        if config.has_own_prompts:
            steered = {"voice_matching": 1.0}
            if config.samples_by_speaker:
                steered["speaker_guidance"] = 1.0
            if named.get("voice_matching") != 0.0 and not config.is_stereo:
                steered["voice_contrast"] = 0.5
        sampling = cls.for_kind(config.kind, **{**steered, **named})
        require(
            config.samples_by_speaker or not sampling.speaker_guidance,
            f"speaker_guidance is {sampling.speaker_guidance:g}, which needs a model that samples "
            "each speaker from their own part of the prompt (speaker_prompts own), in one channel "
            "for both; leave it out.",
        )
        require(
            sampling.voice_matching > 0.0 or not sampling.voice_contrast,
            f"voice_contrast is {sampling.voice_contrast:g}, which moves what voice_matching aims "
            "at; give voice_matching too, such as 1, or leave it out.",
        )
        require(
            not sampling.voice_contrast or (config.is_dialog and not config.is_stereo),
            f"voice_contrast is {sampling.voice_contrast:g}, which sets apart the speakers of a "
            "dialogue in one channel; leave it out.",
        )
        return sampling


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}).") from None
