"""`zipvoice-jax bench lengths`: predicted lengths of speech, compared with recordings."""

import argparse
import dataclasses
from pathlib import Path

from zipvoice_jax.config import MODEL_NAMES
from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_json
from zipvoice_jax.core.outputs import check_file
from zipvoice_jax.text.tokenizer import TOKENIZERS


def add_parser(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `lengths` to the kinds of `bench`."""
    parser = kinds.add_parser(
        "lengths",
        help="predicted lengths of speech",
        description="The length of each item by the ratio of tokens, as in the official code, and "
        "by predicted durations if the model has them, compared with a recording of the same text: "
        "mean, mean absolute, 90 % and worst error of the logarithm (0.1 is 10 % too long).",
    )
    add = parser.add_argument
    add("--model-name", choices=MODEL_NAMES, help="from the hub without --model-dir; demo comes "
        "with zipvoice-jax")  # fmt: skip
    add("--model-dir", metavar="DIR", help="official or converted directory")
    add("--tokenizer", choices=TOKENIZERS, help="default: what the model has")
    add("--lang", default="en-us", help="of --tokenizer espeak (default: en-us)")
    add("--test-list", type=Path, required=True, metavar="FILE", help="as for `generate`")
    add("--wav-dir", type=Path, required=True, metavar="DIR", help="recordings: ITEM.wav")
    add("--json", type=Path, metavar="FILE", help="write the rows, and one for each item, here too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `zipvoice-jax bench lengths`.

    Raises:
        UserError: the model, an item, its recording or --json cannot be used.
    """
    import tqdm

    from zipvoice_jax.bench.generate import machine, table
    from zipvoice_jax.bench.lengths import COLUMNS, lengths, summary
    from zipvoice_jax.checkpoint.hub import load_model
    from zipvoice_jax.config import SamplingConfig
    from zipvoice_jax.infer.requests import read_usable
    from zipvoice_jax.infer.synthesizer import Synthesizer
    from zipvoice_jax.vocoder.base import GriffinLim

    check_file(args.json)
    if not args.wav_dir.is_dir():
        raise UserError(f"--wav-dir {args.wav_dir} is not a folder; give one with recordings.")
    requests = read_usable(args.test_list)
    loaded = load_model(args.model_name, args.model_dir)
    synthesizer = Synthesizer(
        loaded, vocoder=GriffinLim(loaded.features), tokenizer=args.tokenizer, lang=args.lang
    )
    sampling = SamplingConfig.for_model(loaded.config)
    prepare = synthesizer.preparation(sampling, raw_evaluation=True)
    prepare = dataclasses.replace(prepare, tokenizer=synthesizer.tokenizer)
    description = machine()
    print(f"{description}; {loaded.config.kind}")
    made = lengths(prepare, requests, args.wav_dir)
    items = list(tqdm.tqdm(made, total=len(requests), unit="item", disable=None))
    rows = summary(items)
    print(table(rows, COLUMNS))
    if not loaded.config.has_durations:
        print("the model predicts no durations; configs/durations.py adds them")
    if args.json is not None:
        write_json(args.json, {"machine": description, "rows": rows, "items": items})
    return 0
