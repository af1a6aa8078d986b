"""`tfds build` where TensorFlow is not installed.

The command `tfds` of tensorflow-datasets 4.9.10 imports TensorFlow for one of its other commands;
this runs its `build` alone, with the same options:

    python data/tfds_build.py data/opendialog --manual_dir DIR --data_dir TO
"""

from absl import app
from tensorflow_datasets.scripts.cli import build, cli_utils


def main() -> None:
    """Parses the options of `tfds build` and builds."""
    parse = cli_utils.make_flags_parser(build.Args, description=__doc__)
    app.run(lambda args: args.execute(), flags_parser=parse)


if __name__ == "__main__":
    main()
