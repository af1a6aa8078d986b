"""Shared code of this package's worker processes."""

import multiprocessing
import os
import threading


def exit_without_parent() -> None:
    """Ends this worker when its parent is gone, even by SIGKILL.

    `core/supervise.py: end_with_parent` would not do: its signal comes once the thread that started
    the worker ends, and on Linux alone.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
