"""TrainingLoader: the batches of an epoch from where training stands."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class TrainingLoader(DataLoader[Any]):
    """A DataLoader of ``TrainingEpisodes`` that continues in mid-epoch where training was resumed.

    The Trainer knows where that is, so there is no state to save. ``state_dict`` and ``load_state_dict`` only tell
    Lightning that the loader can resume.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator, so neither sampler nor workers start before the first batch is requested: only then has a resumed
        # Trainer set the epoch and the number of the batch.
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing from a checkpoint."""
