"""What is counted in compiled programs: on the CPU, in stored lines of a TPU's, and on chips."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from complaints import user_error
from conftest import ROOT, devices

from zipvoice_jax.forecast.chips import CHIPS, HOP_SECONDS, Topology
from zipvoice_jax.forecast.hlo import (
    HOOK_SHARE,
    Collective,
    ProgramCost,
    parse,
    program_cost,
    report,
)
from zipvoice_jax.forecast.hlo.cost import part_of
from zipvoice_jax.forecast.hlo.memory import largest, refused
from zipvoice_jax.forecast.hlo.text import group_size

ONE = 2 * 16 * 32 * 32  # flops of the product below


def step(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tanh(x @ w)


def compiled(function: Callable[..., Any], *shapes: tuple[int, ...]) -> str:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text() or ""


def scanned(n: int, inner: int = 1) -> Callable[..., Any]:
    def once(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (step(x, w), None), x, length=inner)[0]

    return lambda x, w: jax.lax.scan(lambda x, _: (once(x, w), None), x, length=n)[0]


XW = ((16, 32), (32, 32))


def test_a_product_counts_once():
    cost = program_cost(compiled(step, *XW))
    assert cost.flops == ONE
    assert cost.bytes >= 4 * (16 * 32 * 2 + 32 * 32)
    assert (cost.cycles, cost.collectives, cost.unknown) == (None, (), ())


@pytest.mark.parametrize("is_known", [True, False])
def test_a_loop_counts_as_often_as_it_runs(is_known: bool):
    text = compiled(scanned(7, 5), *XW)
    trip_count = r'"known_trip_count":\{"n":"\d+"\}'
    assert len(re.findall(trip_count, text)) >= 2
    cost = program_cost(text if is_known else re.sub(trip_count, '"x":{}', text))
    assert (cost.flops, cost.unknown) == (35 * ONE, ())


@pytest.mark.parametrize(("start", "stop", "by", "times"), [(0, 9, 2, 5), (10, 0, -3, 4)])
def test_a_loop_may_count_in_any_steps(start: int, stop: int, by: int, times: int):
    def function(x: jax.Array, w: jax.Array) -> Any:
        def more(carry: Any) -> Any:
            return carry[0] < stop if by > 0 else carry[0] > stop

        return jax.lax.while_loop(more, lambda c: (c[0] + by, step(c[1], w)), (start, x))

    text = re.sub(r'"known_trip_count":\{"n":"\d+"\}', '"x":{}', compiled(function, *XW))
    assert program_cost(text).flops == times * ONE


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    def function(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.sum() < 9.0, lambda x: step(x, w), x)

    cost = program_cost(compiled(function, *XW))
    assert cost.flops == ONE
    assert len(cost.unknown) == 1
    assert "counted once" in cost.unknown[0]


def branching(x: jax.Array, w: jax.Array) -> jax.Array:
    thrice = lambda x: step(step(step(x, w), w), w)  # noqa: E731
    return jax.lax.cond(x[0, 0] > 0, thrice, lambda x: step(x, w), x)


def test_of_branches_the_costlier_counts():
    assert program_cost(compiled(branching, *XW)).flops == 3 * ONE


def test_a_hook_counts_by_its_share_and_only_once():
    def function(x: jax.Array, w: jax.Array) -> jax.Array:
        with jax.named_scope("hook"):
            inside = lambda x: branching(x, w) + branching(2.0 * x, w)  # noqa: E731
            return jax.lax.cond(x[0, 1] > 0, inside, lambda x: x, x)

    cost = program_cost(compiled(function, *XW))
    assert cost.flops == pytest.approx(6 * ONE * HOOK_SHARE)


@pytest.mark.parametrize(
    ("groups", "pairs"),
    [
        (1, 28),  # 3 positions at each of 10 places, but for the padding at both ends
        (4, 28),
    ],
)
def test_convolutions_count_without_padding(groups: int, pairs: int):
    def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), [(1, 1)], dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=groups,
        )  # fmt: skip

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 10, 8), (3, 8 // groups, 8))]
    # As XLA is given it, since a CPU makes something else of a convolution.
    text = jax.jit(function).lower(*shapes).as_text(dialect="hlo")
    assert program_cost(text).flops == 2 * 2 * pairs * (8 // groups) * 8


def test_collectives_of_several_devices():
    code = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
mesh = jax.make_mesh((2, 4), ("a", "b"))
def f(x, w):
    def body(x, _):
        return jax.lax.psum(x, "b") / 4, None
    x = jax.lax.scan(body, x, length=3)[0]
    return jax.lax.all_gather(x, "a"), jax.lax.psum_scatter(w, ("a", "b"), tiled=True)
specs = dict(in_specs=(P(), P()), out_specs=(P(), P(("a", "b"))))
f = jax.shard_map(f, mesh=mesh, check_vma=False, **specs)
s = lambda *n: jax.ShapeDtypeStruct(n, jnp.float32)
print(jax.jit(f).lower(s(5, 6), s(16)).compile().as_text())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **devices(8), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cost = program_cost(done.stdout)
    assert set(cost.collectives) == {
        Collective("all-reduce", 4, 120, False, 3.0),
        Collective("all-gather", 2, 240, False, 1.0),
        Collective("reduce-scatter", 8, 64, False, 1.0),
    }
    assert cost.collective_bytes["all-reduce"] == 360.0
    assert cost.collective_times["all-reduce"] == 3.0


# Lines of a program for a v5e, thinned out. The loop runs 4 times; its limit comes with its carry.
TPU = """
HloModule jit_f, is_scheduled=true

%fused (p0: f32[4,8,256], p1: s32[]) -> f32[8,256] {
  %p0 = f32[4,8,256]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,8,256]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), \
    dynamic_slice_sizes={1,8,256}
  ROOT %out = f32[8,256]{1,0:T(8,128)} bitcast(%slice)
}

%product (q0: bf16[8,256], q1: bf16[256,64]) -> f32[8,64] {
  %q0 = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(0)
  %q1 = bf16[256,64]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %conv = f32[8,64]{1,0:T(8,128)} convolution(%q0, %q1), dim_labels=bf_io->bf
}

%body (carry: (s32[], f32[4,8,256], s32[])) -> (s32[], f32[4,8,256], s32[]) {
  %carry = (s32[]{:T(128)}, f32[4,8,256]{2,1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %stack = f32[4,8,256]{2,1,0:T(8,128)} get-tuple-element(%carry), index=1
  %limit = s32[]{:T(128)} get-tuple-element(%carry), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %row = f32[8,256]{1,0:T(8,128)S(1)} fusion(%stack, %i), kind=kLoop, calls=%fused, \
    metadata={op_name="jit(f)/decoder/encoders_0/while/body/layers/attn/slice"}, \
    backend_config={"window_config":{"estimated_cycles":"1000"}}
  %sum = f32[8,256]{1,0:T(8,128)S(1)} all-reduce(%row), \
    replica_groups=mesh['data'=4,'fsdp'=2] {'data'}, to_apply=%add, \
    metadata={op_name="jit(f)/transpose(jvp(decoder))/decoder/norm/psum"}
  ROOT %end = (s32[]{:T(128)}, f32[4,8,256]{2,1,0:T(8,128)}, s32[]{:T(128)}) tuple(%next, \
    %stack, %limit)
}

%test (carry: (s32[], f32[4,8,256], s32[])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, f32[4,8,256]{2,1,0:T(8,128)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  %limit.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=2
  ROOT %less = pred[]{:T(512)} compare(%i.1, %limit.1), direction=LT
}

%off (o: f32[8,64]) -> f32[8,64] {
  ROOT %o = f32[8,64]{1,0:T(8,128)} parameter(0)
}

%on (n: f32[8,64]) -> f32[8,64] {
  %n = f32[8,64]{1,0:T(8,128)} parameter(0)
  ROOT %twice = f32[8,64]{1,0:T(8,128)} negate(%n), \
    metadata={op_name="jit(f)/decoder/hook/cond/branch_1_fun/neg"}, \
    backend_config={"window_config":{"estimated_cycles":"500"}}
}

ENTRY %main (a: f32[4,8,256], b: bf16[8,256], c: bf16[256,64]) -> f32[8,64] {
  %a = f32[4,8,256]{2,1,0:T(8,128)} parameter(0)
  %b = bf16[8,256]{1,0:T(8,128)(2,1)} parameter(1)
  %c = bf16[256,64]{1,0:T(8,128)(2,1)} parameter(2)
  %start = s32[]{:T(128)} constant(0)
  %four = s32[]{:T(128)} constant(4)
  %copied = s32[]{:T(128)} copy(%four)
  %given = (s32[]{:T(128)}, f32[4,8,256]{2,1,0:T(8,128)}, s32[]{:T(128)}) tuple(%start, %a, \
    %copied)
  %loop = (s32[]{:T(128)}, f32[4,8,256]{2,1,0:T(8,128)}, s32[]{:T(128)}) while(%given), \
    condition=%test, body=%body
  %fetch = (bf16[8,256]{1,0:T(8,128)(2,1)S(1)}, bf16[8,256]{1,0:T(8,128)(2,1)}, \
    u32[]{:S(2)}) copy-start(%b)
  %fetched = bf16[8,256]{1,0:T(8,128)(2,1)S(1)} copy-done(%fetch)
  %y = f32[8,64]{1,0:T(8,128)} fusion(%fetched, %c), kind=kOutput, calls=%product, \
    metadata={op_name="jit(f)/checkpoint/rematted_computation/decoder/ffn/dot_general"}, \
    backend_config={"window_config":{"estimated_cycles":"2000"}}
  %flag = s32[]{:T(128)} get-tuple-element(%loop), index=0
  ROOT %z = f32[8,64]{1,0:T(8,128)} conditional(%flag, %y, %y), branch_computations={%off, \
    %on}, metadata={op_name="jit(f)/decoder/hook/cond"}
}"""


@pytest.fixture(scope="module")
def tpu() -> ProgramCost:
    return program_cost(TPU)


def test_a_tpu_program_in_full(tpu: ProgramCost):
    half = 8 * 128 * 4  # f32[8,64], padded to 128 lanes
    assert tpu.flops == 2 * 8 * 64 * 256
    assert tpu.cycles == 4 * 1000 + 2000 + HOOK_SHARE * 500
    row, bits = 8 * 256 * 4, 8 * 256 * 2
    scalar = 4 * 128
    moved = {
        "decoder/attn (forward)": 4 * (row + scalar),  # a slice of the stack; it stays on chip
        "decoder/norm (backward)": 0.0,
        "decoder/ffn (remat)": 256 * 128 * 2 + half,
        "decoder (hook)": HOOK_SHARE * 2 * half,
        "other": bits + 14 * scalar,  # fetched; a number copied once, and counted up four times
    }
    assert {part.name: part.bytes for part in tpu.parts} == pytest.approx(moved)
    assert tpu.bytes == pytest.approx(sum(moved.values()))
    real = 4 * (row + 4) + 256 * 64 * 2 + half / 2 + HOOK_SHARE * half + bits + 14 * 4
    assert tpu.padding == pytest.approx(1.0 - real / tpu.bytes)
    assert tpu.collectives == (Collective("all-reduce", 4, row, False, 4.0),)
    assert tpu.unestimated_bytes == 14 * scalar
    assert tpu.parts[0].name == "decoder/attn (forward)"
    assert tpu.unknown == ()


def test_the_report_tells_totals_and_parts(tpu: ProgramCost):
    output = report(tpu, clock=1e6)
    assert "= 6.1 ms" in output
    assert "all-reduce: 4 times" in output
    assert "decoder/ffn (remat)" in output
    assert "decoder/attn" not in report(tpu, rows=0)


@pytest.mark.parametrize(
    ("text", "size", "padded", "space"),
    [
        ("f32[8,128]{1,0:T(8,128)}", 4096, 4096, 0),
        ("f32[5,100]{1,0:T(8,128)}", 2000, 4096, 0),
        ("f32[5,100]{0,1:T(8,128)}", 2000, 8 * 104 * 16 * 4, 0),  # lanes along the other axis
        ("bf16[3,2,100]{2,1,0:T(2,128)(2,1)S(1)}", 1200, 1536, 1),
        ("f32[]{:T(128)}", 4, 512, 0),
        ("pred[7]{0}", 7, 7, 0),
        ("c64[3]{0}", 24, 24, 0),
        ("s4[6]{0:T(128)E(4)}", 3, 64, 0),
    ],
)
def test_shapes_have_the_bytes_of_their_layout(text: str, size: int, padded: int, space: int):
    program = parse(f"ENTRY %main (p: x) -> y {{\n  ROOT %p = {text} parameter(0)\n}}\n")
    (shape,) = program.computations["main"]["p"].shapes
    assert (shape.bytes, shape.padded, shape.space) == (size, padded, space)
    assert shape.in_hbm == (space == 0)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2},{3,4,5}}", 3),
        ("replica_groups={}", 0),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['x'=4,'y'=2] {'x','y'}", 8),
        ("source_target_pairs={{0,1}}", 0),
    ],
)
def test_groups_of_collectives(groups: str, size: int):
    line = f"ROOT %r = f32[2]{{0}} all-reduce(%p), {groups}, to_apply=%add"
    program = parse(f"ENTRY %main (p: x) -> y {{\n  %p = f32[2]{{0}} parameter(0)\n  {line}\n}}\n")
    assert group_size(program.computations["main"]["r"]) == size


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (
            "jit(f)/jvp(Z.v)/dec/dec.decode/encoders_3/while/body/layers/ffn/add",
            "dec/ffn (forward)",
        ),
        ("jit(f)/transpose(jvp(Z))/dec/checkpoint/layers/ffn/dot_general", "dec/ffn (backward)"),
        ("jit(f)/transpose(jvp(Z))/dec/rematted_computation/ffn/in_proj/mul", "dec/ffn (remat)"),
        ("jit(f)/transpose(jvp(Z))/dec/hook/cond/branch_1_fun/mul", "dec (hook)"),
        ("jit(f)/optimizer/cond/branch_1_fun/mul", "optimizer (forward)"),
        ("jit(f)/hooked/mul", "hooked (forward)"),
        ("jit(f)/mul", "other"),
        ("state.params['dec']", "other"),
        ("", "other"),
    ],
)
def test_parts_of_the_model(name: str, part: str):
    assert part_of(name) == part


def test_the_largest_arrays_are_named_by_what_stacks_them_up():
    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        with jax.named_scope("ffn"):
            return jnp.sin(x @ w), None

    def loss(ws: jax.Array, x: jax.Array) -> jax.Array:
        with jax.named_scope("decoder"):
            return jax.lax.scan(layer, x, ws)[0].sum()

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((6, 16, 16), (64, 16))]
    text = jax.jit(jax.grad(loss)).lower(*shapes).as_text(dialect="hlo", debug_info=True)
    first = largest(parse(text))[0]
    # jax 0.10, which Python 3.11 gets, does not say whose the stacked arrays of a scan are.
    named = jax.__version_info__ >= (0, 11)
    assert first.part == ("ffn (forward)" if named else "other")
    assert first.shape == "f32[6,64,16]"
    assert first.bytes == first.times * 6 * 64 * 16 * 4
    split = largest(parse(text), sizes=(64,), parts=4)[0]
    assert (split.shape, split.bytes) == ("f32[6,16,16]", first.bytes / 4)


def test_what_a_compiler_names_when_it_refuses():
    message = """RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.1G of 15.7G hbm.

  Largest program allocations in hbm:

  1. Size: 8.00G
     Operator: op_name="jit(f)/decoder/ffn/dot_general" source_file="x.py"
     Shape: f32[1024,2097152]{1,0:T(8,128)}
     Unpadded size: 8.00G
     ==========================

  2. Size: 512.0M
     Shape: bf16[268435456]{0:T(1024)}
"""
    first, second = refused(message)
    assert str(first) == "8.00 GiB f32[1024,2097152] of decoder/ffn (forward)"
    assert str(second) == "0.50 GiB bf16[268435456] of other"
    assert refused("RESOURCE_EXHAUSTED: no list") == ()


def test_topologies_by_name():
    slice_ = Topology.parse("v5p:8x8x16")
    assert (slice_.chips, str(slice_), slice_.chip) == (1024, "v5p:8x8x16", CHIPS["v5p"])
    for name in ("v7:2x2", "v5e", "v5e:", "v5e:2x", "cpu:2x2", "v5e:-2x2"):
        with user_error(repr(name), "v5e:2x4"):
            Topology.parse(name)
    for name in ("v5e:2x2x2", "v5p:2x2", "v5e:32x32", "v6e:0x2"):
        with user_error(name, "cannot be"):
            Topology.parse(name)


def test_clocks_fit_the_matrix_units():
    assert CHIPS["v5e"].clock == pytest.approx(1.5e9, rel=0.01)
    assert CHIPS["v5p"].clock == CHIPS["v6e"].clock / 2 * 2 == pytest.approx(1.75e9, rel=0.01)


def test_collectives_take_rings_of_the_torus():
    size = 1e9
    torus = Topology.parse("v5e:16x16")
    # Both axes are rings: four links of 50 GB/s, and 8 chips to the farthest on each.
    once = 255 / 256 * size / 200e9 + 16 * HOP_SECONDS
    assert torus.collective_seconds("all-reduce", 0, size) == pytest.approx(2 * once)
    assert torus.collective_seconds("all-gather", 256, size) == pytest.approx(once)
    assert torus.collective_seconds("reduce-scatter", 256, size) == pytest.approx(once)
    # Neither axis of a small slice closes: a link each way along each, 1 + 3 chips to the farthest.
    small = Topology.parse("v5e:2x4").collective_seconds("all-gather", 0, size)
    assert small == pytest.approx(7 / 8 * size / 100e9 + 4 * HOP_SECONDS)
    part = Topology.parse("v5e:2x4").collective_seconds("all-gather", 4, size)
    assert part == pytest.approx(3 / 4 * size / 50e9 + 3 * HOP_SECONDS)
    cube = Topology.parse("v5p:4x4x4").collective_seconds("all-gather", 0, size)
    assert cube == pytest.approx(63 / 64 * size / 600e9 + 6 * HOP_SECONDS)
    flat = Topology.parse("v5p:2x4x4").collective_seconds("all-gather", 0, size)
    assert flat == pytest.approx(31 / 32 * size / 300e9 + 7 * HOP_SECONDS)
    assert torus.collective_seconds("collective-permute", 0, size) == size / 50e9 + HOP_SECONDS
    assert torus.collective_seconds("all-to-all", 0, size) == pytest.approx(
        size * 4 / 100e9 + 16 * HOP_SECONDS
    )
    assert Topology.parse("v5e:1x1").collective_seconds("all-reduce", 0, size) == 0.0
    assert torus.collective_seconds("all-reduce", 1, size) == 0.0


def test_the_largest_number_is_no_estimate() -> None:
    text = """HloModule one

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %y = f32[8,128]{1,0:T(8,128)} negate(%x), backend_config={"estimated_cycles":"CYCLES"}
}
"""
    known = program_cost(text.replace("CYCLES", "1000"))
    assert (known.cycles, known.unestimated_bytes) == (1000.0, 0.0)
    unknown = program_cost(text.replace("CYCLES", str(2**63 - 1)))
    assert (unknown.cycles, unknown.unestimated_bytes) == (0.0, 2 * 8 * 128 * 4.0)
