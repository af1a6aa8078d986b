"""The C library's allocator on CPUs: memory is kept instead of being given back at every step.

XLA's CPU programs allocate the same large temporaries in each step. By default glibc maps and
unmaps them, so that the kernel clears the same pages again and again, which took a fifth of both
cores while the demo model was trained (docs/speed.md).
"""

import ctypes
import sys

# Options of mallopt (malloc.h of glibc).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = 2**31 - 1  # bytes


def keep_memory() -> bool:
    """Tells glibc to take large blocks from its heap and to return none; False elsewhere."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, 2**28))
    return all(mallopt(name, value) == 1 for name, value in settings)
