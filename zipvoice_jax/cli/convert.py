"""`zipvoice-jax convert`: converts a model directory to another format, kind or vocabulary."""

import argparse
import dataclasses
import sys
from pathlib import Path

import jax

from zipvoice_jax.checkpoint.growth import (
    dialog_table,
    grow_to_dialog,
    grow_to_stereo,
    grow_vocabulary,
)
from zipvoice_jax.checkpoint.hub import find_model, load_model
from zipvoice_jax.checkpoint.loaded import Loaded, check_new_directory
from zipvoice_jax.checkpoint.mapping import count_parameters
from zipvoice_jax.checkpoint.native import is_native, save_native
from zipvoice_jax.checkpoint.official import WHICH, not_official, write_official
from zipvoice_jax.config import MODEL_KINDS, MODEL_NAMES
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.rng import named_key
from zipvoice_jax.text.tokens import SPEAKERS, TokenTable

FORMATS = ("native", "bfloat16", "pt", "safetensors")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `convert` command."""
    parser = subparsers.add_parser(
        "convert",
        help="convert or grow a model directory",
        description="Reads a model directory, official or ours, and writes another: in another "
        "format, grown to another kind, or with a larger token table.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="source", type=Path, metavar="DIR", help="model to read")
    source.add_argument(
        "--model-name", choices=MODEL_NAMES, help="instead: from the hub, or from the package"
    )
    parser.add_argument(
        "--to", dest="target", type=Path, required=True, metavar="DIR", help="model to write"
    )
    parser.add_argument(
        "--kind", choices=MODEL_KINDS, help="kind that the model read must have (default: any)"
    )
    parser.add_argument("--checkpoint-name", metavar="FILE", help="weights file within --from")
    parser.add_argument(
        "--which",
        choices=WHICH,
        default="auto",
        help="entry of a training checkpoint; auto takes model, as the official inference does",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format to write; bfloat16 is native at half the size, for models to pass on "
        "(default: native, or pt if the model read is native and the official code has all that it "
        "has)",
    )
    parser.add_argument(
        "--grow", choices=("dialog", "stereo"), help="zipvoice to dialog, or dialog to stereo"
    )
    parser.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="token table of the model to write; must hold all old tokens "
        "(default: the old table, with [S1] and [S2] added for --grow dialog)",
    )
    parser.add_argument(
        "--speakers", type=int, metavar="N",
        help="adds the tags [S1] to [SN] to the token table, for dialogues of up to N speakers",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of new embedding rows (default: 0)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a model directory at --to"
    )
    parser.set_defaults(run=run)


def _grow(
    loaded: Loaded, grow: str | None, tokens: Path | None, speakers: int | None, seed: int
) -> Loaded:
    """The model after --grow, --tokens and --speakers."""
    key = named_key(jax.random.key(seed), "grow")
    old, params, config = loaded.table, loaded.params, loaded.config
    new = TokenTable.load(tokens) if tokens is not None else old
    if speakers is not None or (grow == "dialog" and tokens is None):
        new = dialog_table(new, speakers or 2)
    if grow == "dialog":
        params, config = grow_to_dialog(params, config, old_table=old, new_table=new, key=key)
    elif new != old:
        params, config = grow_vocabulary(params, config, old_table=old, new_table=new, key=key)
    if grow == "stereo":
        params, config = grow_to_stereo(params, config)
    return dataclasses.replace(loaded, params=params, config=config, table=new)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax convert` and prints one line about the model written.

    Raises:
        UserError: the source cannot be read or grown as asked, or the target cannot be written.
    """
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed is {args.seed}; give a whole number from 0 to 2^32 - 1.")
    if args.speakers is not None and not 2 <= args.speakers <= SPEAKERS[-1]:
        raise UserError(f"--speakers is {args.speakers}; give 2 to {SPEAKERS[-1]}.")
    check_new_directory(args.target, overwrite=args.overwrite)
    source = args.source or find_model(args.model_name)
    from_native = is_native(source) and args.checkpoint_name is None
    loaded = load_model(
        args.model_name or args.kind,
        source,
        checkpoint_name=args.checkpoint_name,
        which=args.which,
    )
    if args.kind not in (None, loaded.config.kind):
        raise UserError(f"{args.model_name} is a {loaded.config.kind} model, not {args.kind}.")
    before = loaded.config.kind
    loaded = _grow(loaded, args.grow, args.tokens, args.speakers, args.seed)
    # The official format would leave out a head for the length of the speech, too, and how to
    # sample.
    ours = loaded.config.has_durations or loaded.config.has_own_prompts
    to_official = from_native and not (ours or not_official(loaded.config))
    target_format = args.format or ("pt" if to_official else "native")
    parts = (loaded.config, loaded.features, loaded.table, loaded.params)
    if target_format in ("native", "bfloat16"):
        save_native(args.target, *parts, format=target_format, overwrite=args.overwrite)
    else:
        write_official(args.target, *parts, format=target_format, overwrite=args.overwrite)
        if loaded.config.has_durations:
            print("note: the official format has no duration head; it is left out", file=sys.stderr)
            loaded.params.pop("duration_head")
    size = sum(path.stat().st_size for path in args.target.rglob("*") if path.is_file())
    grown = "" if before == loaded.config.kind else f" grown from {before}"
    print(
        f"{args.target}: {loaded.config.kind}{grown}, {target_format}, "
        f"{len(jax.tree.leaves(loaded.params))} arrays, "
        f"{count_parameters(loaded.params):,} parameters, {size:,} bytes, "
        f"{loaded.table.vocab_size} tokens (fingerprint {loaded.table.fingerprint[:16]})"
    )
    return 0
