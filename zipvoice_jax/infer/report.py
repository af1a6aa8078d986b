"""The report of a list of requests: one line per item, from which a later run continues.

Each of several processes appends to its own part; process 0 merges the parts into one report when
a run begins, since the last one may have been killed, and when all are done.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zipvoice_jax.core.files import Records, append_record, json_line, read_records, write_text

_NAME = "report.jsonl"


class Report:
    """The report of a folder of waves, as seen by one process.

    Args:
        res_dir: the folder.
        order: ids of the list, in its order.
        index: number of this process.
        count: number of processes.
    """

    def __init__(self, res_dir: Path, order: Sequence[str], index: int, count: int) -> None:
        self._whole = res_dir / _NAME
        self._order = order
        name = f"report-{index:05}-of-{count:05}.jsonl"
        self._own = self._whole if count == 1 else res_dir / name

    def gather(self) -> None:
        """Merges all parts into one report: items in the list's order, then those of other lists.

        Raises:
            UserError: it cannot be read or written.
        """
        parts = sorted(self._whole.parent.glob("report-*-of-*.jsonl"))
        records = self.read()
        for part in parts:
            records.update(read_records(part))
        if not records:
            return
        listed = set(self._order)
        others = [i for i, record in records.items() if i not in listed and "error" not in record]
        order = [i for i in self._order if i in records] + others
        write_text(self._whole, "".join(json_line(records[i]) for i in order))
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink()

    def read(self) -> Records:
        """The record of each item, by id."""
        return read_records(self._whole)

    def add(self, record: dict[str, Any]) -> None:
        """Appends the record of an item that is done or has failed.

        Raises:
            UserError: it cannot be written.
        """
        append_record(self._own, record)
