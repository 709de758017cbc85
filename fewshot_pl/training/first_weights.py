"""The classes that a model had been trained on when its training began, from the weights of another."""

from fewshot_pl.checkpoints import data_state, existing_checkpoint, opened_checkpoint
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.data.trained_classes import warn_of_trained_classes


def remember_classes_of(start: str, data: EpisodicDataModule) -> None:
    """Let a benchmark remember the classes of the model that a training starts from, and warn of those it measures.

    Args:
        start: the checkpoint of that model.
        data: the benchmark to train on.
    """
    state = data_state(opened_checkpoint(existing_checkpoint(start)))
    data.load_state_dict(state)
    for split in ("val", "test"):
        warn_of_trained_classes(data, split, state, start)
