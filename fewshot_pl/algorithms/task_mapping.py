"""TaskMapping: the tasks of an Episode, by one-task functions, and their random numbers."""

from functools import partial
from typing import Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from fewshot_pl.algorithms.task_map import OneTask, mapped
from fewshot_pl.functional.noise import normal_noise

TaskParallel = Literal["auto", "loop", "vmap"]


class TaskMapping(LightningModule):
    """Maps one-task functions over tasks as flags say.

    Args:
        task_parallel: map over tasks by a ``loop``, by ``vmap``, or (``auto``) by vmap on CUDA and a loop elsewhere.
        task_chunk: how many tasks vmap takes at once, to bound memory; default all.
        compile: in training, by torch.compile.
    """

    def __init__(self, task_parallel: TaskParallel, task_chunk: int | None, compile: bool) -> None:
        super().__init__()
        self.task_parallel = task_parallel
        self.task_chunk = task_chunk
        self.compiles_tasks = compile

    @property
    def vectorises(self) -> bool:
        """Whether tasks are mapped by vmap."""
        return self.task_parallel == "vmap" or (self.task_parallel == "auto" and self.device.type == "cuda")

    def map_tasks(self, function: OneTask, *inputs: Tensor, loss_first: bool = False) -> tuple[Tensor, ...]:
        """A one-task function applied to each of T tasks, inputs [T, ...] each: its outputs, stacked to [T, ...].

        ``loss_first``: see ``mapped``; only for a loop.
        """
        vmap = self.vectorises
        map_with = partial(mapped, self, function, inputs, vmap=vmap, chunk=self.task_chunk, loss_first=loss_first)
        if self.compiles_tasks and self.training:
            try:
                return map_with(compiled=True)
            except Exception as error:  # compilers raise what they like; what is wrong without them shows below
                self.compiles_tasks = False
                reason = str(error).strip().partition("\n")[0]
                rank_zero_warn(f"{type(self).__name__} trains without torch.compile, which failed: {reason}")
        return map_with()

    # Random numbers ----------------------------------------------------------------------------------

    def task_seeds(self, num_tasks: int) -> list[str]:
        """A seed for each task of a training step, a function of the training's seed and of the task's number alone.

        So a resumed training goes on as if never stopped, and devices and accumulation change nothing. Without a
        Trainer they come from torch's random state.
        """
        if self._trainer is None:
            return [str(number) for number in torch.randint(2**62, (num_tasks,)).tolist()]
        number = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.trainer.global_rank
        return [f"{torch.initial_seed()}/{number * num_tasks + task}" for task in range(num_tasks)]

    def task_noise(self, num_tasks: int, *shape: int) -> Tensor:
        """Standard normal numbers [T, *shape] for the tasks of a training step, seeded as ``task_seeds`` says."""
        return torch.stack([normal_noise(seed, *shape) for seed in self.task_seeds(num_tasks)]).to(self.device)
