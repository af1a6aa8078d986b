"""What is in a corpus of make_speech.py: its manifest and its report."""

import argparse
import collections
import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kokoro import NETWORK_SHA256, VOICES_PACKAGE
from speech_plan import HELD_OUT_VOICES, Voice
from speech_texts import HELD_OUT, WORDNET_LICENCE

from zipvoice_jax.text.tokenizer import make_tokenizer

SETS = ("single", "dialogue", "stereo", "single_dev", "dialogue_dev", "stereo_dev",
        "truth_dialogue", "truth_stereo")  # fmt: skip


def write_manifest(
    path: Path,
    args: argparse.Namespace,
    cast: Mapping[str, Voice],
    held_out: Mapping[str, Voice],
) -> None:
    """Writes seed, sizes, voices, versions and licences of a corpus."""
    sizes = (
        "seed",
        "utterances",
        "joined",
        "dialogues",
        "recombined",
        "dev",
        "tests",
        "voices",
        "shifted",
    )
    packages = ("onnxruntime", "numpy", "piper-phonemize-fix")
    manifest = {
        "made_by": "data/demo/make_speech.py",
        **{name: getattr(args, name) for name in sizes},
        "speech": {
            "model": f"Kokoro-82M, int8, sha256 {NETWORK_SHA256}...",
            "voices": VOICES_PACKAGE,
            "licence": "Apache-2.0",
        },
        "texts": {
            "examples": "WordNet 3.0 (Debian's wordnet-base 1:3.0-37)",
            "licence": WORDNET_LICENCE,
            "templates": "data/demo/templates.txt and conversations.txt, Apache-2.0",
        },
        "held_out": {
            "voices": list(HELD_OUT_VOICES),
            "texts": f"one in {HELD_OUT} of those of four words or more, by their hash",
        },
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "voices_of_training": [dataclasses.asdict(voice) for voice in cast.values()],
        "voices_of_tests": [dataclasses.asdict(voice) for voice in held_out.values()],
    }
    _write(path, json.dumps(manifest, indent=1) + "\n")


def write_report(to: Path) -> str:
    """Writes report.json and report.txt about the manifests that are there; gives the text."""
    found = {}
    for name in SETS:
        path = to / f"{name}.jsonl"
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            found[name] = summary([json.loads(line) for line in lines])
    _write(to / "report.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    text = "\n\n".join(f"{name}\n{_as_text(facts)}" for name, facts in found.items())
    _write(to / "report.txt", text + "\n")
    return text


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of one manifest; durations and gaps as quantiles (0, 5, 50, 95, 100 %)."""
    tagged = [row for row in rows if "voices" in row]
    tokenizer = make_tokenizer("dialog" if tagged else "emilia")
    tokens = collections.Counter(t for row in rows for t in tokenizer.tokens(row["text"]))
    words = collections.Counter(
        word
        for row in rows
        for word in re.findall(r"[a-z']+", re.sub(r"\[S\d\]", "", row["text"]).lower())
    )
    voices = collections.Counter(v for row in rows for v in row.get("voices", [row.get("voice")]))
    facts: dict[str, Any] = {
        "items": len(rows),
        "hours": round(sum(row["duration"] for row in rows) / 3600, 3),
        "seconds": _quantiles([row["duration"] for row in rows]),
        "texts": len({row["text"] for row in rows}),
        "words": words.total(),
        "different_words": len(words),
        "voices": len(voices),
        "items_of_a_voice": [min(voices.values()), max(voices.values())] if voices else [],
        "tokens": dict(tokens.most_common()),
    }
    if tagged:
        gaps = [gap for row in rows for gap in row["gaps"]]
        turns = collections.Counter(len(row["gaps"]) + 1 for row in rows)
        facts["turns"] = {str(count): turns[count] for count in sorted(turns)}
        facts["gaps"] = _quantiles([gap for gap in gaps if gap >= 0])
        facts["overlaps"] = _quantiles([-gap for gap in gaps if gap < 0])
        facts["overlapping_changes"] = round(float(np.mean([gap < 0 for gap in gaps])), 3)
    return facts


def _quantiles(values: Sequence[float]) -> list[float]:
    if not values:
        return []
    return [round(float(q), 3) for q in np.quantile(values, (0.0, 0.05, 0.5, 0.95, 1.0))]


def _as_text(facts: Mapping[str, Any]) -> str:
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key!r} {count}" for key, count in value.items())
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        lines.append(f"  {name.replace('_', ' ')}: {value}")
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
