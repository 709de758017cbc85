"""The rows of the tables of bad input (``pythonpath`` makes this importable)."""

from collections.abc import Callable
from typing import NamedTuple


class Bad(NamedTuple):
    """Input that a command refuses."""

    line: str  # what is typed: the command, and flags behind those that make it work
    told: str  # a part of the sentence that answers it
    spoil: Callable[[], object] | None = None  # what was done to the place before
