"""Ablations: rows that differ in one thing, each trained with several seeds, spoken and judged.

All is done by commands of `zipvoice-jax`, which are written down as they were run; what is done is
not done again. Rows with the same training share it.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zipvoice_jax.core.errors import UserError, require
from zipvoice_jax.core.files import write_json, write_text
from zipvoice_jax.evaluate.config import ALL_METRICS
from zipvoice_jax.evaluate.page import draw_estimates
from zipvoice_jax.evaluate.run import load
from zipvoice_jax.evaluate.summary import LEVEL, Records, difference, summarise, table
from zipvoice_jax.train.folder import CONFIG


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        name: for the table.
        settings: arguments of the config file's get_config, NAME=VALUE.
        generate: options of `generate`.
        test_list: what is said, if not that of the ablation.
    """

    name: str
    settings: tuple[str, ...] = ()
    generate: tuple[str, ...] = ()
    test_list: str | None = None


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Rows under one budget; the first is what the others are compared with.

    Attributes:
        question: that it answers.
        stage: whose model speaks.
        rows: the variants.
        metrics: of `evaluate`.
    """

    question: str
    stage: str
    rows: tuple[Row, ...]
    metrics: tuple[str, ...] = ("wer", "cpwer", "cpsim", "mos", "turns")

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        require(
            len(names) > 1 and len(set(names)) == len(names),
            f"an ablation needs two rows or more with names of their own, not {names}.",
        )


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all rows have in common.

    Attributes:
        config: file with get_config and get_ablations.
        settings: of get_config, for all rows.
        test_list: what is said, as of `generate`.
        seeds: of training.
        generate: options of `generate` for all rows.
        evaluate: options of `evaluate` for all rows.
        to: folder of everything.
    """

    config: Path
    settings: tuple[str, ...]
    test_list: Path
    seeds: tuple[int, ...]
    generate: tuple[str, ...]
    evaluate: tuple[str, ...]
    to: Path


def read_ablations(path: Path) -> dict[str, Ablation]:
    """The ablations that a file's get_ablations returns.

    Raises:
        UserError: there are none.
    """
    if not path.is_file():
        raise UserError(f"the config {path} does not exist; give one such as configs/ablations.py.")
    try:
        make: Callable[[], Any] | None = runpy.run_path(str(path)).get("get_ablations")
        found = None if make is None else make()
    except Exception as error:  # a config is code and can fail in any way
        raise UserError(f"{path} cannot be used: {type(error).__name__}: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} has no get_ablations that returns a dict of Ablation; define one.")
    return found


def run_ablation(ablation: Ablation, setup: Setup, *, jobs: int) -> str:
    """Trains, speaks and judges every row with every seed; returns the table.

    Writes commands.sh, table.txt, table.json and table.png.

    Args:
        ablation: what varies.
        setup: what does not.
        jobs: commands that run at a time.

    Raises:
        UserError: a command failed, or a file cannot be written.
    """
    pairs = [(row, seed) for row in ablation.rows for seed in setup.seeds]
    trainings = dict.fromkeys(_train(row, seed, setup) for row, seed in pairs)
    chains = [[command] for command in trainings]
    after = [_speak_and_judge(ablation, row, seed, setup) for row, seed in pairs]
    lines = [shlex.join(command) for chain in (*chains, *after) for command in chain]
    write_text(setup.to / "commands.sh", "set -e\n" + "\n".join(lines) + "\n")
    bar = tqdm(total=len(lines), desc="ablate", unit="command", file=sys.stderr, mininterval=0.5)
    with bar:
        _run_all(chains, setup.to, jobs, bar)
        _run_all(after, setup.to, jobs, bar)
    runs: dict[str, list[Records]] = {
        row.name: [load(_folder(row, seed, setup) / "report") for seed in setup.seeds]
        for row in ablation.rows
    }
    losses = {
        row.name: [_valid_loss(row, seed, setup) for seed in setup.seeds] for row in ablation.rows
    }
    return _report(ablation, setup, runs, losses)


def _train(row: Row, seed: int, setup: Setup) -> tuple[str, ...]:
    settings = (*setup.settings, *row.settings, f"seed={seed}")
    sets = [part for setting in settings for part in ("--set", setting)]
    run = _run_folder(row, seed, setup)
    return ("train", "--config", str(setup.config), "--to", str(run), *sets)


def _run_folder(row: Row, seed: int, setup: Setup) -> Path:
    return setup.to / "models" / f"{_digest((*setup.settings, *row.settings))}-seed{seed}"


def _folder(row: Row, seed: int, setup: Setup) -> Path:
    slug = "".join(c if c.isalnum() else "_" for c in row.name).strip("_")
    return setup.to / "rows" / slug / f"seed{seed}"


def _speak_and_judge(
    ablation: Ablation, row: Row, seed: int, setup: Setup
) -> list[tuple[str, ...]]:
    folder = _folder(row, seed, setup)
    test_list, model = row.test_list or str(setup.test_list), _run_folder(row, seed, setup)
    speak = (
        "generate", "--model-dir", str(model / ablation.stage), "--test-list", test_list,
        "--res-dir", str(folder / "wavs"), *setup.generate, *row.generate,
    )  # fmt: skip
    judge = (
        "evaluate", "--test-list", test_list, "--wav-dir", str(folder / "wavs"),
        "--to", str(folder / "report"), "--metrics", *ablation.metrics, *setup.evaluate,
    )  # fmt: skip
    return [speak, judge]


def _digest(words: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def _run_all(
    chains: Sequence[Sequence[tuple[str, ...]]], to: Path, jobs: int, bar: "tqdm[Any]"
) -> None:
    """Runs chains of commands, several at a time; the first failure ends all."""

    def work(chain: Sequence[tuple[str, ...]]) -> None:
        for command in chain:
            _run(command, to)
            bar.update()

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(work, chain) for chain in chains]
        try:
            for future in concurrent.futures.as_completed(waiting):
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run(command: tuple[str, ...], to: Path) -> None:
    """Runs a command unless it was done; its words go to a log."""
    log = to / "logs" / f"{command[0]}-{_digest(command)}.log"
    done = log.with_suffix(".done")
    if done.is_file():
        return
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as said:
            status = subprocess.run(
                [sys.executable, "-m", "zipvoice_jax.cli.main", *command],
                stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, check=False,
            ).returncode  # fmt: skip
        last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1:]
    except OSError as error:
        raise UserError(f"{log} cannot be written ({error.strerror}).") from None
    if status:
        raise UserError(
            f"`zipvoice-jax {shlex.join(command)}` ended with {status} ({''.join(last)}); "
            f"see {log}. The same command goes on."
        )
    write_text(done, "")


def _valid_loss(row: Row, seed: int, setup: Setup) -> float | None:
    """The last validation loss of a run."""
    path = _run_folder(row, seed, setup) / "log.jsonl"
    entries = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    losses = [entry.get("flow") for entry in entries if entry.get("kind") == "valid"]
    return losses[-1] if losses else None


def _trained_on(row: Row, seed: int, setup: Setup) -> str:
    """Steps, audio and datasets of a run's stages, as its config says."""
    path = _run_folder(row, seed, setup) / CONFIG
    told = []
    for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]:
        data = stage["data"]
        names = "+".join(Path(source["path"]).name for source in data["sources"])
        told.append(f"{stage['steps']} x {data['batch_seconds']:g} s of {names}")
    return ", ".join(told)


def _report(
    ablation: Ablation,
    setup: Setup,
    runs: dict[str, list[Records]],
    losses: dict[str, list[float | None]],
) -> str:
    systems = {row.name: summarise(*runs[row.name]) for row in ablation.rows}
    first = ablation.rows[0].name
    names = [name for name in ALL_METRICS if any(name in found for found in systems.values())]
    titles = [f"{ALL_METRICS[n].title} {ALL_METRICS[n].unit}".strip() for n in names]
    rows = [["", "trained on", "validation loss", *titles]]
    for row in ablation.rows:
        told = ["" if one is None else f"{one:.4f}" for one in losses[row.name]]
        cells = [row.name, _trained_on(row, setup.seeds[0], setup), " ".join(told)]
        for name in names:
            one = systems[row.name].get(name)
            cells.append("" if one is None else one.told(ALL_METRICS[name]))
        rows.append(cells)
    deltas = [["less the first", "", "", *titles]]
    for row in ablation.rows[1:]:
        found = [difference(runs[row.name], runs[first], name) for name in names]
        told = [
            "" if one is None else one.told(ALL_METRICS[name], sign=True)
            for one, name in zip(found, names, strict=True)
        ]
        deltas.append([row.name, "", "", *told])
    count = len(runs[first][0])
    text = (
        f"{ablation.question}\n{len(setup.seeds)} seeds, {count} items; intervals of {LEVEL:g} % "
        f"by drawing seeds and items anew; a validation loss for each seed\n\n"
        f"{table(rows)}\n\n{table(deltas)}"
    )
    write_text(setup.to / "table.txt", text + "\n")
    content = {
        row.name: {
            "trained_on": _trained_on(row, setup.seeds[0], setup),
            "validation_loss": losses[row.name],
            **{name: dataclasses.asdict(one) for name, one in systems[row.name].items()},
        }
        for row in ablation.rows
    }
    about = {"question": ablation.question, "seeds": list(setup.seeds), "rows": content}
    write_json(setup.to / "table.json", about)
    draw_estimates(systems, setup.to / "table.png")
    return text
