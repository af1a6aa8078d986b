"""Compares this package with numbers computed by the official PyTorch code.

    python tools/parity.py GOLDEN_DIR [--only WORD] [--verbose]

GOLDEN_DIR is laid out like tests/golden (its README says what each file holds). Prints a
table of case, error, limit and verdict; exits with 1 if a case falls short or a file that the
layout names is missing. Errors are relative, |ours - official| / |official| in the 2-norm,
unless a case counts mismatches (limit 0).
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import parity_models
import parity_parts
import parity_training
from parity_core import Case

KINDS = ("zipvoice", "zipvoice_distill", "zipvoice_dialog", "zipvoice_dialog_stereo")

# What the layout names.
FILES = (
    *(
        f"models/{kind}.{part}"
        for kind in KINDS
        for part in ("config.json", "params.npz", "io.npz")
    ),
    *(f"models/{kind}.grads.npz" for kind in KINDS if kind != "zipvoice_distill"),
    "models/zipvoice_dialog_stereo.grads_one_channel.npz",
    *(f"models/zipvoice_distill.{stage}.npz" for stage in ("first", "second")),
    *(
        f"release/{kind}/{name}"
        for kind in KINDS
        for name in ("model.pt", "model.json", "tokens.txt", "expected.npz")
    ),
    "release/stereo_init.npz",
    "release/prompt_s1.wav",
    "release/prompt_s2.wav",
    "modules.npz",
    "scaled_adam.npz",
    "eden.npz",
    "training.npz",
    "token_index.json",
    "tokens_emilia.txt",
    "tokens_dialog.txt",
    "tokenizer.jsonl",
    "normalizer.jsonl",
    "features.npz",
    "waveform_ops.npz",
    "chunking.json",
    "vocos.npz",
)

GROUPS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "modules": parity_parts.modules,
    "layer": parity_parts.layer,
    "text": parity_parts.text,
    "audio": parity_parts.audio,
    "vocos": parity_parts.vocos,
    **{f"models/{kind}": parity_models.model(kind) for kind in KINDS},
    **{f"release/{kind}": parity_models.release(kind) for kind in KINDS},
    "release/stereo_init": parity_models.stereo_init,
    "eden": parity_training.eden_rates,
    "scaled_adam": parity_training.scaled_adam_steps,
    "training": parity_training.training,
}


def run(golden: Path, only: str = "") -> Iterator[tuple[str, Case]]:
    """Yields every case of a folder with its group; a missing file is a failed case."""
    for name in FILES:
        if not (golden / name).is_file():
            yield "files", Case(f"{name} is missing", float("inf"), 0.0)
    for group, cases in GROUPS.items():
        if only not in group:
            continue
        try:
            for case in cases(golden):
                yield group, case
        except Exception as error:  # one broken group must not hide the others
            yield group, Case(f"{type(error).__name__}: {error}".splitlines()[0], float("inf"), 0.0)


def main() -> int:
    """Prints the table and gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("golden", type=Path, metavar="GOLDEN_DIR")
    parser.add_argument("--only", default="", help="run the groups whose name holds this word")
    parser.add_argument("--verbose", action="store_true", help="print every gradient's own row")
    args = parser.parse_args()
    if not args.golden.is_dir():
        print(f"{args.golden} is not a folder", file=sys.stderr)
        return 2
    start, total, failed = time.monotonic(), 0, 0
    print(f"{'group':32} {'case':58} {'error':>9} {'limit':>7}  verdict")
    for group, case in run(args.golden, args.only):
        total += 1
        failed += not case.ok
        if args.verbose or not case.detail or not case.ok:
            verdict = "ok" if case.ok else "FAIL"
            print(f"{group:32} {case.name:58} {case.error:9.2e} {case.limit:7.0e}  {verdict}")
    seconds = time.monotonic() - start
    print(f"{total - failed} of {total} cases hold, {failed} fall short ({seconds:.0f} s)")
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.exit(main())
