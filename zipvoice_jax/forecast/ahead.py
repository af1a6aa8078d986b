"""Compiles training and sampling steps ahead of time, for chips that need not be present.

Nothing is read or run: states and batches are shapes. For TPUs the compiler of libtpu compiles for
a topology, whose chips it knows; its output and the numbers derived from it (a row per case) are
predictions, not measurements.

- Memory is reported by the compiler: arguments, results and temporaries of the program on one chip;
  a training step is two programs, gradients and update, of which the larger counts.
- XLA's time is the sum of the compiler's estimated cycles over everything that runs
  (`forecast/hlo/cost.py`), at the clock of `forecast/chips.py`, which says how they compare with a
  chip's peaks.
- FLOPs, bytes and collectives are counted in the compiled program; the time of collectives is
  modelled (`forecast/chips.py`). The roofline is the longest of FLOPs at the peak, bytes at the
  full HBM bandwidth, and the collectives.
- The predicted time is the sum of XLA's time, that of operations without an estimate (their bytes
  at the HBM bandwidth) and that of collectives that do not overlap with computation; or the
  roofline, if that is longer. It does not include Python, the loader and stragglers.
- MFU counts what `models/flops.py` counts: no padding, no remat, no hooks.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zipvoice_jax.config import ModelConfig, SamplingConfig
from zipvoice_jax.core.compiling import beside_arguments, compiler_options
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.data.plan import SHAPE_STEP, Bucket
from zipvoice_jax.flow.sampling import SampleInputs, sample
from zipvoice_jax.forecast.chips import Topology
from zipvoice_jax.forecast.hlo import ProgramCost, parse, program_cost
from zipvoice_jax.forecast.hlo.memory import Array, largest, refused
from zipvoice_jax.models.flops import sampling_flops, training_flops
from zipvoice_jax.models.zipvoice import abstract_params
from zipvoice_jax.train.config import TrainConfig
from zipvoice_jax.train.sharding import Layout
from zipvoice_jax.train.stages import plan_stage
from zipvoice_jax.train.step import Recipe, abstract_batch, lower_train_step

# Tokens per frame of fast speech: English has 12 to 16 phonemes a second, features 93.75 frames.
TOKENS_PER_FRAME = 0.18
TOKEN_STEP = 64
GIB = 2**30
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Case:
    """One program to compile.

    Attributes:
        topology: name such as v5e:2x4, or `cpu` or `gpu` for the devices of this machine.
        stage: index in the run.
        program: `train` or `sample`.
        bucket: shape of the global batch.
        rule: the rule behind the bucket's batch size, for the report.
    """

    topology: str
    stage: int
    program: str
    bucket: Bucket
    rule: str

    def name_in(self, run: TrainConfig) -> str:
        """The case in words."""
        return f"{self.program} {run.stages[self.stage].name} {self.bucket} for {self.topology}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The buckets to compile for, given in one or more of three ways.

    Attributes:
        buckets: (batch, frames, tokens) of global batches.
        batch_per_chip: number of items of `seconds` on each chip.
        step_seconds: seconds of audio in a global batch. Its items last `seconds`, or less if one
            such item per chip would exceed the batch.
        seconds: length of an item.
    """

    buckets: Sequence[tuple[int, int, int]] = ()
    batch_per_chip: Sequence[int] = ()
    step_seconds: Sequence[float] = ()
    seconds: float = 30.0


def devices_of(topology: str) -> tuple[Sequence[Any], Topology | None]:
    """The devices to compile for, and the chips' numbers if they are known.

    Raises:
        UserError: there is no such topology, no compiler for it, or no such device.
    """
    if topology in ("cpu", "gpu"):
        try:
            return jax.devices(topology), None
        except RuntimeError:
            raise UserError(
                f"there is no {topology} here to compile for; run on a machine with one and JAX's "
                "support for it, or give a TPU topology such as v5e:2x4."
            ) from None
    known = Topology.parse(topology)
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, platform="tpu").devices, known
    except (RuntimeError, NotImplementedError) as error:
        if "not installed" in str(error):
            raise UserError(
                "compiling for TPUs takes libtpu; `pip install -c constraints.txt '.[tpu]'` in a "
                "clone of the repository."
            ) from None
        reason = re.sub(r"^[A-Z_]+: ", "", str(error).splitlines()[0])
        raise UserError(f"the topology {topology} cannot be ({reason}).") from None


def plan_cases(
    run: TrainConfig,
    topologies: Sequence[str],
    stages: Sequence[int],
    programs: Sequence[str],
    sizes: Sizes,
) -> list[Case]:
    """Every combination of topology, stage, program and bucket.

    Raises:
        UserError: a topology or a size cannot be.
    """
    rate = run.features.sampling_rate / run.features.hop_length
    cases = []
    for topology in topologies:
        chips = len(devices_of(topology)[0])
        shapes = [(*bucket, "bucket") for bucket in sizes.buckets]
        for count in sizes.batch_per_chip:
            frames = _frames(sizes.seconds, rate)
            shapes.append((count * chips, frames, _tokens(frames), f"{count} per chip"))
        for total in sizes.step_seconds:
            seconds = min(sizes.seconds, total / chips)
            frames = _frames(seconds, rate)
            batch = max(1, round(total / seconds / chips)) * chips
            shapes.append((batch, frames, _tokens(frames), f"{total:g} s per step"))
        for batch, frames, tokens, rule in shapes:
            if batch < 1 or batch % chips or frames < 1 or not 2 <= tokens <= frames:
                raise UserError(
                    f"a batch of {batch} items with {frames} frames and {tokens} tokens cannot be "
                    f"on {topology}; give a multiple of its {chips} chips, and from 2 tokens to "
                    "as many as frames."
                )
            for stage in stages:
                channels = 1 if run.stages[stage].data.channels == "mono" else 2
                bucket = Bucket(frames, tokens, batch, channels)
                cases += [Case(topology, stage, program, bucket, rule) for program in programs]
    return cases


def _frames(seconds: float, rate: float) -> int:
    return max(1, math.ceil(seconds * rate / SHAPE_STEP)) * SHAPE_STEP


def _tokens(frames: int) -> int:
    return min(frames, math.ceil(frames * TOKENS_PER_FRAME / TOKEN_STEP) * TOKEN_STEP)


def compile_ahead(
    run: TrainConfig,
    cases: Sequence[Case],
    *,
    fsdp: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Compiles the cases in order; yields a row for each.

    Args:
        run: the config.
        cases: from `plan_cases`.
        fsdp: number of devices that share one copy of the state.
        tell: prints a line before each case, since compiling takes minutes.

    Raises:
        UserError: a case cannot be built.
    """
    # The cache on disk would falsify compile times, and holds nothing for absent chips.
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        for number, case in enumerate(cases, 1):
            tell(f"compiling {case.name_in(run)} ({number} of {len(cases)})")
            yield _compiled(run, case, fsdp)
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def model_of(run: TrainConfig, stage: int) -> tuple[ModelConfig, str | None]:
    """A stage's model, and a note if its token table could not be read."""
    try:
        return plan_stage(run, stage).config, None
    except UserError as error:
        config = dataclasses.replace(run.model, kind=run.stages[stage].kind)
        return config, f"{error} Compiled with {config.vocab_size} tokens instead."


def _lower_sample(config: ModelConfig, layout: Layout, bucket: Bucket, num_step: int) -> Any:
    """Lowers the sampling of a batch that is split over the devices."""
    shape, size = jax.ShapeDtypeStruct, bucket.batch
    bucket = dataclasses.replace(bucket, channels=config.channels)  # whatever it is trained on
    batch = abstract_batch(config, bucket)
    placeholders: dict[str, Any] = dict(
        tokens=batch.tokens,
        tokens_lens=batch.tokens_lens,
        prompt_features=batch.features,
        prompt_lens=batch.features_lens,
        features_lens=batch.features_lens,
        noise=batch.features,
        prompt_tokens_lens=batch.tokens_lens if config.looks_up_durations else None,
    )
    inputs = SampleInputs(**placeholders)
    batched = layout.abstract_batch((inputs, shape((size,), jnp.float32)))
    times = shape((num_step + 1,), jnp.float32, sharding=layout.everywhere)

    def function(params: Any, inputs: SampleInputs, times: Any, scale: Any) -> Any:
        return sample(layout.whole(params), config, inputs, times, scale)

    jitted = jax.jit(function, out_shardings=layout.over_batch)
    return jitted.lower(layout.abstract(abstract_params(config)), batched[0], times, batched[1])


def _compiled(run: TrainConfig, case: Case, fsdp: int) -> dict[str, Any]:
    devices, topology = devices_of(case.topology)
    layout = Layout.of(devices, fsdp)
    config, note = model_of(run, case.stage)
    stage = run.stages[case.stage]
    recipe = Recipe.of_stage(config, run, stage)
    num_step = SamplingConfig.for_model(config).num_step
    start = time.perf_counter()
    if case.program == "train":
        lowered = lower_train_step(recipe, layout, case.bucket)
    else:
        lowered = (_lower_sample(config, layout, case.bucket, num_step),)
    options = compiler_options(devices[0].platform)
    compiled, message = (), ""
    try:
        compiled = [one.compile(compiler_options=options) for one in lowered]
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message:
            raise
    seconds = time.perf_counter() - start
    rate = run.features.sampling_rate / run.features.hop_length
    limit = topology.chip.hbm_bytes if topology else None
    state = layout.abstract(recipe.abstract_state)
    row: dict[str, Any] = {
        "topology": case.topology,
        "chips": len(devices),
        "stage": stage.name,
        "model": config.kind,
        "program": case.program,
        "bucket": str(case.bucket),
        "rule": case.rule,
        "fsdp": fsdp,
        "audio_seconds": case.bucket.batch * case.bucket.frames / rate,
        "compile_s": seconds,
        "hbm_limit_gib": limit / GIB if limit else None,
        "state_gib": sum(_bytes_of(leaf) for leaf in jax.tree.leaves(state)) / GIB,
        "note": note,
    }
    named = _named(lowered[0], case, len(devices))
    if not compiled:
        named = refused(message) or named
        row |= {"hbm_gib": _wanted(message), "fits": False, "memory": [str(a) for a in named]}
        return row
    memory = [one.memory_analysis() for one in compiled]
    total = max(one.argument_size_in_bytes + beside_arguments(one) for one in memory)
    cost = program_cost(*(one.as_text() for one in compiled))
    row |= {
        "hbm_gib": total / GIB,
        "temp_gib": max(one.temp_size_in_bytes for one in memory) / GIB,
        "fits": limit is None or total <= limit,
        "memory": [str(array) for array in named],
        "flops": cost.flops,
        "bytes": cost.bytes,
        "padding": cost.padding,
        "collective_bytes": cost.collective_bytes,
        "collective_times": cost.collective_times,
        "parts": [dataclasses.asdict(part) for part in cost.parts],
        "unknown": list(cost.unknown),
    }
    if topology:
        size = case.bucket
        if case.program == "train":
            useful = training_flops(config, size.frames, size.tokens, channels=size.channels)
        else:
            useful = sampling_flops(config, size.frames, size.tokens, num_step, guided=True)
        row |= predict(cost, topology, useful * size.batch)
    return row


def predict(cost: ProgramCost, topology: Topology, useful: float) -> dict[str, Any]:
    """XLA's time, the roofline, the predicted time and MFU of a program (see the module).

    Args:
        cost: cost of the program on one chip.
        topology: topology that it runs on.
        useful: operations of all chips together that MFU counts.
    """
    chip = topology.chip
    waits = beside = 0.0
    for collective in cost.collectives:
        took = collective.times * topology.collective_seconds(
            collective.kind, collective.group, collective.bytes
        )
        waits, beside = (waits, beside + took) if collective.overlaps else (waits + took, beside)
    bounds = {
        "compute": cost.flops / chip.flops,
        "HBM": cost.bytes / chip.hbm_bandwidth,
        "interconnect": waits + beside,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    xla = (cost.cycles or 0.0) / chip.clock
    rest = cost.unestimated_bytes / chip.hbm_bandwidth
    total = max(xla + rest + waits, *bounds.values())
    return {
        "xla_s": xla,
        "compute_bound_s": bounds["compute"],
        "hbm_bound_s": bounds["HBM"],
        "interconnect_s": waits + beside,
        "waits_s": waits,
        "bound": bound,
        "predicted_s": total,
        "mfu": useful / (topology.chips * chip.flops * total),
    }


def _bytes_of(leaf: Any) -> int:
    """Bytes of one device's part of an array."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    size = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
    return math.prod(shape) * size


def _named(lowered: Any, case: Case, chips: int) -> tuple[Array, ...]:
    text = lowered.as_text(dialect="hlo", debug_info=True)
    rows, frames = case.bucket.batch, case.bucket.frames
    sizes = (rows, 2 * rows, rows * frames, 2 * rows * frames)  # guidance doubles the rows
    return largest(parse(text), sizes=sizes if rows > 1 else (), parts=chips)


def _wanted(message: str) -> float | None:
    """The memory that a refused program needs, in GiB, from the compiler's message."""
    size = re.search(r"\(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of", message)
    if size is None:
        return None
    number, unit = (size[1], size[2]) if size[1] else (size[3], size[4])
    return float(number) * _UNITS[unit] / GIB
