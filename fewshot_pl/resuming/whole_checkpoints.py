"""WholeCheckpoints: checkpoint files that are written whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from fewshot_pl.whole_files import whole_file

_Path = str | Path


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside its path, which replaces the earlier one once it is on the disk.

    Lightning's own writer holds it in memory twice, and moves a file from the system's temporary folder, which is a
    copy, not an atomic replacement, if that folder is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _Path, storage_options: Any | None = None) -> None:
        if "://" in str(path):  # not a local file
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f"{place.name}.*.part"):  # of a killed process
            left.unlink()
        with whole_file(place) as part, part.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's writer says that it failed; the error before says why
                if isinstance(why := error.__context__, OSError):
                    raise OSError(why.errno, why.strerror, str(place)) from error
                raise
