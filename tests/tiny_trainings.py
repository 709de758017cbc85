"""One-second trainings that are stopped and resumed (``pythonpath`` makes this importable)."""

import os
import time

import torch
from own_images import ALGORITHMS
from pytorch_lightning import Callback
from quiet_trainer import quiet_trainer

from fewshot_pl import algorithms
from fewshot_pl.benchmarks import ImageFolder
from fewshot_pl.checkpoints import amend_checkpoint
from fewshot_pl.resuming import BestCheckpoint, LastCheckpoint, StopOnSignal, WholeCheckpoints

_SMALL = {"Reptile": {"num_inner_steps": 2, "num_inner_steps_test": 2}, "PLATIPUS": {"num_samples": 1}}
_SIZE = {"num_ways": 2, "num_shots": 1, "num_queries": 1, "batches_per_epoch": 4, "num_val_episodes": 3}


def trained(images, folder, algorithm="ProtoNet", resume_from=None, callbacks=(), data=(), model=(), best=(), **flags):
    """The Trainer and the model after training on 16 x 16 augmented images, with ``last.ckpt`` in a folder."""
    benchmark = ImageFolder(
        **{"root": str(images), "cache_dir": str(images / "cache"), "image_size": 16, "channels": 1},
        **{**_SIZE, **dict(data)},
    )
    torch.manual_seed(0)
    arguments = {**ALGORITHMS[algorithm], **_SMALL.get(algorithm, {}), **dict(model)}
    if "num_ways" in arguments:
        arguments["num_ways"] = 2
    learner = getattr(algorithms, algorithm)(image_shape=benchmark.image_shape, **arguments)
    chosen = {"monitor": "val/accuracy", "filename": "best", "enable_version_counter": False}
    best = BestCheckpoint(**{**chosen, **dict(best)})
    last = LastCheckpoint()
    defaults = {"max_epochs": 2, "default_root_dir": folder, "enable_checkpointing": True}
    written = {"plugins": [WholeCheckpoints()], **defaults, **flags}
    trainer = quiet_trainer(*callbacks, best, last, StopOnSignal(last), **written)
    torch.manual_seed(0)
    trainer.fit(learner, datamodule=benchmark, ckpt_path=resume_from)
    return trainer, learner


def last_checkpoint(folder):
    return folder / "checkpoints" / "last.ckpt"


def state(folder):
    """The state of training: weights, optimiser, schedules and figures in ``last.ckpt``."""
    checkpoint = torch.load(last_checkpoint(folder), weights_only=True)
    kept = "state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch", "training_seed"
    loops = {name: value for name, value in checkpoint["loops"]["fit_loop"].items() if "val_loop" not in name}
    validated = {name: value for name, value in checkpoint["callback_metrics"].items() if name.startswith("val/")}
    best = next(value for key, value in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    return {**{name: checkpoint[name] for name in kept}, **loops, **validated, "best": best["best_model_score"]}


def give_a_perfect_score(last):
    """Change a ``last.ckpt`` so that no validation can be better than that of the ``best.ckpt`` beside it."""
    states, score = torch.load(last, weights_only=True)["callbacks"], torch.tensor(1.0)
    key = next(key for key in states if key.startswith("ModelCheckpoint"))
    best = str(last.with_name("best.ckpt"))
    states[key] |= {"best_model_score": score, "kth_value": score}
    states[key] |= {"best_k_models": {best: score}, "kth_best_model_path": best}
    amend_checkpoint(last, {"callbacks": states})


def assert_same(one, other, name=""):
    """Assert that two nested values are equal, bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_same(one[key], other[key], f"{name}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), name
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{name}/{place}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, (name, one, other)


def told(number):
    """A function that sends a signal to this process, and waits until it has arrived."""

    def send():
        os.kill(os.getpid(), number)
        time.sleep(0.05)

    return send


class At(Callback):
    """Calls ``action`` once, in a hook, when ``num_batches`` batches have begun over all epochs."""

    def __init__(self, hook, num_batches, action):
        self._num_batches, self._action = num_batches, action
        setattr(self, hook, self._act)

    def _act(self, trainer, *_):
        begun = trainer.fit_loop.total_batch_idx + 1
        if not trainer.sanity_checking and begun == self._num_batches and self._action:
            action, self._action = self._action, None
            action()
