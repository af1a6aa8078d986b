"""Files of a corpus of make_speech.py: clips with the facts about them, mixtures, manifests.

Each is written under another name first, so that what bears its name is whole.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from conversations import Clip
from kokoro import RATE
from speech_plan import Speech

REVISION = 2  # of how clips are made; those of another one are made again


def clip_paths(to: Path, speech_id: str) -> tuple[Path, Path]:
    """The wave and the facts of a clip."""
    folder = to / "clips" / re.split(r"_\d", speech_id, maxsplit=1)[0]
    return folder / f"{speech_id}.wav", folder / f"{speech_id}.json"


def facts_of(to: Path, speech: Speech) -> dict[str, Any] | None:
    """What is known of a clip, or None where it is missing or says something else."""
    wave, facts = clip_paths(to, speech.id)
    try:
        found = json.loads(facts.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    wanted = {
        "text": speech.text, "voice": speech.voice, "speed": speech.speed, "revision": REVISION,
    }  # fmt: skip
    same = wanted.items() <= found.items() and found.get("shift", 1.0) == speech.shift
    return found if same and wave.is_file() else None


def write_whole(path: Path, text: str) -> None:
    """Writes a text file by way of another name."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_wave(path: Path, wave: np.ndarray) -> None:
    """Writes a wave, (samples,) or (samples, 2), in 16 bit, by way of another name."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    soundfile.write(partial, wave, RATE, subtype="PCM_16", format="WAV")
    partial.replace(path)


def clips_of(to: Path, speeches: Sequence[Speech]) -> list[Clip]:
    """The lengths and times of clips that were made."""
    clips = []
    for speech in speeches:
        facts = facts_of(to, speech)
        assert facts is not None
        samples = soundfile.info(clip_paths(to, speech.id)[0]).frames
        clips.append(Clip(samples, tuple(facts["token_starts"]), facts["onset"]))
    return clips


def waves_of(to: Path, speeches: Sequence[Speech]) -> list[np.ndarray]:
    """Clips that were made, float32."""
    paths = [clip_paths(to, speech.id)[0] for speech in speeches]
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def is_made(path: Path, samples: int) -> bool:
    """Whether a mixture is there in its full length."""
    return path.is_file() and soundfile.info(path).frames == samples


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSONL manifest."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
