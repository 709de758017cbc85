"""FiniteLoss: stops at, or skips, training steps whose loss or gradient is nan or infinite."""

import math
from typing import Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer

from fewshot_pl.algorithms.base import FewShotAlgorithm
from fewshot_pl.all_processes import in_any_process
from fewshot_pl.callbacks.adaptation_curve import adaptation_outputs, takes_steps
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError

Nonfinite = Literal["stop", "skip"]
_NEVER = torch.iinfo(torch.int64).max


class FiniteLoss(Callback):
    """Ends a training at a step whose loss or gradient is not finite, or leaves such steps out.

    ``stop`` raises an InputError that names the step and, if it can be found, the inner step where this began; no
    checkpoint is written of the weights that such a step left. ``skip`` leaves the weights, the optimiser's state and
    buffers as they were, and waits for the device at every step. All processes do the same. With 16-bit precision,
    gradients are left to the loss scaler, which skips steps by itself.

    Args:
        action: what to do.
        every_n_steps: with ``stop``, how often to check on an accelerator, as each check waits for it; there is also a
            check before each validation and checkpoint.
    """

    def __init__(self, action: Nonfinite = "stop", every_n_steps: int = 50) -> None:
        self.action = action
        self.every_n_steps = every_n_steps
        self._forget()

    def _forget(self) -> None:
        self.num_skipped = 0
        self._batch: Episode | None = None
        self._losses: list[Tensor] = []  # whether each loss since the last step is finite
        self._first: Tensor | None = None  # the first step that was not finite
        self._buffers: list[Tensor] = []  # as they were before the current step
        self._was_skipped = False  # the current step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._forget()  # what an earlier training left, which may have been stopped

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Episode, batch_idx: int
    ) -> None:
        self._batch = batch
        if self.action == "skip" and not self._losses:  # the first batch of a step
            self._buffers = [buffer.clone() for buffer in pl_module.buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach().isfinite().all())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        broken = in_any_process(~torch.stack([*self._losses, *_finite_gradient(trainer, optimizer)]).all(), trainer)
        self._losses = []
        if self.action == "skip":
            if broken:
                self._skip(trainer, pl_module)
            return
        step = torch.where(broken, trainer.global_step, _NEVER)
        self._first = step if self._first is None else torch.minimum(self._first, step)
        if reads_freely(broken.device) or trainer.global_step % self.every_n_steps == 0:
            self._check(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Episode, batch_idx: int
    ) -> None:
        self._batch = None
        if self._was_skipped:
            for buffer, before in zip(pl_module.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        self._was_skipped = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)
        if self.num_skipped:
            rank_zero_warn(f"{self.num_skipped} steps were skipped, as their loss or gradient was not finite")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise InputError if a step was not finite; from then on, saving a checkpoint raises it too."""
        if self._first is None or (step := int(self._first)) == _NEVER:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.save_on_exception = False  # what such a step left is not worth keeping
        raise InputError(
            f"{self._account(pl_module, step, trainer.global_step)}: {_cures(pl_module)}, or pass --nonfinite skip to "
            "leave such steps out; checkpoints are from before it"
        )

    def _skip(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the current step: optimisers ignore parameters without a gradient."""
        for parameter in pl_module.parameters():
            parameter.grad = None
        self._was_skipped = True
        self.num_skipped += 1
        if self.num_skipped.bit_count() == 1:  # 1, 2, 4, 8 ...: a training that always fails must not fill the log
            step = trainer.global_step
            rank_zero_warn(f"{self._account(pl_module, step, step)} and was skipped, {self.num_skipped} so far")

    def _account(self, pl_module: LightningModule, step: int, step_at_hand: int) -> str:
        began = _beginning(pl_module, self._batch) if step == step_at_hand else ""
        return f"step {step} of {type(pl_module).__name__} had a loss or gradient that is not finite{began}"


def reads_freely(device: torch.device) -> bool:
    """Whether a number can be read from the device without waiting."""
    return device.type == "cpu"


def uses_loss_scaler(trainer: Trainer) -> bool:
    """Whether the loss is scaled, as float16 needs, and its gradient scaled back after the whole step."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _finite_gradient(trainer: Trainer, optimizer: Optimizer) -> list[Tensor]:
    """Whether the gradient is finite, as a list of one []; empty without gradients or with a loss scaler."""
    # Not the parameters of the model, as to walk through all its layers takes longer than the rest of the check.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients or uses_loss_scaler(trainer):
        return []
    # A sum is finite only if all its terms are, and takes a CPU a quarter of the norm's time, but can overflow.
    if all(reads_freely(gradient.device) and math.isfinite(gradient.sum()) for gradient in gradients):
        return [torch.tensor(True)]
    return [torch.nn.utils.get_total_norm(gradients, math.inf).isfinite()]  # another norm could overflow too


def _beginning(pl_module: LightningModule, batch: Episode | None) -> str:
    """Where in the tasks' adaptation numbers stop being finite, as the end of a sentence; empty if nowhere."""
    if not (isinstance(pl_module, FewShotAlgorithm) and isinstance(batch, Episode) and takes_steps(pl_module)):
        return ""
    outputs = adaptation_outputs(pl_module, batch)  # [T, S+1, N*Q, N]
    broken = (~outputs.isfinite()).transpose(0, 1).flatten(1).any(1).nonzero().flatten().tolist()
    if not broken:
        return ""
    return f", from inner step {broken[0]} on" if broken[0] else ", before the first inner step"


def _cures(pl_module: LightningModule) -> str:
    """What to change, naming flags that the algorithm has."""
    rates = [f"--model.{name}" for name in ("inner_lr", "learning_rate") if name in pl_module.hparams]
    lower = f"lower {' or '.join(rates)}, " if rates else ""
    return f"{lower}clip the gradient by --trainer.gradient_clip_val 10"
