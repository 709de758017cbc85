"""Training and evaluation as train.py does them, and the bare loops inside them."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from fewshot_pl.algorithms import MAML, FewShotAlgorithm, ProtoNet, Reptile
from fewshot_pl.callbacks import EpisodeRate, FiniteLoss
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.episode import Episode
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import synchronise

Precision = Literal["32-true", "bf16-mixed"]
Build = Callable[[], FewShotAlgorithm]  # makes an untrained model


def maml(task: Task, adaptation: Adaptation, algorithm: type[MAML] = MAML, **settings: Any) -> MAML:
    """Our MAML, or a subclass, with the network and inner loss of ``learn2learn_way.maml_network``'s training."""
    return algorithm(
        num_ways=task.num_ways,
        image_shape=task.image_shape,
        backbone=conv4(task),
        inner_lr=adaptation.inner_lr,
        inner_loss_reduction="mean",
        num_inner_steps=adaptation.num_steps,
        first_order=adaptation.first_order,
        **settings,
    )


def protonet(task: Task) -> ProtoNet:
    """Our ProtoNet with the pooled Conv4-64 on every benchmark."""
    return ProtoNet(image_shape=task.image_shape, backbone="conv4")


def reptile(task: Task, **settings: Any) -> Reptile:
    """Our Reptile with its default settings and the networks of its paper."""
    backbone = "conv4-strided-flat" if task.benchmark == "Omniglot" else "conv4-32"
    return Reptile(num_ways=task.num_ways, image_shape=task.image_shape, backbone=backbone, **settings)


def conv4(task: Task) -> str:
    """The Conv4-64 of the MAML papers for a benchmark."""
    return "conv4-strided" if task.benchmark == "Omniglot" else "conv4"


def trained_rate(
    model: FewShotAlgorithm,
    data: ImageDataModule,
    num_steps: int,
    setting: Setting,
    devices: int = 1,
    precision: Precision = "32-true",
) -> float:
    """Training tasks per second under Lightning's Trainer, from the second step on, with logging to TensorBoard.

    The callbacks are those of ``train.py`` that do something at every step.
    """
    watch = _Watch(setting.device)
    trainer = Trainer(
        accelerator=setting.accelerator,
        devices=devices,
        precision=precision,
        max_steps=num_steps + 1,
        limit_val_batches=0,
        logger=TensorBoardLogger(setting.work / "logs", name="", version="throughput"),
        callbacks=[EpisodeRate(), FiniteLoss(), watch],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    return num_steps * data.tasks_per_batch * devices / watch.seconds


def bare_step(model: FewShotAlgorithm) -> Callable[[Episode], None]:
    """The optimisation step on an Episode, without the Trainer."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def step(episode: Episode) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(model.training_losses(episode)["loss"])
        if isinstance(model, Reptile):
            model.update_inner_state()
        optimizer.step()

    return step


def episodes(data: ImageDataModule, device: torch.device) -> Iterator[Episode]:
    """Training episodes on the device, without end."""
    loader = data.train_dataloader()
    while True:
        for batch in loader:
            yield data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)


class _Watch(Callback):
    """Measures the seconds from the end of the first training step to the end of the last."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = 0.0
        self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 1:
            synchronise(self._device)
            self._started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        synchronise(self._device)
        self.seconds = time.perf_counter() - self._started
