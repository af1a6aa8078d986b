"""Numbers, choices and switches of configs and commands: parsing and checks."""

import argparse
from collections.abc import Iterable

from zipvoice_jax.core.errors import require

Number = int | float


def check_number(
    name: str, value: object, low: Number, high: Number, *, whole: bool = False, above: bool = False
) -> None:
    """Checks that a value is a number in a range; infinity and NaN are in no range.

    Args:
        name: what the message calls the value.
        value: the value to check.
        low: the least allowed value.
        high: the greatest allowed value.
        whole: only integers are allowed.
        above: `low` itself is not allowed.

    Raises:
        UserError: it is not; the message names the value and the range.
    """
    kind = int if whole else int | float
    good = isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high
    require(
        good and not (above and value == low),
        f"{name} is {value!r}; give a {'whole ' if whole else ''}number "
        f"{'above' if above else 'from'} {_shown(low)} {'and up ' if above else ''}to "
        f"{_shown(high)}.",
    )


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Checks that a value is one of a few.

    Raises:
        UserError: it is not; the message names the value and the choices.
    """
    known = tuple(choices)
    require(value in known, f"{name} is {value!r}; choose one of {', '.join(map(str, known))}.")


def _shown(value: Number) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def boolean(value: str) -> bool:
    """Reads yes/no, true/false, t/f, y/n and 1/0, as the official options do."""
    if value.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if value.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{value!r} is neither true nor false")
