"""Exceptions that a command reports in one sentence."""

import re


class InputError(ValueError):
    """Bad input, with its cause and its cure in one sentence; commands print it without a traceback."""


class Stopped(BaseException):
    """A signal has ended a command, which says in one sentence that it did and how to continue.

    Not an Exception, so code that recovers from errors does not catch it.

    Args:
        sentence: the message to print.
        number: the number of the signal.
    """

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as in shells."""
        return 128 + self.number


def first_line(error: Exception) -> str:
    """What another library's error says first, to stand within a sentence; the name of its class if it says nothing."""
    line = next((line.strip().rstrip(":.") for line in str(error).splitlines()), "")
    return re.sub(r"[.!?]\s+(?=[A-Z])", "; ", line) or type(error).__name__
