"""Freed memory that stays with the process, as what one training step frees the next one needs again."""

import ctypes
import os
import sys

# Of mallopt, from glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc's malloc keep what is freed rather than give it back to the system; our commands but export.py do so.

    Torch asks malloc for each map of a CPU, and malloc asks the system for what is large, whose pages the system maps
    and clears one by one, anew at every training step. A process then holds what it ever needed at once. Call it before
    the first large tensors. It does nothing under another C library, nor where an environment variable ``MALLOC_...``
    or another allocator in ``LD_PRELOAD`` says that the choice is made.
    """
    chosen = "LD_PRELOAD" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _LARGEST)
        mallopt(_MMAP_MAX, 0)  # all from the heap, where what is freed is found again
        mallopt(_ARENA_MAX, 1)  # threads' own heaps are too small for maps
