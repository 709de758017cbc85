"""Classes that measure a model although it was trained on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from fewshot_pl.data.datamodule import EpisodicDataModule, Split
from fewshot_pl.printable import first_of


def warn_of_trained_classes(
    data: EpisodicDataModule, split: Split, state: Mapping[str, Any], checkpoint: str | Path
) -> bool:
    """Warn if a checkpoint was trained on classes of the split that is to measure it.

    Args:
        data: the benchmark that measures.
        split: ``val`` or ``test``.
        state: the saved state of the benchmark that the checkpoint was trained on.
        checkpoint: its path.

    Returns:
        Whether it was.
    """
    seen = data.trained_classes(state, split)
    if seen:
        rank_zero_warn(
            f"class {first_of(seen)} of {split} was trained on by {checkpoint}: "
            "few-shot figures are about classes that training never saw"
        )
    return bool(seen)
