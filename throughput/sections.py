"""The sections of the comparison, and how either side's process goes through them."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress

from throughput import data_path, evaluation, limits, maml, memory, precision, protonet, scaling, task_engine
from throughput.learn2learn_way import seed
from throughput.setting import Setting
from throughput.timing import Comparison

SECTIONS = {
    "data_path": data_path.comparisons,
    "maml": maml.comparisons,
    "protonet": protonet.comparisons,
    "evaluation": evaluation.comparisons,
    "limits": limits.comparisons,
    "precision": precision.comparisons,
    "task_engine": task_engine.comparisons,
    "scaling": scaling.comparisons,
    "memory": memory.comparisons,
}
_OF_OURS_ALONE = ("limits", "precision", "task_engine", "scaling", "memory")  # or with processes of their own


def comparisons_of(sections: Sequence[str], setting: Setting) -> Iterator[Comparison]:
    """The comparisons of some sections, made one by one."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|learn2learn")
    for section in sections:
        seed(0)
        yield from SECTIONS[section](setting)


def run_as_peer(sections: Sequence[str], setting: Setting) -> None:
    """The same comparisons in the peer's process, until our side ends."""
    with suppress(EOFError):
        for _ in comparisons_of([section for section in sections if section not in _OF_OURS_ALONE], setting):
            pass
