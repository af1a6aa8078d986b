"""Ablations: rows that differ in one thing, each trained with several seeds, spoken and judged.

Commands of `zipvoice-jax` do all the work and are written to commands.sh; finished ones do not run
again. Rows with the same training share it. Invalid input is refused before any training.
"""

import dataclasses
import functools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zipvoice_jax.ablation.commands import Command, Slot, find_slots, identity, run_all
from zipvoice_jax.ablation.report import RowResult, of_common_items, write_report
from zipvoice_jax.checkpoint.hub import find_start
from zipvoice_jax.config import SamplingConfig
from zipvoice_jax.core.errors import UserError, require
from zipvoice_jax.core.files import write_text
from zipvoice_jax.core.progress import progress_bar
from zipvoice_jax.data.alignment import alignment_name
from zipvoice_jax.data.records import index_name, open_split
from zipvoice_jax.infer.prepare import Preparation
from zipvoice_jax.infer.requests import Request, read_usable, wave_path
from zipvoice_jax.judge.packages import sha256_of_files
from zipvoice_jax.judge.page import PAGE
from zipvoice_jax.judge.run import ITEMS, read_report
from zipvoice_jax.text.tokenizer import make_tokenizer
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.load import config_errors, function_of
from zipvoice_jax.train.log import LOG, read_log
from zipvoice_jax.train.stages import plan_stage

LoadConfig = Callable[[Sequence[str]], TrainConfig]


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant.

    Attributes:
        name: name in the table.
        settings: arguments of the config file's get_config, NAME=VALUE.
        generate: options of `generate`.
    """

    name: str
    settings: tuple[str, ...] = ()
    generate: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name for folders."""
        return "".join(c if c.isalnum() else "_" for c in self.name).strip("_")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Rows under one budget; the others are compared with the first.

    Attributes:
        question: the question that it answers.
        stage: the stage whose model speaks.
        rows: the variants.
        metrics: metrics of `evaluate`. With "rtf" nothing runs beside a `generate`.
    """

    question: str
    stage: str
    rows: tuple[Row, ...]
    metrics: tuple[str, ...] = ("wer", "cpwer", "cpsim", "mos", "turns")

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        require(
            len(names) > 1 and len({row.folder for row in self.rows}) == len(names),
            "an ablation needs two rows or more with names of their own (in letters and digits), "
            f"not {names}.",
        )


@dataclasses.dataclass(frozen=True)
class Setup:
    """The settings that all rows share.

    Attributes:
        config: file with get_config and get_ablations.
        settings: arguments of get_config, for all rows.
        test_list: list to speak, as for `generate`.
        seeds: seeds of training.
        generate: options of `generate` for all rows.
        evaluate: options of `evaluate` for all rows.
        judge: description of the judge, from `Judge.describe`.
        to: folder for all output.
    """

    config: Path
    settings: tuple[str, ...]
    test_list: Path
    seeds: tuple[int, ...]
    generate: tuple[str, ...]
    evaluate: tuple[str, ...]
    judge: Mapping[str, Any]
    to: Path


@dataclasses.dataclass(frozen=True)
class _Run:
    """A row with a seed.

    Attributes:
        config: config of its training.
        model: folder of its training.
        report: folder of the judge's report.
        train: command of its training; equal for rows that share a training.
        speak: command that generates the list, after `train`.
        judge: command that judges the speech, after `speak`.
    """

    config: TrainConfig
    model: Path
    report: Path
    train: Command
    speak: Command
    judge: Command

    @property
    def has_spoken(self) -> bool:
        """True once there is any of its speech."""
        return any(path.exists() for path in self.speak.makes)


def read_ablations(path: Path) -> dict[str, Ablation]:
    """The ablations that a file's get_ablations returns.

    Raises:
        UserError: there are none.
    """
    make = function_of(path, "get_ablations", "a dict of Ablation")
    with config_errors(path):
        ablations = make()
    if not isinstance(ablations, dict):
        raise UserError(f"get_ablations of {path} returns no dict; make it return one of Ablation.")
    return ablations


def run_ablation(
    ablation: Ablation,
    setup: Setup,
    load_config: LoadConfig,
    *,
    jobs: int,
    per_gpu: int = 1,
    so_far: bool = False,
) -> str:
    """Trains, speaks and judges every row with every seed; returns the table.

    Writes commands.sh, table.txt, table.json and table.png.

    Args:
        ablation: the rows.
        setup: the settings that all rows share.
        load_config: makes a training config from settings.
        jobs: number of commands at a time, each on an accelerator of its own if there are any.
        per_gpu: number of commands that may share a GPU.
        so_far: only judge the speech that is there already. The table then has the rows with
            speech of every seed, and the items that all of these have spoken.

    Raises:
        UserError: an input cannot be used, a command failed, a file cannot be written, or nothing
            has been spoken so far.
    """
    configs = {
        (row.name, seed): load_config([*setup.settings, *row.settings, f"seed={seed}"])
        for row in ablation.rows
        for seed in setup.seeds
    }
    for (name, _), config in configs.items():
        if ablation.stage not in (stages := [stage.name for stage in config.stages]):
            raise UserError(
                f"row {name!r} trains {', '.join(stages)}, but {ablation.stage} is to speak; "
                "leave it in."
            )
    # Once for each dataset and each model that rows start from.
    of_data, of_model = functools.cache(_identity_of_data), functools.cache(identity_of_model)
    trainings = {
        key: _identity_of_run(config, of_data, of_model) for key, config in configs.items()
    }
    items = read_test_list(setup.test_list, _preparation(ablation, next(iter(configs.values()))))
    slots = find_slots(jobs, per_gpu)
    list_id = _identity_of_items(items)
    runs = {
        (row.name, seed): _plan(ablation, setup, row, seed, configs[row.name, seed],
                                trainings[row.name, seed], items, list_id)
        for row in ablation.rows
        for seed in setup.seeds
    }  # fmt: skip
    names, note = [row.name for row in ablation.rows], ""
    if so_far:
        silent = [n for n in names if not all(runs[n, seed].has_spoken for seed in setup.seeds)]
        if silent == names:
            raise UserError(
                f"no row in {setup.to} has spoken with each of the seeds "
                f"{', '.join(map(str, setup.seeds))} so far; leave --so-far out, or give fewer "
                "--seeds."
            )
        names = [name for name in names if name not in silent]
        note = f"So far without speech of every seed: {', '.join(silent)}." if silent else ""
        judging = [
            dataclasses.replace(run.judge, makes=(run.report / PAGE,), partial=True)
            for name in names
            for run in (runs[name, seed] for seed in setup.seeds)
        ]
        _run([judging], setup, [slots])
    else:
        _run_all(list(runs.values()), ablation, setup, slots)
    ids = {item.item_id for item in items}
    outcomes = {
        name: [_outcome(runs[name, seed], ablation.stage, ids) for seed in setup.seeds]
        for name in names
    }
    if so_far:
        outcomes = of_common_items(outcomes)
    trained_on = _trained_on({name: configs[name, setup.seeds[0]] for name in names})
    return write_report(ablation.question, setup.seeds, trained_on, outcomes, setup.to, note=note)


def read_test_list(path: Path, prepare: Callable[[Request], Any]) -> list[Request]:
    """The items of a test list, after a check that all can be spoken.

    Raises:
        UserError: one cannot; `generate` would fail on it after every training.
    """
    items = read_usable(path)
    for item in progress_bar(items, desc="check", unit="item", leave=False):
        try:
            prepare(item)
        except UserError as error:
            raise UserError(f"the list {path}: {item.item_id}: {error}") from None
    return items


def _preparation(ablation: Ablation, config: TrainConfig) -> Preparation:
    """The preparation of items by `generate`."""
    names = [stage.name for stage in config.stages]
    model = plan_stage(config, names.index(ablation.stage))
    return Preparation(
        model=model.config,
        features=config.features,
        sampling=SamplingConfig.for_model(model.config),
        tokenizer=make_tokenizer("dialog" if model.config.is_dialog else "emilia", model.table),
    )


def _identity_of_data(path: str, split: str) -> str:
    """An identity that changes with the dataset."""
    open_split(path, split)  # refuses one that cannot be used
    learned = Path(path) / alignment_name(split)
    beside = sha256_of_files(learned) if learned.exists() else ""
    return sha256_of_files(Path(path) / index_name(split)) + beside


def _identity_of_run(
    config: TrainConfig, of_data: Callable[[str, str], str], of_model: Callable[[Path], str]
) -> str:
    """An identity that changes with the training."""
    parts = [data for stage in config.stages for data in (stage.data, stage.valid) if data]
    data = [of_data(source.path, source.split) for part in parts for source in part.sources]
    tables = [plan_stage(config, i).table.fingerprint for i in range(len(config.stages))]
    begun = "" if config.init is None else of_model(find_start(config.init))
    return identity(config.to_dict(), data, tables, begun)


def identity_of_model(folder: Path) -> str:
    """An identity that changes with the files of a model's directory."""
    return identity(*[sha256_of_files(p) for p in sorted(folder.rglob("*")) if p.is_file()])


def _identity_of_items(items: Sequence[Request]) -> str:
    """An identity that changes with the texts and the prompts."""
    prompts = dict.fromkeys(path for item in items for path in item.prompt_wavs)
    texts = [
        [item.item_id, item.text, item.prompt_texts, item.speed, item.duration] for item in items
    ]
    wavs = [[str(path), sha256_of_files(path)] for path in prompts]
    return identity(texts, [list(map(str, item.prompt_wavs)) for item in items], wavs)


def _plan(
    ablation: Ablation,
    setup: Setup,
    row: Row,
    seed: int,
    config: TrainConfig,
    training: str,
    items: Sequence[Request],
    list_id: str,
) -> _Run:
    """The commands of a row with a seed; `training` and `list_id` identify training and list."""
    settings = (*setup.settings, *row.settings, f"seed={seed}")
    sets = [part for setting in settings for part in ("--set", setting)]
    model = setup.to / "models" / f"{training}-seed{seed}"
    folder = setup.to / "rows" / row.folder / f"seed{seed}"
    spoken = identity(training, setup.generate, row.generate)  # by which model, and how
    wavs = folder / f"wavs-{spoken}"
    report = folder / f"report-{spoken}-{identity(dict(setup.judge))}"
    train = Command(
        ("train", "--config", str(setup.config), "--to", str(model), *sets),
        (training,),
        (model / LOG, model / ablation.stage),
    )
    speak = Command(
        ("generate", "--model-dir", str(model / ablation.stage),
         "--test-list", str(setup.test_list), "--res-dir", str(wavs), *setup.generate,
         *row.generate),
        (training, list_id),
        tuple(wave_path(wavs, item.item_id) for item in items),
    )  # fmt: skip
    judge = Command(
        ("evaluate", "--test-list", str(setup.test_list), "--wav-dir", str(wavs),
         "--to", str(report), "--metrics", *ablation.metrics, *setup.evaluate),
        (training, list_id, *speak.words),
        (report / ITEMS,),
    )  # fmt: skip
    return _Run(config, model, report, train, speak, judge)


def _run_all(runs: Sequence[_Run], ablation: Ablation, setup: Setup, slots: Sequence[Slot]) -> None:
    """Writes commands.sh and runs it all: the trainings, then the speech, then the judging."""
    # A training that rows share occurs once, with the settings of the first of them.
    trainings = {run.model: run.train for run in reversed(runs)}
    steps = [list(reversed(trainings.values())), [r.speak for r in runs], [r.judge for r in runs]]
    lines = [
        f"cd {shlex.quote(os.getcwd())}",
        *(command.line for step in steps for command in step),
    ]
    write_text(setup.to / "commands.sh", "set -e\n" + "\n".join(lines) + "\n")
    alone = [Slot()] if "rtf" in ablation.metrics else slots  # other work would slow it down
    _run(steps, setup, [slots, alone, slots])


def _run(steps: Sequence[Sequence[Command]], setup: Setup, slots: Sequence[Sequence[Slot]]) -> None:
    """Runs commands step after step, each step in slots of its own."""
    bar: tqdm[Any] = progress_bar(total=sum(map(len, steps)), desc="ablate", unit="command")
    with bar:
        for commands, where in zip(steps, slots, strict=True):
            run_all(commands, setup.to / "logs", where, bar)


def _outcome(run: _Run, stage: str, ids: set[str]) -> RowResult:
    records = [
        record
        for record in read_report(run.report)
        if record["id"] in ids and "error" not in record
    ]
    names = [trained.name for trained in run.config.stages]
    begin, end = run.config.boundaries[names.index(stage) :][:2]
    losses = [
        entry.get("flow")
        for entry in read_log(run.model / LOG)
        if entry["kind"] == "valid" and begin < entry["step"] <= end
    ]
    return RowResult(records, losses[-1] if losses else None)


def _trained_on(configs: Mapping[str, TrainConfig]) -> dict[str, str]:
    """Steps, audio and datasets of each row's stages; paths are relative to their common folder."""
    paths = [
        os.path.abspath(source.path)
        for config in configs.values()
        for stage in config.stages
        for source in stage.data.sources
    ]
    base = os.path.commonpath([os.path.dirname(path) for path in paths])
    return {
        name: ", ".join(
            f"{stage.steps} x {stage.data.batch_seconds:g} s of "
            + "+".join(os.path.relpath(source.path, base) for source in stage.data.sources)
            for stage in config.stages
        )
        for name, config in configs.items()
    }
