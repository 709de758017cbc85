"""The rows of the tables of bad input (``pythonpath`` makes this importable)."""

from collections.abc import Callable
from typing import NamedTuple


class Bad(NamedTuple):
    """Input that a command refuses."""

    line: str  # what is typed: the command, and flags after those that make it work
    told: str  # a part of the sentence that answers
    spoil: Callable[[], object] | None = None  # what to spoil before the command runs
