"""The metrics, and the settings of a judge; checked on construction."""

import dataclasses
from typing import Any, Literal, get_args

from zipvoice_jax.core.errors import require
from zipvoice_jax.judge.words import LANGUAGES, NORMALISERS

Attribution = Literal["auto", "channel", "cluster", "prompt", "tags"]
ATTRIBUTIONS: tuple[str, ...] = get_args(Attribution)
ROLES = ("recogniser", "speaker_encoder", "quality_predictor")  # of backends


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of a report: a ratio of two sums over items.

    Attributes:
        title: its name in tables.
        unit: unit of the number.
        scale: factor from the ratio to the unit.
        better: "lower", "higher", or "" if neither is better.
        needs: roles of the backends that it uses.
    """

    title: str
    unit: str
    scale: float = 1.0
    better: str = ""
    needs: tuple[str, ...] = ()


_HEAR = ("recogniser",)
_WHO = ("recogniser", "speaker_encoder")
# The numbers that belong to each name of --metrics.
METRICS: dict[str, dict[str, Metric]] = {
    "wer": {"wer": Metric("WER", "%", 100.0, "lower", _HEAR)},
    "cpwer": {
        "cpwer": Metric("cpWER", "%", 100.0, "lower", _WHO),
        "cpwer_short": Metric("cpWER up to 30 s", "%", 100.0, "lower", _WHO),
        "cpwer_long": Metric("cpWER above 30 s", "%", 100.0, "lower", _WHO),
    },
    "sim": {"sim": Metric("SIM", "", 1.0, "higher", ("speaker_encoder",))},
    "voices": {
        "voices": Metric("turns nearer to their own prompt", "%", 100.0, "higher", _WHO),
    },
    "cpsim": {"cpsim": Metric("cpSIM", "", 1.0, "higher", _WHO)},
    "mos": {"mos": Metric("MOS", "", 1.0, "higher", ("quality_predictor",))},
    "rate": {"rate": Metric("speaking rate", "words/s")},
    "silence": {
        "silence": Metric("silence", "%", 100.0),
        "pause": Metric("mean pause", "s"),
        "longest_pause": Metric("longest pause", "s"),
    },
    "turns": {
        "turns": Metric("turns, of those written", "%", 100.0, "", _WHO),
        "gap": Metric("mean gap at a change", "s", 1.0, "", _WHO),
        "overlaps": Metric("changes that overlap", "%", 100.0, "", _WHO),
        "overlap": Metric("mean overlap", "s", 1.0, "", _WHO),
    },
    "leakage": {"leakage": Metric("leakage", "dB", 1.0, "lower")},
    "rtf": {"rtf": Metric("RTF", "", 1.0, "lower")},
}
ALL_METRICS = {name: metric for group in METRICS.values() for name, metric in group.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """A judge.

    Attributes:
        metrics: names in `METRICS`.
        language: language of the speech.
        recogniser: name of the backend that recognises words.
        speaker_encoder: name of the backend that encodes voices.
        quality_predictor: name of the backend that predicts opinion scores.
        normaliser: normalisation of texts before words are counted.
        attribution: how words are attributed to speakers. "channel": speaker 1 left, 2 right;
            "cluster": groups of phrases by voice; "prompt": the prompt with the most similar
            voice; "tags": the tags that the recogniser writes, as WhisperD does (it writes no
            times, so turns and voices go by "cluster"); "auto": "channel" for two channels, else
            "cluster".
    """

    metrics: tuple[str, ...] = tuple(METRICS)
    language: str = "en"
    recogniser: str = "whisper-tiny"
    speaker_encoder: str = "resemblyzer"
    quality_predictor: str = "dnsmos"
    normaliser: str = "whisper"
    attribution: Attribution = "auto"

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        require(
            len(self.metrics) > 0 and not unknown,
            f"the metrics {', '.join(unknown) or 'are none'}; choose some of {', '.join(METRICS)}.",
        )
        for name, value, choices in (
            ("language", self.language, LANGUAGES),
            ("normaliser", self.normaliser, NORMALISERS),
            ("attribution", self.attribution, ATTRIBUTIONS),
        ):
            require(value in choices, f"{name} is {value!r}; choose one of {', '.join(choices)}.")

    @classmethod
    def by_name(cls, name: str, language: str, *, dialogue: bool, **others: Any) -> "JudgeConfig":
        """The judge of a name in `JUDGES`, for a language, with some settings replaced.

        Args:
            name: a key of `JUDGES`.
            language: language of the speech.
            dialogue: whether the speech is of several speakers.
            others: settings that replace those of the name.
        """
        require(name in JUDGES, f"the judges {name!r} are unknown; choose {' or '.join(JUDGES)}.")
        settings = JUDGES[name].get(language, {})
        if dialogue:
            settings = {**settings, **_OF_DIALOGUES.get((name, language), {})}
        return cls(language=language, **{**settings, **others})

    def roles(self) -> set[str]:
        """Roles of the backends that the metrics use."""
        wanted = (METRICS[name].values() for name in self.metrics)
        return {role for group in wanted for metric in group for role in metric.needs}


_PAPER = {
    "speaker_encoder": "wavlm-ecapa",
    "quality_predictor": "utmos",
    "normaliser": "official",
}
# Settings by language: those that only need packages, and those of the official evaluation
# (zipvoice/eval; its diariser for cpSIM is pyannote, here it is groups of similar voices).
JUDGES: dict[str, dict[str, dict[str, str]]] = {
    "offline": {"zh": {"recogniser": "whisper-base"}},
    "paper": {
        "en": {**_PAPER, "recogniser": "whisper-large-v3"},
        "zh": {**_PAPER, "recogniser": "paraformer"},
    },
}
_OF_DIALOGUES = {("paper", "en"): {"recogniser": "whisper-d", "attribution": "tags"}}
