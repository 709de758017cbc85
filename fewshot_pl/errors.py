"""The exceptions that a command answers with one sentence."""


class InputError(ValueError):
    """Bad input, with its cause and its cure in one sentence; commands print it without a traceback."""


class Stopped(BaseException):
    """A signal has ended a command, which says so in one sentence, and how to go on.

    No Exception: nothing that goes on after mistakes should go on after this.

    Args:
        sentence: to print.
        number: of the signal.
    """

    def __init__(self, sentence: str, number: int) -> None:
        super().__init__(sentence)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it."""
        return 128 + self.number
