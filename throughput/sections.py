"""The sections of the comparison, and how each side's process runs them."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress

from throughput import data_path, evaluation, limits, maml, memory, precision, protonet, scaling, task_engine
from throughput.learn2learn_way import seed
from throughput.setting import Setting
from throughput.timing import Comparison, Work

SECTIONS = {
    "data_path": data_path.work,
    "maml": maml.work,
    "variants": maml.work_of_variants,
    "protonet": protonet.work,
    "evaluation": evaluation.work,
    "limits": limits.work,
    "precision": precision.work,
    "task_engine": task_engine.work,
    "scaling": scaling.work,
    "memory": memory.work,
}
_OF_OURS_ALONE = ("limits", "precision", "task_engine", "scaling", "memory")  # or in processes of their own


def work_of(sections: Sequence[str], setting: Setting) -> list[Work]:
    """The work in some sections that the flags ask for."""
    return [work for section in sections for work in SECTIONS[section](setting) if setting.asks_for(work.name)]


def comparisons_of(sections: Sequence[str], setting: Setting) -> Iterator[Comparison]:
    """The comparisons in some sections, made one by one; those of a Work do not depend on which others run."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|learn2learn")
    for work in work_of(sections, setting):
        seed(0)
        yield from work.comparisons()


def run_as_peer(sections: Sequence[str], setting: Setting) -> None:
    """Make the same comparisons in the peer's process, until our side ends."""
    with suppress(EOFError):
        for _ in comparisons_of([section for section in sections if section not in _OF_OURS_ALONE], setting):
            pass
