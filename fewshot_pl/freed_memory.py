"""Freed memory that the process keeps, because the next training step needs it again."""

import ctypes
import os
import sys

# Parameters of mallopt, from glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory instead of returning it to the system; all our commands but export.py do.

    On a CPU torch allocates each feature map by malloc, and malloc requests large blocks from the system, which maps
    and clears their pages one by one, again at every training step. With this call a process keeps its peak memory.
    Call it before the first large tensors. It does nothing with another C library, nor if ``LD_PRELOAD`` or an
    environment variable ``MALLOC_...`` is set, as the choice of an allocator is then the user's.
    """
    chosen = "LD_PRELOAD" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _LARGEST)
        mallopt(_MMAP_MAX, 0)  # everything on the heap, where freed memory is reused
        mallopt(_ARENA_MAX, 1)  # heaps of single threads are too small for feature maps
