"""`zipvoice-jax init`: a model directory with random weights."""

import argparse
from pathlib import Path
from typing import Any

from zipvoice_jax.config import MODEL_KINDS, FeatureConfig, ModelConfig, read_json
from zipvoice_jax.core.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the `init` command."""
    parser = subparsers.add_parser(
        "init",
        help="make a model with random weights",
        description="Writes a model directory with random weights, of the base size (123M "
        "parameters) unless --model-json says otherwise: to start training, or to measure.",
    )
    add = parser.add_argument
    add("--kind", choices=MODEL_KINDS, required=True)
    add("--tokens", type=Path, required=True, metavar="FILE", help="token table (tokens.txt)")
    add("--to", dest="target", type=Path, required=True, metavar="DIR", help="model to write")
    add("--model-json", type=Path, metavar="FILE", help="official model.json with the sizes")
    add("--format", choices=("native", "pt", "safetensors"), default="native")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace a model directory at --to")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax init`.

    Raises:
        UserError: the table or the sizes cannot be used, or the target cannot be written.
    """
    import jax

    from zipvoice_jax.checkpoint.loaded import check_new_directory
    from zipvoice_jax.checkpoint.mapping import count_parameters
    from zipvoice_jax.checkpoint.native import save_native
    from zipvoice_jax.checkpoint.official import write_official
    from zipvoice_jax.core.rng import named_key
    from zipvoice_jax.models.zipvoice import init_params
    from zipvoice_jax.text.tokens import TokenTable

    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed is {args.seed}; give a whole number from 0 to 2^32 - 1.")
    check_new_directory(args.target, overwrite=args.overwrite)
    table = TokenTable.load(args.tokens)
    ids: dict[str, Any] = {"vocab_size": table.vocab_size, "pad_id": table.pad_id}
    if args.kind.startswith("zipvoice_dialog"):
        if table.spk_a_id is None or table.spk_b_id is None:
            raise UserError(f"{args.tokens} lacks [S1] or [S2], which a {args.kind} model needs.")
        ids |= table.speaker_fields
    if args.model_json is None:
        config = ModelConfig(kind=args.kind, **ids)
    else:
        values = read_json(args.model_json)
        if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
            raise UserError(f'{args.model_json} has no "model" entry; give an official model.json.')
        config = ModelConfig.from_model_json(values["model"], kind=args.kind, **ids)
    params = init_params(config, named_key(jax.random.key(args.seed), "init"))
    parts = (config, FeatureConfig(n_mels=config.feat_dim), table, params)
    if args.format == "native":
        save_native(args.target, *parts, overwrite=args.overwrite)
    else:
        write_official(args.target, *parts, format=args.format, overwrite=args.overwrite)
    print(f"{args.target}: {args.kind}, {count_parameters(params):,} random parameters")
    return 0
