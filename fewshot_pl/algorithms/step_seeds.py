"""StepSeeds: the random numbers of training steps, which depend on the training's seed and the step's number alone."""

import random
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from fewshot_pl.backbones.residual import DropBlock, drop_blocks
from fewshot_pl.functional.noise import normal_noise
from fewshot_pl.functional.sent import sent


class StepSeeds(LightningModule):
    """Seeds each training step by the seed of the training and the number of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.training_seed = 0  # of a Trainer's fit; its steps derive their random numbers from it
        self._drop_blocks: list[DropBlock] = []

    def task_seeds(self, num_tasks: int) -> list[str]:
        """A seed for each task of a training step, which depends only on the training's seed and the task's number.

        So a resumed training goes on as if never stopped, and devices and accumulation change nothing. Without a
        Trainer, seeds come from torch's random state.
        """
        if self._trainer is None:
            return [str(number) for number in torch.randint(2**62, (num_tasks,)).tolist()]
        number = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.trainer.global_rank
        return [f"{self.training_seed}/{number * num_tasks + task}" for task in range(num_tasks)]

    def task_noise(self, num_tasks: int, *shape: int) -> Tensor:
        """Standard normal numbers [T, *shape] for the tasks of a training step, seeded as ``task_seeds`` says."""
        noise = torch.stack([normal_noise(seed, *shape) for seed in self.task_seeds(num_tasks)])
        return sent(noise, self.device)

    # Lightning's hooks -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.training_seed, self._random_state = torch.initial_seed(), torch.get_rng_state()
            self._drop_blocks = drop_blocks(self)

    def teardown(self, stage: str) -> None:
        if stage == "fit":  # its steps have set other seeds, which the next training would start from
            torch.set_rng_state(self._random_state)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # Seeded in the first hook of a step, augmentation, dropout and all else that draws from torch's or Python's
        # random state depend on the step's number too, so no random state has to be kept for resuming.
        if self._trainer is not None and self.trainer.training:
            number = self.trainer.fit_loop.total_batch_idx + 1
            _seed_generators(f"{self.training_seed}/step/{number}/{self.trainer.global_rank}", self.device)
            for layer in self._drop_blocks:
                layer.num_training_steps.fill_(self.trainer.global_step)
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training_seed"] = self.training_seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.training_seed = checkpoint.get("training_seed", self.training_seed)


def _seed_generators(seed: str, device: torch.device) -> None:
    number = random.Random(seed).getrandbits(63)
    random.seed(number)
    torch.default_generator.manual_seed(number)  # torch.manual_seed visits all devices, and is slow even without any
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)
