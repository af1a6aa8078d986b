"""Progress of long work: a bar on a terminal, a plain line now and then in a file or pipe."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

INTERVAL = 30.0  # seconds between lines if the output is no terminal
_FORMAT = "{n_fmt} of {total_fmt} {unit}s, {elapsed} so far, {remaining} to go{postfix}"
_ENDLESS = "{n_fmt} {unit}s, {elapsed} so far{postfix}"


class _Lines(tqdm):
    """A bar without carriage returns: each update is a line of its own."""

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        self._shown = time.monotonic()
        super().__init__(iterable, **{**options, "dynamic_ncols": False})
        layout = _ENDLESS if self.disable or self.total is None else _FORMAT
        self.bar_format = f"{options['desc']}: {layout}" if options.get("desc") else layout

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Prints a line if `INTERVAL` seconds have passed since the last."""
        del msg, pos
        if time.monotonic() - self._shown >= INTERVAL:
            self._show()

    def clear(self, nolock: bool = False) -> None:
        """Does nothing: printed lines stay."""
        del nolock

    def close(self) -> None:
        """Prints the last line if the bar would have stayed."""
        if self.disable:
            return
        self.disable = True
        known: Any = type(self)
        known._decr_instances(self)
        if self.leave and self.n > self.initial:
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        print(str(self).strip(), file=self.fp, flush=True)


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A tqdm bar on stderr; a line every `INTERVAL` seconds if that is no terminal.

    Args:
        iterable: what the loop runs over; None: the caller updates the bar.
        options: keyword arguments of tqdm.
    """
    kind = tqdm if sys.stderr.isatty() else _Lines
    defaults = {"file": sys.stderr, "mininterval": 0.5, "dynamic_ncols": True}
    return kind(iterable, **{**defaults, **options})
