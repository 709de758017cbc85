"""The peer's side of a comparison in its own process, where nothing of ours affects it.

Both processes run the same sections. At a comparison, the peer's process waits, and takes a rate of its side whenever
ours asks, while ours waits. So each side has the allocator, the threads and the memory of its users' processes.
"""

import math
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from throughput.setting import Setting
from throughput.timing import Comparison, Rate, compared


def compared_apart(setting: Setting, name: str, unit: str, ours: Rate, peer: Rate) -> Comparison:
    """As ``compared``, with the peer's rates from its own process; in that process, an empty Comparison."""
    if setting.is_peer:
        for asked_name in iter(setting.other_side.recv, None):
            assert asked_name == name, "both sides are at the same comparison"
            setting.other_side.send(peer())
        return Comparison(name, unit, math.nan, math.nan, math.nan, (math.nan, math.nan), 0)

    def asked() -> float:
        setting.other_side.send(name)
        their_rate: float = setting.other_side.recv()
        return their_rate

    comparison = compared(name, unit, ours, asked, setting.repeats)
    setting.other_side.send(None)
    return comparison


@contextmanager
def with_peer(setting: Setting, run_as_peer: Callable[[Setting], None]) -> Iterator[Setting]:
    """The setting of our side, while ``run_as_peer`` runs the same sections in the peer's process."""
    context = multiprocessing.get_context("spawn")
    our_end, their_end = context.Pipe()
    as_peer = replace(setting, other_side=their_end, is_peer=True)
    process = context.Process(target=_run, args=(run_as_peer, as_peer))
    process.start()
    their_end.close()
    our_end.recv()  # wait for its imports, which take the processor from us
    try:
        yield replace(setting, other_side=our_end)
    finally:
        our_end.close()  # which ends the peer at its next recv
        process.join()


def _run(run_as_peer: Callable[[Setting], None], setting: Setting) -> None:
    setting.other_side.send("ready")
    run_as_peer(setting)
