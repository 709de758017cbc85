"""WholeCheckpoints: checkpoint files that are there whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from fewshot_pl.whole_files import whole_file

_Path = str | Path


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, which it takes when it is on the disk; the one before stays until then.

    Lightning's own way has it in memory twice, and lets a file in the system's temporary folder take the place, which
    is a copy, and no replacement, where that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _Path, storage_options: Any | None = None) -> None:
        if "://" in str(path):  # no file of this machine's
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f"{place.name}.*.part"):  # of a process that was killed
            left.unlink()
        with whole_file(place) as part, part.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's writer knows that it failed; why, the error before
                if isinstance(why := error.__context__, OSError):
                    raise OSError(why.errno, why.strerror, str(place)) from error
                raise
