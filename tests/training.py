"""A training run that is as small as can be, for the tests of training."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import write_dataset
from flax.traverse_util import flatten_dict

from zipvoice_jax.checkpoint.native import read_native
from zipvoice_jax.data.utterance import Utterance

RATE = 16_000
TOKENS = Path(__file__).parent / "golden" / "tokens_dialog.txt"
# Everything in a log entry but what depends on the machine's speed.
TIMES = ("frames_per_second", "teraflops", "utilisation")

CONFIG = """
from zipvoice_jax.config import ModelConfig
from zipvoice_jax.data.config import DataConfig, SourceConfig
from zipvoice_jax.train.config import Stage, TrainConfig
from zipvoice_jax.train.optimizer import OptimizerConfig


def get_config(
    data: str, steps: int = 8, batch_multiple: int = 1, stages: str = "one,two",
    valid: bool = False, optimizer: str = "scaled_adam", average: str = "running",
    accumulate: int = 1, tokens: str = TOKENS_PATH,
):
    def of(name, split="train", **rest):
        seconds = 3.0 * max(4, batch_multiple)
        return DataConfig((SourceConfig(f"{data}/{name}", split),), seconds, buckets=1, **rest)

    model = ModelConfig(
        fm_decoder_downsampling_factor=(1,), fm_decoder_num_layers=(1,),
        fm_decoder_cnn_module_kernel=(3,), fm_decoder_feedforward_dim=16, fm_decoder_num_heads=1,
        fm_decoder_dim=16, text_encoder_num_layers=1, text_encoder_feedforward_dim=16,
        text_encoder_cnn_module_kernel=3, text_encoder_num_heads=1, text_encoder_dim=16,
        query_head_dim=4, value_head_dim=4, pos_head_dim=2, pos_dim=8, time_embed_dim=16,
        text_embed_dim=16,
    )
    known = (
        Stage(name="one", kind="zipvoice", steps=steps, data=of("mono"), learning_rate=0.02),
        Stage(
            name="two", kind="zipvoice_dialog", steps=steps, data=of("mono"), mask="suffix",
            mask_low=0.5, batch_count_offset=1e5, learning_rate=0.01,
        ),
        Stage(
            name="three", kind="zipvoice_dialog_stereo", steps=steps, mask="suffix",
            data=of("stereo", channels="alternate"), exclusive_weight=1.0, learning_rate=0.01,
            valid=of("stereo", "dev", channels="stereo") if valid else None,
        ),
    )
    return TrainConfig(
        model=model, stages=tuple(stage for stage in known if stage.name in stages.split(",")),
        tokens=tokens, batch_multiple=batch_multiple, average_period=2, export_window=4,
        log_every=1, save_every=3, keep_last=2, samples=0,
        optimizer=OptimizerConfig(name=optimizer), average=average, accumulate=accumulate,
    )
""".replace("TOKENS_PATH", repr(str(TOKENS)))


def speechlike(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Noise whose level moves like syllables."""
    time = np.arange(round(seconds * RATE)) / RATE
    level = 0.05 * (1.2 + np.sin(2 * np.pi * 3.0 * time + rng.uniform(0, 6)))
    return (level * rng.standard_normal(len(time))).astype(np.float32)


def flac(wave: np.ndarray) -> bytes:
    """An encoded file of (samples,) or (samples, channels)."""
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, format="FLAC")
    return file.getvalue()


def make_data(folder: Path, count: int = 15) -> Path:
    """FOLDER/mono and FOLDER/stereo: short dialogues of made-up sound."""
    rng = np.random.default_rng(0)
    mono, stereo = [], []
    for i in range(count):
        seconds = float(rng.uniform(1.2, 2.9))
        left, right = speechlike(rng, seconds), speechlike(rng, seconds)
        text, tokens = "[S1] hello [S2] you", ("[S1]", *"hɛlo", "[S2]", *"ju")
        fields = ("en", seconds)
        mono.append(Utterance(f"m{i}", text, tokens, *fields, 1, flac(left)))
        both = flac(np.stack([left, right], axis=1))
        stereo.append(Utterance(f"s{i}", text, tokens, *fields, 2, both))
    for name, utterances in (("mono", mono), ("stereo", stereo)):
        write_dataset(folder / name, name, {"train": utterances[3:], "dev": utterances[:3]})
    return folder


def write_config(folder: Path) -> Path:
    """The config as a file."""
    path = folder / "small.py"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def make_place(folder: Path) -> Path:
    """A folder with data and config, where runs go."""
    make_data(folder)
    write_config(folder)
    return folder


def command(place: Path, run: str, *settings: str) -> list[str]:
    """`train` into PLACE/RUN, with settings of the config beside its data."""
    sets = [part for setting in (f"data={place}", *settings) for part in ("--set", setting)]
    return ["train", "--config", str(place / "small.py"), "--to", str(place / run), *sets]


def weights(folder: Path) -> dict[tuple[str, ...], np.ndarray]:
    """Parameters of an exported model."""
    return flatten_dict(read_native(folder).params)


def entries(run: Path) -> list[dict[str, Any]]:
    """The log of a run without what depends on the machine's speed."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
