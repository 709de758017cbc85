"""Whether every device gets a part of the fixed episodes."""

from fewshot_pl.data.datamodule import EpisodicDataModule, Split
from fewshot_pl.data.episode_dataset import FixedEpisodes
from fewshot_pl.errors import InputError


def check_shares(data: EpisodicDataModule, split: Split, num_devices: int, limit: float | None) -> None:
    """Raise InputError if validation or test has no episode for some device, or no batch.

    Lightning would stop that device's process, and leave the others to wait for it.

    Args:
        data: the benchmark.
        split: ``val`` or ``test``.
        num_devices: the number of devices.
        limit: the Trainer's limit of batches: a number of them, or a fraction of each device's.
    """
    count = data.num_episodes[split]
    if count < num_devices:
        raise InputError(
            f"{num_devices} devices cannot share {count} episodes of {split}: pass fewer --trainer.devices, or "
            f"more --data.num_{split}_episodes"
        )
    fewest = len(FixedEpisodes(count, data.eval_tasks_per_batch, num_devices, num_devices - 1))
    if isinstance(limit, float) and limit > 0 and int(fewest * limit) == 0:
        raise InputError(
            f"--trainer.limit_{split}_batches {limit} leaves nothing of the {fewest} batches of {split} that a device "
            "has: pass a larger fraction, or a whole number of batches"
        )
