"""TaskMapping: maps one-task functions over the tasks of an Episode."""

from functools import partial
from typing import Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from fewshot_pl.algorithms.task_map import OneTask, looped, vmapped
from fewshot_pl.all_processes import mean_over_processes
from fewshot_pl.backbones.learner import draws_random_numbers
from fewshot_pl.backbones.normalization import counting_batch_norms, running_statistics
from fewshot_pl.backbones.passes import with_attribute
from fewshot_pl.backbones.running_norms import update_by_pass
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.functional.precision import loss_is_scaled
from fewshot_pl.registries import is_ours

TaskParallel = Literal["auto", "loop", "threads", "vmap", "side_by_side"]
_NDIM_OF_FEATURES = 3  # [T, n, D]
_NDIM_OF_IMAGES = 5  # [T, n, C, H, W], or more for groups of tasks
_MOST_THREADS = 8  # in a loop over tasks; each holds the activations of one task


class TaskMapping(LightningModule):
    """Maps one-task functions over tasks as flags say; for the arguments see FewShotAlgorithm."""

    def __init__(self, task_parallel: TaskParallel, task_chunk: int | None, compile: bool) -> None:
        super().__init__()
        self.task_parallel = task_parallel
        self.task_chunk = task_chunk
        self.asked_to_compile = compile
        self.compiles_tasks = compile  # until that fails
        self.is_mapping = False  # whether map_tasks is running, which updates running statistics itself

    @property
    def vectorises(self) -> bool:
        """Whether tasks are mapped by vmap."""
        if self.task_parallel == "vmap":
            return True
        return self.is_auto and self.device.type == "cuda" and not (self.training and counting_batch_norms(self))

    @property
    def is_auto(self) -> bool:
        """Whether no flag decides how tasks are mapped in the current mode."""
        return self.task_parallel == "auto" or (self.task_parallel == "side_by_side" and not self.training)

    @property
    def vectorises_features(self) -> bool:
        """Whether ``auto`` maps features by vmap, which must round a task as if it were alone, in float32 too."""
        return True

    def map_tasks(self, function: OneTask, *inputs: Tensor, loss_first: bool = False) -> tuple[Tensor, ...]:
        """The outputs, stacked to [T, ...], of a one-task function applied to each of T tasks with inputs [T, ...].

        The function takes the model, which may be a copy that shares its parameters, before the inputs of a task.
        ``loss_first``: see ``looped``.
        """
        with with_attribute([self], "is_mapping", [True]):
            return self._mapped_tasks(function, inputs, loss_first)

    def _mapped_tasks(self, function: OneTask, inputs: tuple[Tensor, ...], loss_first: bool) -> tuple[Tensor, ...]:
        # Features take so little work that calls would cost more if tasks came one by one.
        of_features = inputs[0].ndim == _NDIM_OF_FEATURES and self.vectorises_features
        # Without vmap, the batch norm of a task by itself is one operation.
        alone = self.is_auto and self.training and 1 in (len(inputs[0]), self.task_chunk)
        vmap = not alone and (self.vectorises or (self.is_auto and of_features))
        if vmap and self.is_auto and not is_ours(type(self)):
            try:
                return self._mapped(function, inputs, loss_first, vmap=True)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                self.task_parallel, vmap = "loop", False
                reason = str(error).strip().partition("\n")[0]
                rank_zero_warn(
                    f"{type(self).__name__} takes tasks one by one, as it cannot take them at once: {reason}"
                )
        return self._mapped(function, inputs, loss_first, vmap)

    def _mapped(
        self, function: OneTask, inputs: tuple[Tensor, ...], loss_first: bool, vmap: bool
    ) -> tuple[Tensor, ...]:
        """As ``map_tasks``, by vmap or one after another."""
        way = (
            partial(vmapped, chunk_size=self.task_chunk)
            if vmap
            else partial(looped, num_threads=self._num_threads(inputs, loss_first))
        )
        map_with = partial(way, self, function, inputs, loss_first=loss_first)
        if self.compiles_tasks and self.training:
            try:
                return map_with(compiled=True)
            except Exception as error:  # compilers may raise anything; errors that are not theirs recur below
                self.compiles_tasks = False
                reason = str(error).strip().partition("\n")[0]
                rank_zero_warn(f"{type(self).__name__} trains without torch.compile, which failed: {reason}")
        return map_with()

    def update_running_statistics(self) -> None:
        """Fold the last training pass into the statistics of norm ``running``; call it after passes of your own.

        Changes nothing in evaluation, without gradients, or within ``map_tasks``, which folds in all its tasks at once.
        """
        if self.training and not self.is_mapping:
            update_by_pass(self)

    def accumulates_task_gradients(self, batch: Episode) -> bool:
        """Whether a training step takes the gradients of some tasks before the next tasks pass."""
        num_together = (self.task_chunk or batch.num_tasks) if self.vectorises else 1
        return batch.num_tasks > num_together and self.can_accumulate_task_gradients(batch)

    def can_accumulate_task_gradients(self, batch: Episode) -> bool:
        """Whether a training step could do so: its loss is the mean of the tasks' losses, and not scaled."""
        known = batch.is_regression or batch.known_ways is not None  # else tasks may have different numbers of labels
        return known and torch.is_grad_enabled() and not loss_is_scaled(self.device)

    def _num_threads(self, inputs: tuple[Tensor, ...], loss_first: bool) -> int:
        """How many tasks a loop takes at a time."""
        of_pixels = inputs[0].ndim >= _NDIM_OF_IMAGES and inputs[0][0, 0, 0].numel() > 1
        differentiated = torch.is_grad_enabled()
        pays = of_pixels and (not differentiated or self.trains_in_pairs(inputs[0]))
        wanted = self.task_parallel == "threads" or (self.is_auto and pays)
        # In a graph built by several threads, sums of gradients have no fixed order; neither have random draws.
        repeats = (loss_first or not differentiated) and not (self.training and draws_random_numbers(self))
        if not wanted or not repeats or self.device.type != "cpu":
            return 1
        at_once = min(torch.get_num_threads(), self.task_chunk or _MOST_THREADS)
        if self.is_auto and differentiated:
            at_once = min(at_once, 2)
        return at_once if self.evaluates_a_list else min(len(inputs[0]), at_once)

    def trains_in_pairs(self, support_x: Tensor) -> bool:
        """Whether ``auto`` trains on two tasks at a time, with half of the cores each, on supports [T, n, C, H, W].

        It does not by default: in training, threads wait for each other, as most operations with two derivatives are
        called from Python.
        """
        return False

    @property
    def evaluates_a_list(self) -> bool:
        """Whether this is validation or test on tasks of one size.

        The same number of threads then share the cores in every batch, however few its tasks: with more cores per task
        its sums would be rounded differently, and figures would depend on batches.
        """
        evaluates = self._trainer is not None and bool(self.trainer.evaluating)
        return evaluates and not getattr(getattr(self.trainer, "datamodule", None), "is_variable", False)

    # Lightning's hooks -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.task_parallel == "vmap" and counting_batch_norms(self):
            raise InputError(
                "torch's batch norm in a network of your own cannot keep running statistics under vmap: leave out "
                "--model.task_parallel vmap, use nn.BatchNorm2d in own_backbone, or track_running_stats=False"
            )
        super().setup(stage)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._share_running_statistics()

    def _share_running_statistics(self) -> None:
        """Give all devices the mean of their running statistics, as one device with all the tasks would have.

        DDP would continue from the first device's, and validate on every device with its own.
        """
        if self.trainer.world_size > 1 and (buffers := running_statistics(self)):
            shared = mean_over_processes(torch.cat(buffers), self.trainer)
            parts = torch.split(shared, [len(buffer) for buffer in buffers])
            for buffer, values in zip(buffers, parts, strict=True):
                buffer.copy_(values)
