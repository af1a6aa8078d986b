"""Times this package beside the official PyTorch code, on the same machine in one run.

    python tools/compare_official.py --checkout DIR [--torch-python PY] [--json FILE]

DIR is a checkout of the official repository (k2-fsa/ZipVoice); PY is a Python that has torch and
what that code imports, by default this one. Both sides hold the same random weights of the base
size, take turns, and run on the same CPU cores. Measured are one velocity call (batch 2) and the
sampling of a dialogue to features (batch 1, no vocoder), then what bfloat16 costs in accuracy
and how long a sampling bucket compiles from nothing. CPU only; not part of the test suite.

The official side is this file again, started with --worker in the other interpreter: it reads
one JSON object per line, answers with one, and passes arrays in files.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# The part that runs in the other interpreter imports nothing of this package.
TOKENS_PER_SECOND = 14  # about that of English speech in eSpeak symbols
PAUSE = 0.5  # seconds, so that one side's spinning threads are asleep when the other starts


class UnusableError(Exception):
    """What stops the comparison, in one sentence."""


def serve(checkout: str, threads: int) -> None:
    """Answers requests with the official model; the other side of `Official`."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints must not end up among the answers
    sys.path[0] = checkout
    import numpy as np
    import torch
    from zipvoice.models.zipvoice_dialog import ZipVoiceDialog

    torch.set_num_threads(threads)
    model: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "load":
            model = ZipVoiceDialog(**request["sizes"], **request["ids"]).eval()
            state = torch.load(request["weights"], map_location="cpu", weights_only=True)
            model.load_state_dict(state["model"], strict=True)
            answer = {
                "parameters": sum(p.numel() for p in model.parameters()),
                "about": f"torch {torch.__version__}, {torch.get_num_threads()} threads",
            }
        else:
            inputs = np.load(request["inputs"])
            arrays = {name: torch.from_numpy(inputs[name]) for name in inputs.files}
            with torch.inference_mode():
                seconds, out = (velocity if request["do"] == "velocity" else speech)(
                    torch, model, arrays, request
                )
            np.save(request["output"], out.numpy())
            answer = {"seconds": seconds}
        print(json.dumps(answer), file=answers, flush=True)


def velocity(torch: Any, model: Any, arrays: Any, request: Any) -> tuple[float, Any]:
    """One velocity call of the official model."""
    mask = torch.zeros(arrays["xt"].shape[:2], dtype=torch.bool)
    start = time.perf_counter()
    out = model.forward_fm_decoder(
        t=torch.tensor(request["t"]),
        xt=arrays["xt"],
        text_condition=arrays["text"],
        speech_condition=arrays["speech"],
        padding_mask=mask,
    )
    return time.perf_counter() - start, out


def speech(torch: Any, model: Any, arrays: Any, request: Any) -> tuple[float, Any]:
    """One item sampled by the official model, from our noise."""
    draw = torch.randn
    torch.randn = lambda *size, **rest: arrays["noise"].reshape(*size)
    try:
        start = time.perf_counter()
        out, *_ = model.sample(
            tokens=[arrays["tokens"].tolist()],
            prompt_tokens=[arrays["prompt_tokens"].tolist()],
            prompt_features=arrays["prompt"],
            prompt_features_lens=torch.tensor([arrays["prompt"].shape[1]]),
            features_lens=torch.tensor([request["frames"]]),
            duration="real",
            t_shift=request["t_shift"],
            num_step=request["num_step"],
            guidance_scale=request["guidance_scale"],
        )
        return time.perf_counter() - start, out[0]
    finally:
        torch.randn = draw


class Official:
    """The official model in its own process."""

    def __init__(self, python: str, checkout: Path, threads: int, folder: Path) -> None:
        if not (checkout / "zipvoice/models/zipvoice_dialog.py").is_file():
            raise UnusableError(
                f"{checkout} is no checkout of the official code; give --checkout DIR."
            )
        self.folder, self.calls = folder, 0
        self.log = folder / "official.log"
        command = [python, __file__, "--worker", "--checkout", str(checkout)]
        try:
            self.process = subprocess.Popen(
                [*command, "--threads", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log.open("w"),
                text=True,
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            )
        except OSError as error:
            raise UnusableError(f"{python} cannot be started ({error.strerror}).") from None
        self.python = python

    def ask(self, do: str, **rest: Any) -> dict[str, Any]:
        """One request and its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do, **rest}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        if not line:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
            lines = self.log.read_text(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit status {self.process.returncode}"
            raise UnusableError(f"the official code does not run in {self.python}: {reason}")
        return json.loads(line)

    def call(self, do: str, arrays: dict[str, Any], **rest: Any) -> tuple[float, Any]:
        """Seconds and result of a call that takes arrays."""
        import numpy as np

        self.calls += 1
        inputs, output = self.folder / f"{self.calls}.npz", self.folder / f"{self.calls}.npy"
        np.savez(inputs, **arrays)
        seconds = self.ask(do, inputs=str(inputs), output=str(output), **rest)["seconds"]
        return seconds, np.load(output)

    def stop(self) -> None:
        """Ends the process by closing its input."""
        self.process.communicate()


def difference(ours: Any, other: Any) -> float:
    """|ours - other| / |other|, 2-norm."""
    import numpy as np

    return float(np.linalg.norm(ours - other) / np.linalg.norm(other))


Side = Callable[[], tuple[float, Any]]


def take_turns(sides: dict[str, Side], repeats: int) -> tuple[dict[str, list[float]], Any]:
    """Seconds of each repeat by side, and each side's last result; a first round is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            time.sleep(PAUSE)
            spent, results[name] = side()
            print(f"  turn {turn}: {name} {spent:.2f} s", file=sys.stderr, flush=True)
            if turn:
                seconds[name].append(spent)
    return seconds, results


def rows(what: str, seconds: dict[str, list[float]], spoken: float | None) -> list[dict[str, Any]]:
    """Prints a table of timings and returns it."""
    first = next(iter(seconds))
    print(f"\n{what}")
    found = []
    for name, all_seconds in seconds.items():
        best, middle = min(all_seconds), statistics.median(all_seconds)
        row = {"side": name, "seconds": all_seconds, "best": best, "median": middle}
        row["times_as_fast"] = min(seconds[first]) / best
        if spoken is not None:
            row["rtf"] = best / spoken
        found.append(row)
        rtf = "" if spoken is None else f"  RTF {best / spoken:6.3f}"
        print(
            f"  {name:22} best {best:8.3f} s  median {middle:8.3f} s{rtf}  "
            f"{row['times_as_fast']:5.2f} times as fast   "
            f"[{' '.join(f'{s:.3f}' for s in all_seconds)}]",
            flush=True,
        )
    return found


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that the module promises, printed and returned."""
    # Both sides on the same cores, also where the machine has more than --threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    official = Official(args.torch_python, args.checkout, args.threads, folder)
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import jax
    import numpy as np

    from zipvoice_jax.bench.generate import machine
    from zipvoice_jax.checkpoint.official import write_official
    from zipvoice_jax.config import FeatureConfig, ModelConfig, SamplingConfig
    from zipvoice_jax.flow.sampling import item_noise
    from zipvoice_jax.infer.engine import noise_key
    from zipvoice_jax.infer.prepare import Job
    from zipvoice_jax.models.zipvoice import init_params
    from zipvoice_jax.text.tokens import TokenTable

    jax.config.update("jax_enable_compilation_cache", False)
    sampling = SamplingConfig(num_step=args.num_step, guidance_scale=args.guidance_scale)
    config, features = ModelConfig(), FeatureConfig()
    table = TokenTable(("_", *(f"t{i}" for i in range(1, 360)), "[S1]", "[S2]"))
    params = jax.tree.map(np.asarray, init_params(config, jax.random.key(0)))
    weights = write_official(folder / "model", config, features, table, params)
    ids = ("vocab_size", "pad_id", "spk_a_id", "spk_b_id")
    meta = official.ask(
        "load",
        weights=str(weights),
        sizes=config.to_model_json(),
        ids={name: getattr(config, name) for name in ids},
    )
    print(f"{machine()}; official: {meta['about']}, {meta['parameters']:,} parameters")
    print(f"load average at the start: {os.getloadavg()[0]:.2f}", flush=True)

    fps = features.sampling_rate / features.hop_length
    prompt_frames, new_frames = round(args.prompt_seconds * fps), round(args.seconds * fps)
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    def tokens(seconds: float) -> tuple[int, ...]:
        """Two speakers, a turn each."""
        size = max(2, round(seconds * TOKENS_PER_SECOND) // 2 - 1)
        turns = rng.integers(1, 360, (2, size)).tolist()
        return (config.spk_a_id, *turns[0], config.spk_b_id, *turns[1])

    state = {name: normal(2, args.frames, config.feat_dim) for name in ("xt", "text", "speech")}
    prompt_ids, text_ids = tokens(args.prompt_seconds), tokens(args.seconds)
    prompt = 0.1 * normal(prompt_frames, config.feat_dim)
    total = prompt_frames + new_frames
    job = Job("compare", 0, prompt_ids + text_ids, (), prompt, total)
    key = noise_key(sampling.seed, job)
    item = {
        "tokens": np.array(text_ids),
        "prompt_tokens": np.array(prompt_ids),
        "prompt": prompt[None],
        "noise": np.array(item_noise(key, total, config.feat_dim)),
    }
    settings = {name: getattr(sampling, name) for name in ("t_shift", "num_step", "guidance_scale")}
    calls: dict[str, Side] = {"official float32": lambda: official.call("velocity", state, t=0.3)}
    speeches: dict[str, Side] = {
        "official float32": lambda: official.call("speech", item, frames=new_frames, **settings)
    }
    compile_seconds = {}
    for dtype in args.dtype:
        typed = dataclasses.replace(config, dtype=dtype)
        calls[f"ours {dtype}"] = our_velocity(typed, params, state, 0.3)
        speeches[f"ours {dtype}"], compilation = our_speech(typed, params, job, sampling, fps)
        compile_seconds[dtype] = compilation.seconds
        print(f"cold compile, {dtype}, {compilation.name}: {compilation.seconds:.1f} s", flush=True)

    report: dict[str, Any] = {"machine": machine(), "official": meta, "arguments": vars(args)}
    report["cold_compile_seconds"] = compile_seconds
    seconds, velocities = take_turns(calls, args.repeats)
    report["velocity"] = rows(f"one velocity call, {args.frames} frames, batch 2", seconds, None)
    seconds, mels = take_turns(speeches, args.sample_repeats)
    what = (
        f"{args.seconds:g} s of dialogue, prompt {args.prompt_seconds:g} s, {args.num_step} steps, "
        f"guidance {args.guidance_scale:g}, without vocoder"
    )
    report["sample"] = rows(what, seconds, new_frames / fps)
    print("\nrelative differences (2-norm)")
    report["differences"] = {}
    for name in list(calls)[1:]:
        against = ["official float32"]
        if name == "ours bfloat16" and "ours float32" in calls:
            against.append("ours float32")
        for other in against:
            pair = (
                difference(velocities[name], velocities[other]),
                difference(mels[name], mels[other]),
            )
            report["differences"][f"{name} / {other}"] = {"velocity": pair[0], "sample": pair[1]}
            print(f"  {name} / {other}: velocity {pair[0]:.2e}, sampled features {pair[1]:.2e}")
    official.stop()
    return report


def our_velocity(config: Any, params: Any, state: dict[str, Any], t: float) -> Side:
    """The same velocity call of ours, compiled."""
    import jax
    import numpy as np

    from zipvoice_jax.core.compiling import compile_lowered
    from zipvoice_jax.models.zipvoice import ZipVoice, cast_params, inference_config

    def function(params: Any, t: Any, xt: Any, text: Any, speech: Any, mask: Any) -> Any:
        arguments = (t, xt, text, speech, mask)
        return ZipVoice(inference_config(config)).apply(
            {"params": params}, *arguments, method=ZipVoice.velocity
        )

    times = np.full(2, t, np.float32)
    mask = np.zeros(state["xt"].shape[:2], bool)
    inputs = (cast_params(params, config), times, *state.values(), mask)
    inputs = jax.device_put(inputs)
    compiled, _ = compile_lowered(lambda: jax.jit(function).lower(*inputs), "cpu")

    def call() -> tuple[float, Any]:
        start = time.perf_counter()
        out = np.asarray(compiled(*inputs))
        return time.perf_counter() - start, out

    return call


def our_speech(config: Any, params: Any, job: Any, sampling: Any, fps: float) -> tuple[Side, Any]:
    """The same item sampled by our engine, compiled, and that compilation."""
    from zipvoice_jax.data.plan import Bucket
    from zipvoice_jax.infer.buckets import shape_of
    from zipvoice_jax.infer.engine import Engine

    engine = Engine(config, params)
    engine.compiled(Bucket(*shape_of(job), batch=1), sampling)

    def call() -> tuple[float, Any]:
        start = time.perf_counter()
        ((_, ((_, mel, _),)),) = engine.run(engine.pack([job], sampling, fps), sampling)
        return time.perf_counter() - start, mel

    return call, engine.compilations[0]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--checkout", type=Path, required=True, metavar="DIR", help="official repository")
    add("--torch-python", default=sys.executable, metavar="PY", help="Python that has torch")
    add("--dtype", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    add("--frames", type=int, default=1500, help="of the velocity call (default: 1500)")
    add("--seconds", type=float, default=10.0, help="of dialogue (default: 10)")
    add("--prompt-seconds", type=float, default=6.0, help="default: 6")
    add("--num-step", type=int, default=16, help="default: 16")
    add("--guidance-scale", type=float, default=1.5, help="default: 1.5")
    add("--threads", type=int, default=2, help="CPU cores for either side (default: 2)")
    add("--repeats", type=int, default=5, help="timed velocity calls (default: 5)")
    add("--sample-repeats", type=int, default=3, help="timed dialogues (default: 3)")
    add("--json", type=Path, metavar="FILE", help="write everything here too")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        serve(str(args.checkout), args.threads)
        return 0
    if min(args.repeats, args.sample_repeats, args.threads, args.frames, args.num_step) < 1:
        parser.error("counts must be 1 or more")
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = compare(args, Path(folder))
    except UnusableError as error:
        print(f"compare_official: error: {error}", file=sys.stderr)
        return 1
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
