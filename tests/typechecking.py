"""The type checker that conftest.py puts around every function of the package under test."""

from collections.abc import Callable
from typing import Any

import beartype
from beartype.roar import BeartypeDecorHintPep673Exception

# As for static checkers, an int will do where a float is asked for.
_checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks arguments and results with beartype, leaving out what it cannot check.

    jaxtyping hands over methods one by one, without their class, so a method that gives `Self`
    has no class for beartype to hold the result against.
    """
    try:
        return _checked(function)
    except BeartypeDecorHintPep673Exception:
        return function
