"""How tests expect a complaint: a UserError of one line."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zipvoice_jax.core.errors import UserError


@contextlib.contextmanager
def user_error(*words: str) -> Iterator[None]:
    """Expects a UserError of one line that holds all words."""
    with pytest.raises(UserError) as caught:
        yield
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message, message


def message(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The one line that a call complains with."""
    with pytest.raises(UserError) as raised:
        call(*args, **kwargs)
    text = str(raised.value)
    assert "\n" not in text
    return text
