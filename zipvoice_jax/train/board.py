"""TensorBoard's files, which may be lost without a training being lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


class _Forgiving:
    """Stands before what writes TensorBoard's records; what it cannot write is left out.

    The thread that writes would otherwise end at the first full disk, with a traceback, and the
    training would wait for it as soon as its queue is full.
    """

    def __init__(self, writer: Any, tell: Callable[[str], None]) -> None:
        self._writer, self._tell, self._told = writer, tell, False

    def _try(self, work: Callable[..., Any], *given: Any) -> Any:
        try:
            return work(*given)
        except (OSError, ValueError) as error:  # ValueError: of a file that is closed
            if not self._told:
                self._told = True
                self._tell(f"TensorBoard's files cannot be written ({error}); the run goes on")
            return None

    def write_event(self, event: Any) -> Any:
        return self._try(self._writer.write_event, event)

    def flush(self) -> Any:
        return self._try(self._writer.flush)

    def close(self) -> Any:
        return self._try(self._writer.close)


def open_board(folder: Path, *, start: int, tell: Callable[[str], None]) -> Any:
    """A tensorboardX `SummaryWriter` that goes on where the disk is full.

    Args:
        folder: of its files.
        start: step from which the run goes on; later entries of an earlier attempt go.
        tell: takes a line for the user, once, if something cannot be written.

    Raises:
        OSError: the folder cannot be made.
    """
    from tensorboardX import SummaryWriter

    board = SummaryWriter(str(folder), purge_step=start + 1)
    writer: Any = board.file_writer
    events = writer.event_writer
    forgiving = _Forgiving(events._ev_writer, tell)
    events._ev_writer = events._worker._record_writer = forgiving
    return board
