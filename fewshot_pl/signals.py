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
    """The name by which users know a signal: ``Ctrl-C``, ``SIGTERM`` ..."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def answer(numbers: Iterable[int], handler: Callable[[int, FrameType | None], Any]) -> None:
    """Let a handler answer signals; does nothing outside the main thread, where none can be set."""
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            signal.signal(number, handler)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """A context that Ctrl-C and SIGTERM end with Stopped, unless something inside answers them.

    Processes forked inside, such as a loader's workers, answer them as they would have without the context.
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
        # Lightning turns a KeyboardInterrupt into an exit.
        if isinstance(interruption, SystemExit) and not isinstance(interruption.__context__, KeyboardInterrupt):
            raise
        raise _stopped(signal.SIGINT) from None
    finally:
        for number, handler in kept.items():
            answer([number], handler)  # type: ignore[arg-type]


def _stopped(number: int) -> Stopped:
    return Stopped(f"{signal_name(number)} stopped the command before its end: what it had saved stays", number)
