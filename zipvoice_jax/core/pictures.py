"""Figures as files, drawn in memory first, so that a full disk leaves nothing half-written."""

import io
from pathlib import Path
from typing import Any

from zipvoice_jax.core.errors import UserError
from zipvoice_jax.core.files import write_bytes


def save_picture(figure: Any, path: Path, *, dpi: int = 100) -> None:
    """Writes a matplotlib figure atomically, by rename; parent directories are made.

    Args:
        figure: the matplotlib figure.
        path: output file; its extension is the format, PNG if it has none.
        dpi: dots per inch.

    Raises:
        UserError: it cannot be written, or matplotlib does not know the format.
    """
    drawn = io.BytesIO()
    try:
        figure.savefig(drawn, dpi=dpi, format=path.suffix[1:].lower() or "png")
    except ValueError as error:
        raise UserError(f"the picture {path} cannot be drawn ({error}).") from None
    write_bytes(path, drawn.getvalue())
