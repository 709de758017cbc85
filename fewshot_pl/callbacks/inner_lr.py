"""InnerLearningRates: the step sizes that an algorithm learns, as histograms and means in TensorBoard."""

from pytorch_lightning import LightningModule, Trainer

from fewshot_pl.callbacks.observer import Observer, writers

HISTOGRAMS, MEANS = "inner_lr", "inner_lr_mean"  # the groups of their tags


class InnerLearningRates(Observer):
    """Writes ``learned_step_sizes`` to TensorBoard at each validation: a histogram for each layer, and its mean.

    They go under ``inner_lr/<name>`` and ``inner_lr_mean/<name>``; algorithms that learn none have neither.

    Args:
        every_n_epochs: epochs from one look to the next.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.is_due(trainer):
            return
        learned = getattr(pl_module, "learned_step_sizes", {})
        for writer in writers(trainer):
            for name, sizes in learned.items():
                finite = sizes[sizes.isfinite()].float().cpu()  # a diverged training has no histogram
                if finite.numel():
                    writer.add_histogram(f"{HISTOGRAMS}/{name}", finite, trainer.global_step)
                    writer.add_scalar(f"{MEANS}/{name}", finite.mean(), trainer.global_step)
