"""The report of a list of requests: a line for each item, from which a later run goes on.

Each of several processes appends to a part of its own; process 0 gathers them into one report
when they begin, since they may have been killed, and when all are done.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError

_NAME = "report.jsonl"
# Names of files may hold bytes that are no Unicode; JSON has the same escapes for them.
_SURROGATES = "backslashreplace"

Records = dict[str, dict[str, Any]]


class Report:
    """The report of a folder of waves, as one of its processes sees it.

    Args:
        res_dir: the folder.
        order: ids of the list, in its order.
        index: of this process.
        count: of processes.
    """

    def __init__(self, res_dir: Path, order: Sequence[str], index: int, count: int) -> None:
        self._whole = res_dir / _NAME
        self._order = order
        name = f"report-{index:05}-of-{count:05}.jsonl"
        self._own = self._whole if count == 1 else res_dir / name

    def gather(self) -> None:
        """Leaves one report, with a line per item in the list's order, then those of other lists.

        Raises:
            UserError: it cannot be read or written.
        """
        parts = sorted(self._whole.parent.glob("report-*-of-*.jsonl"))
        records = self.read()
        for part in parts:
            records.update(_read(part))
        if not records:
            return
        listed = set(self._order)
        others = [i for i, one in records.items() if i not in listed and "error" not in one]
        order = [i for i in self._order if i in records] + others
        lines = [json.dumps(records[i], ensure_ascii=False) + "\n" for i in order]
        temporary = self._whole.with_suffix(".tmp")
        try:
            temporary.write_text("".join(lines), encoding="utf-8", errors=_SURROGATES)
            temporary.replace(self._whole)
        except OSError as error:
            raise UserError(f"{self._whole} cannot be written ({error.strerror}).") from None
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink()

    def read(self) -> Records:
        """What is known of each item, by id."""
        return _read(self._whole)

    def add(self, record: dict[str, Any]) -> None:
        """Notes an item that is done or has failed.

        Raises:
            UserError: it cannot be written.
        """
        try:
            with self._own.open("a", encoding="utf-8", errors=_SURROGATES) as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{self._own} cannot be written ({error.strerror}).") from None


def _read(path: Path) -> Records:
    """The last line of each id; a line that was cut by a kill is dropped."""
    records: Records = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return records
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("id"), str):
            records[record["id"]] = record
    return records
