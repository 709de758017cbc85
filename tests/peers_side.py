"""What the peer's process of a throughput comparison runs in a test, in a module that a new process can import."""

import os
from itertools import count

from throughput.apart import compared_apart
from throughput.setting import Setting


def comparisons_of_peer(setting: Setting) -> None:
    """Two comparisons; the rates of the first tell the process and how often it was asked."""
    asked = count(1)
    compared_apart(setting, "work", "tasks/s", lambda: 0.0, lambda: os.getpid() * 1000 + next(asked))
    compared_apart(setting, "more work", "tasks/s", lambda: 0.0, lambda: 5.0)
