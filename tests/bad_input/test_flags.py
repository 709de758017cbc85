"""Flags and configuration files that train.py and evaluate.py refuse."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from bad_rows import Bad

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def config(content: str | bytes) -> Callable[[], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda: Path("bad.yaml").write_bytes(data)


# Ten levels, each nine times the previous one.
MULTIPLIED = "".join(f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in pairwise("abcdefghijk"))
MULTIPLIED = f"a: &a [1]\n{MULTIPLIED}"
FROM_FILE = "train --config bad.yaml"
TWO = "--trainer.accelerator cpu --trainer.devices 2"
FLAGS = {
    "a word that belongs nowhere": Bad("train nonsense", "nonsense"),
    "a flag without its value": Bad("train --runs", "--runs"),
    "an unknown flag": Bad("train --model.learning_rat 1", "did you mean --model.learning_rate?"),
    "an unknown flag of Lightning's": Bad("train --trainer.max_epoch 3", "did you mean --trainer.max_epochs?"),
    "a flag of another class": Bad("train --model.inner_lr 1", "belongs to ANIL, BOIL, MAML, PLATIPUS"),
    "an unknown class": Bad("train --model ProtoNets", "did you mean ProtoNet?"),
    "an unknown benchmark": Bad("train --data Omniglott", "did you mean Omniglot?"),
    "an abstract class": Bad("train --model FewShotAlgorithm", "--model cannot be FewShotAlgorithm"),
    "a class that is no algorithm": Bad("train --model os.PathLike", "--model cannot be os.PathLike"),
    "a function for a class": Bad("train --data.class_path os.system", "--data"),
    "a word for a number": Bad("train --data.num_shots two", "takes a whole number, not two"),
    "a fraction of a shot": Bad("train --data.num_shots 1.5", "takes a whole number, not 1.5"),
    "no shots": Bad("train --data.num_shots -1", "at least 1"),
    "no queries": Bad("train --data.num_queries 0", "at least 1"),
    "no ways in training": Bad("train --data.train_num_ways 0", "--data.train_num_ways must be at least 2, not 0"),
    "no shots in training": Bad("train --data.train_num_shots 0", "--data.train_num_shots must be at least 1, not 0"),
    "no queries in training": Bad("train --data.train_num_queries 0", "--data.train_num_queries must be at least 1"),
    "one way": Bad("train --data.num_ways 1", "at least 2"),
    "one way of tasks that differ in size": Bad(
        "train --data.sampling variable --data.min_ways 1 --data.max_ways 1",
        "--data.min_ways must be at least 2, not 1",
    ),
    "more ways than classes": Bad("train --data.num_ways 9", "needs at least 9"),
    "more shots than images": Bad("train --data.num_shots 9", "has 2 images and an episode needs 9 shots"),
    "fewer than no workers": Bad("train --data.num_workers -1", "--data.num_workers"),
    "no batches": Bad("train --data.batches_per_epoch 0", "--data.batches_per_epoch must be at least 1"),
    "images of no pixels": Bad("train --data.image_size 0", "too small"),
    "images too small for the network": Bad("train --data.image_size 3", "larger --data.image_size"),
    "two channels": Bad("train --data.channels 2", "--data.channels takes"),
    "no share for any split": Bad("train --data.split_ratio [0,0,0]", "split_ratio must be three shares"),
    "a share that is no number": Bad("train --data.split_ratio [.nan,1,1]", "split_ratio must be three shares"),
    "two shares": Bad("train --data.split_ratio [1,2]", "--data.split_ratio takes"),
    "a share over 1": Bad("train --data.unlabelled_tasks 2", "a share, 0 to 1"),
    "an unknown backbone": Bad("train --model.backbone conv5", "no backbone is called 'conv5'"),
    "an unknown norm": Bad("train --model.norm batch", "--model.norm takes one of"),
    "a negative learning rate": Bad("train --model.learning_rate -1", "--model.learning_rate must be"),
    "nothing added to the variance": Bad(
        "train --model MAML --model.norm_eps 0", "--model.norm_eps must be a number above"
    ),
    "a chunk of no tasks": Bad("train --model.task_chunk -1", "--model.task_chunk must be at least 1"),
    "a negative number of steps to halve after": Bad("train --model.lr_halve_every -1", "must be at least 0, not -1"),
    "no checkpoints": Bad("train --trainer.enable_checkpointing false", "leave out --trainer.enable_checkpointing"),
    "an unmeasured best checkpoint": Bad("train --checkpoint.save_on_exception true", "kept in last.ckpt"),
    "nothing but steps": Bad("train --trainer.barebones true", "leave out --trainer.barebones"),
    "nothing but steps of an evaluation": Bad(
        "evaluate --ckpt_path protonet.ckpt --trainer.barebones true", "Lightning keeps no figure"
    ),
    "an optimiser that takes a step's loss several times": Bad("train --optimizer LBFGS", "pass Adam or another"),
    "an optimiser of sparse gradients": Bad("train --optimizer SparseAdam", "takes sparse gradients alone"),
    "a learning rate of an optimiser that is replaced": Bad(
        "train --optimizer Adam --model.init_args.learning_rate=1", "pass --optimizer.lr"
    ),
    "a schedule of an optimiser that is replaced": Bad(
        "train --model.lr_halve_every 5 --optimizer Adam", "--lr_scheduler for a falling learning rate"
    ),
    "a schedule of no optimiser": Bad(
        "train --lr_scheduler StepLR --lr_scheduler.step_size 1", "such as --optimizer Adam"
    ),
    "weights that are all frozen": Bad(
        "train --trainer.callbacks+=BackboneFinetuning", "all weights of ProtoNet are frozen"
    ),
    "no epoch": Bad("train --trainer.max_epochs 0", "give evaluate.py a checkpoint"),
    "no step": Bad("train --trainer.max_steps 0", "--trainer.max_steps 0 leaves no step of training: leave it out"),
    "no batch of an epoch": Bad("train --trainer.limit_train_batches 0", "--trainer.limit_train_batches 0 leaves no"),
    "an average of weights that no checkpoint holds": Bad(
        "train --trainer.callbacks+=StochasticWeightAveraging --trainer.callbacks.swa_lrs=0.01",
        "pass --trainer.callbacks EMAWeightAveraging or WeightAveraging",
    ),
    "a part of the episodes to overfit": Bad("train --trainer.overfit_batches 1", "--trainer.limit_train_batches"),
    "tasks side by side of another": Bad(
        "train --model.task_parallel side_by_side", "ProtoNet takes no tasks side by side"
    ),
    "tasks side by side one by one": Bad(
        "train --model MAML --model.task_parallel side_by_side --model.norm running", "leave out --model.task_parallel"
    ),
    "weights that are not there": Bad("train --model PLATIPUS --model.init_from no.ckpt", "there is no checkpoint no"),
    "a seed of nobody knows what": Bad("train --seed_everything true", "takes a whole number, not True"),
    "no seed": Bad("train --seed_everything false", "takes a whole number, not False"),
    "a negative seed": Bad("train --seed_everything -1", "-1 is not in bounds"),
    "an unknown device": Bad("train --trainer.accelerator abacus", "abacus"),
    "more devices than there are": Bad("train --trainer.accelerator cuda --trainer.devices 99", "not available"),
    "fewer episodes than devices": Bad(f"train {TWO} --data.num_val_episodes 1", "more --data.num_val_episodes"),
    "no devices": Bad("train --trainer.devices 0", "devices"),
    "too small a part for one of two devices": Bad(
        f"train {TWO} --data.num_val_episodes 72 --trainer.limit_val_batches 0.2",
        "--trainer.limit_val_batches 0.2 leaves nothing of the 4 batches of val that a device has: pass a larger",
    ),
    "too small a part of the test": Bad("train --trainer.limit_test_batches 0.2", "nothing of the 1 batches of test"),
    "spawned processes": Bad(f"train --trainer.strategy ddp_spawn {TWO}", "by spawn, whose results do not come back"),
    "forked processes": Bad(f"train --trainer.strategy ddp_fork {TWO}", "pass --trainer.strategy ddp"),
    "an unknown precision": Bad("train --trainer.precision 12", "--trainer.precision takes"),
    "weights in half precision": Bad(
        "train --model MAML --trainer.precision bf16-true", "pass --trainer.precision bf16-mixed"
    ),
    "negative epochs": Bad("train --trainer.max_epochs -5", "max_epochs"),
    "an unknown picture": Bad("train --pictures confuson", "--pictures takes"),
    "all pictures and one": Bad("train --pictures all episode", "--pictures all takes no other names"),
    "an unknown optimiser": Bad("train --optimizer Adamm", "--optimizer"),
    "a figure of no known direction": Bad("train --checkpoint.monitor val/own", "pass --checkpoint.mode max or"),
    "an unknown direction": Bad("train --checkpoint.mode up", "mode"),
    "a file for the folder of runs": Bad("train --runs protonet.ckpt", "protonet.ckpt"),
    "a name too long for a disk": Bad(f"train --data.root {'x' * 300}", "xxx"),
    "a user that is not there": Bad("train --data.root ~nobody-of-this-name/images", "write the whole path"),
    "a source that is no benchmark": Bad("train --data MultiSource --data.sources [Sofa]", "there is no benchmark"),
    "species that are not there": Bad("train --data Fungi", "Fungi is not in images"),
}
ADAM = "train --optimizer Adam"
STOPPING = "train --trainer.callbacks EarlyStopping"
OF_CLASSES = {
    "a callback without what it needs": Bad(
        STOPPING, "--trainer.callbacks.monitor must be given: see --trainer.callbacks.help EarlyStopping"
    ),
    "a schedule without what it needs": Bad(f"{ADAM} --lr_scheduler StepLR", "--lr_scheduler.step_size must be given"),
    "a schedule of no figure": Bad(f"{ADAM} --lr_scheduler ReduceLROnPlateau", "--lr_scheduler.monitor must be given"),
    "a logger without its folder": Bad(
        "train --trainer.logger TensorBoardLogger", "--trainer.logger.save_dir must be given"
    ),
    "a learning rate that is a word": Bad(f"{ADAM} --optimizer.lr abc", "--optimizer.lr takes a number, not abc"),
    "a patience that is a word": Bad(
        f"{STOPPING} --trainer.callbacks.monitor val/loss --trainer.callbacks.init_args.patience abc",
        "--trainer.callbacks.patience takes a whole number, not abc",
    ),
    "what keeps the best checkpoint, again": Bad(
        "train --trainer.callbacks ModelCheckpoint --trainer.callbacks.monitor val/accuracy "
        "--trainer.callbacks.mode max",
        "already keeps the best checkpoint by val/accuracy: leave out --trainer.callbacks ModelCheckpoint",
    ),
    "a callback twice": Bad(
        f"{STOPPING} --trainer.callbacks.monitor val/loss --trainer.callbacks+=EarlyStopping "
        "--trainer.callbacks.monitor val/loss",
        "--trainer.callbacks has two of EarlyStopping that watch the same: leave one out",
    ),
    "the second of two callbacks": Bad(
        "train --trainer.callbacks LearningRateMonitor --trainer.callbacks+=ModelCheckpoint "
        "--trainer.callbacks.save_top_k abc",
        "--trainer.callbacks.save_top_k takes a whole number, not abc",
    ),
    "a schedule of an unknown direction": Bad(
        f"{ADAM} --lr_scheduler ReduceLROnPlateau --lr_scheduler.monitor val/loss --lr_scheduler.mode foo",
        "--lr_scheduler.mode takes one of 'min', 'max', not foo",
    ),
    "a flag that an algorithm has too": Bad(
        f"{ADAM} --lr_scheduler StepLR --lr_scheduler.step_size 1 --lr_scheduler.gamma x",
        "--lr_scheduler.gamma takes a number, not x",
    ),
    "a class within a class": Bad(
        "train --trainer.strategy DDPStrategy --trainer.strategy.precision_plugin MixedPrecision "
        "--trainer.strategy.precision_plugin.precision 1",
        "--trainer.strategy.precision_plugin.precision takes one of",
    ),
    "a misspelt flag of a callback": Bad(
        f"{STOPPING} --trainer.callbacks.monitr x", "did you mean --trainer.callbacks.monitor?"
    ),
    "a flag of another optimiser": Bad(
        f"{ADAM} --optimizer.momentum 1", "--optimizer.momentum is no flag of Adam: see --optimizer.help Adam"
    ),
    "a flag before its class": Bad(
        "train --lr_scheduler.gamma 1", "--lr_scheduler.gamma is no flag of LRScheduler: see --lr_scheduler.help"
    ),
    "a flag of a class where a short name stands for it": Bad(
        "train --trainer.strategy ddp --trainer.strategy.find_unused_parameters true",
        "--trainer.strategy.find_unused_parameters is for a class, and none that has it is named: name one by",
    ),
    "a flag of a number": Bad(
        "train --trainer.max_epochs.x 1", "no flag --trainer.max_epochs.x: did you mean --trainer.max"
    ),
    "a flag without the class before it": Bad("train --monitor x", "did you mean --checkpoint.monitor?"),
}
CONFIGS = {
    "a missing file": Bad("train --config missing.yaml", "missing.yaml"),
    "a folder": Bad("train --config images", "images"),
    "a binary file": Bad("train --config protonet.ckpt", "protonet.ckpt"),
    "no YAML": Bad(FROM_FILE, "bad.yaml", config("model: [ProtoNet")),
    "a tab": Bad(FROM_FILE, "bad.yaml", config("model:\n\tclass_path: ProtoNet")),
    "a list": Bad(FROM_FILE, "bad.yaml", config("- model\n- data\n")),
    "a text": Bad(FROM_FILE, "bad.yaml", config("ProtoNet")),
    "an unknown key": Bad(FROM_FILE, "there is no flag", config("modle: ProtoNet\n")),
    "a wrong value": Bad(FROM_FILE, "takes a whole number", config("data:\n  num_shots: two\n")),
    "a wrong value of a callback": Bad(
        FROM_FILE,
        "--trainer.callbacks.patience takes a whole number, not abc",
        config("trainer:\n  callbacks:\n  - {class_path: EarlyStopping, init_args: {patience: abc}}\n"),
    ),
    "an unknown key of a section": Bad(
        FROM_FILE, "did you mean --trainer.max_epochs?", config("trainer: {max_epoch: 1}\n")
    ),
    "another encoding": Bad(FROM_FILE, "bad.yaml", config("runs: Läufe\n".encode("utf-16"))),
    "a date that is none": Bad(FROM_FILE, "bad.yaml", config("model: 2001-99-99\n")),
    "a very deep one": Bad(FROM_FILE, "bad.yaml", config("[" * 300)),
    "aliases that multiply": Bad(FROM_FILE, "by aliases without measure", config(MULTIPLIED)),
    "one within itself": Bad(FROM_FILE, "by aliases without measure", config("data: &data\n  root: [*data]\n")),
    "code": Bad(FROM_FILE, "bad.yaml", config("runs: !!python/object/apply:os.mkdir [ran]\n")),
}


@pytest.mark.parametrize("bad", FLAGS.values(), ids=FLAGS)
def test_flags(bad: Bad, check_refused: Any) -> None:
    check_refused(bad)


@pytest.mark.parametrize("bad", OF_CLASSES.values(), ids=OF_CLASSES)
def test_flags_of_classes(bad: Bad, check_refused: Any) -> None:
    check_refused(bad)


@pytest.mark.parametrize("bad", CONFIGS.values(), ids=CONFIGS)
def test_configs(bad: Bad, check_refused: Any) -> None:
    check_refused(bad)
