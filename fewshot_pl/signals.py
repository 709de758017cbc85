"""Signals that end a command, and the handlers that answer them."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fewshot_pl.errors import Stopped


def signal_name(number: int) -> str:
    """What a user calls a signal: ``Ctrl-C``, ``SIGTERM`` ..."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def answer(numbers: Iterable[int], handler: Callable[[int, FrameType | None], Any]) -> None:
    """Let a handler answer signals; in another thread than the main one, which may set none, nothing is done."""
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            signal.signal(number, handler)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """What runs inside ends with Stopped when Ctrl-C or SIGTERM comes, where nothing inside answers them.

    Processes that it forks, as a loader's workers, do what they would have done without.
    """
    process = os.getpid()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    kept = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise _stopped(number)
        signal.signal(number, handlers[signal.Signals(number)])
        os.kill(os.getpid(), number)

    answer(kept, end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as interruption:
        # Lightning makes an exit of a KeyboardInterrupt.
        if isinstance(interruption, SystemExit) and not isinstance(interruption.__context__, KeyboardInterrupt):
            raise
        raise _stopped(signal.SIGINT) from None
    finally:
        for number, handler in kept.items():
            answer([number], handler)  # type: ignore[arg-type]


def _stopped(number: int) -> Stopped:
    return Stopped(f"{signal_name(number)} stopped the command before its end: what it had saved stays", number)
