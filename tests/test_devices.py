"""Several processes do what one does: the steps of all their tasks at once, and the same figures to the last digit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import quiet_trainer as quiet
import torch
from episodes import NUM_WAYS, random_episode
from forks import free_port, in_forks, slurm, torchrun
from own_images import ALGORITHMS
from pytorch_lightning import Callback
from random_images import write_image_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed import is_initialized
from torch.utils.data import DataLoader

from fewshot_pl import algorithms
from fewshot_pl.benchmarks import ImageFolder, Sinusoid
from fewshot_pl.callbacks import FiniteLoss
from fewshot_pl.cli import evaluate, train
from fewshot_pl.data.episode_dataset import FixedEpisodes

pytestmark = [
    pytest.mark.xdist_group("devices"),  # one process has the results of the forks
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded"),
]
REPOSITORY = Path(__file__).parents[1]
FIGURES = {"loss", "accuracy", "ci95", "nll", "ece", "brier"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images/<split>/<class>/*.png, and a place for everything else."""
    root = tmp_path_factory.mktemp("devices")
    write_image_folder(root / "images", num_classes=4, size=16)
    return root


def quiet_trainer(devices, **arguments):
    return quiet.quiet_trainer(devices=devices, use_distributed_sampler=False, **arguments)


def build(algorithm, **settings):
    torch.manual_seed(0)
    return getattr(algorithms, algorithm)(**{**ALGORITHMS[algorithm], "norm": "group", **settings})


class NoneWaits(Callback):
    """Raises if a process waits for the others within a step: on a GPU it would wait for its own work too."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(torch.distributed, "barrier", self._waits)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._patch.undo()

    def _waits(self, *_, **__):
        raise AssertionError("a step waits for the other processes")


# Steps -----------------------------------------------------------------------------------------------

SMALL = {"image_shape": (1, 16, 16), "backbone": "conv4-32"}
MAPS = {"image_shape": (1, 16, 16), "backbone": "conv4-maps"}
STEPS = {
    "ProtoNet": SMALL,
    "ProtoNet-running": {**SMALL, "norm": "running"},
    "ProtoNet-ViT": {"image_shape": (1, 32, 32), "backbone": "timm/test_vit"},
    "MatchingNet": {**SMALL, "full_context": True},
    "RelationNet": MAPS,
    "MAML": {**SMALL, "inner_lr": 0.05, "num_inner_steps": 2},
    "MAML-running": {**SMALL, "inner_lr": 0.05, "first_order": True, "norm": "running"},
    "ANIL": {**SMALL, "inner_lr": 0.05, "num_inner_steps": 2},
    "BOIL": {**SMALL, "inner_lr": 0.05},
    "MetaSGD": {**SMALL, "inner_lr": 0.05},
    "Reptile": {**SMALL, "num_inner_steps": 3},
    "LSTMMetaLearner": {**SMALL, "hidden_size": 4},
    "MetaGAN": {**SMALL, "inner_lr": 0.05},
    "MetaGAN-relation": {**MAPS, "classifier": "relation_net"},
    "MetaGAN-without-a-game": {**SMALL, "real_weight": 0, "fake_weight": 0},
    "PLATIPUS": {**SMALL, "inner_lr": 0.05},
}


def trained_states(folder, devices=1, accumulate=1):
    """Every algorithm after two steps, each on four tasks that processes and accumulated batches share; also saved.

    Within a step no process waits for the others.
    """
    size = 4 // (devices * accumulate)
    states = {}
    for name, settings in STEPS.items():
        model = build(name.split("-")[0], lr_halve_every=1, **settings).double()
        how = {"gradient_clip_val": 0.1, "callbacks": [FiniteLoss(), NoneWaits()]}
        trainer = quiet_trainer(devices, max_steps=2, accumulate_grad_batches=accumulate, **how)
        parts = range(trainer.global_rank * size, 4, devices * size)
        steps = [four_tasks(seed, settings["image_shape"]) for seed in (1, 2)]
        batches = [tasks.tasks(slice(first, first + size)) for tasks in steps for first in parts]
        torch.manual_seed(3)
        trainer.fit(model, DataLoader(batches, batch_size=None))
        assert trainer.global_step == 2
        states[name] = model.state_dict()
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(states, folder / f"states{devices}.pt")
    return states


def four_tasks(seed, image_shape):
    episode = random_episode(num_tasks=4, num_queries=1, image_shape=image_shape, dtype=torch.float64, seed=seed)
    return episode._replace(known_ways=NUM_WAYS)


@pytest.fixture(scope="module")
def states(folder):
    """The algorithms after training in one process, with accumulation, and in two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PL_GLOBAL_SEED", raising=False)  # from an earlier test; Lightning sets it in several processes
        in_forks(2, trained_states, folder, 2)
        two = torch.load(folder / "states2.pt")
        return {"one": trained_states(folder), "accumulated": trained_states(folder, accumulate=2), "two": two}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("way", ["accumulated", "two"])
def test_a_step_is_that_of_one_process_with_all_tasks_at_once(states, name, way):
    """In float64, with Lightning's default strategy; gradients are clipped, and the second step is of half the size."""
    if way == "accumulated" and name.endswith("running"):
        pytest.skip("running statistics count batches, as torch's do")
    torch.testing.assert_close(states[way][name], states["one"][name], rtol=0, atol=1e-10)


def test_steps_are_worth_comparing(states):
    for name, settings in STEPS.items():
        before = build(name.split("-")[0], **settings).double().state_dict()
        moved = [key for key, value in states["one"][name].items() if (value - before[key]).abs().max() > 1e-6]
        assert len(moved) > len(before) / 3, name


def watched(folder):
    """The loss that a learning-rate schedule watches, the process's own loss and the rate after each of six epochs."""
    model = build("ProtoNet", **SMALL)
    found = []

    def watching():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "train/loss"}}

    class Recorder(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            found.append([trainer.callback_metrics["train/loss"].item(), outputs["loss"].item()])

        def on_train_epoch_start(self, trainer, pl_module):
            for before in found[-1:]:
                before.append(trainer.optimizers[0].param_groups[0]["lr"])

    model.configure_optimizers = watching
    trainer = quiet_trainer(2, max_epochs=6, callbacks=[Recorder(), NoneWaits()])
    tasks = four_tasks(trainer.global_rank, SMALL["image_shape"])
    tasks = tasks._replace(support_x=tasks.support_x.float(), query_x=tasks.query_x.float())
    trainer.fit(model, DataLoader([tasks], batch_size=None))
    (folder / f"watched{trainer.global_rank}.json").write_text(json.dumps(found))


def test_what_a_schedule_watches_is_the_mean_over_processes(folder):
    in_forks(2, watched, folder)
    first, second = (json.loads((folder / f"watched{rank}.json").read_text()) for rank in range(2))
    assert len(first) == len(second) == 6
    for (loss, own, *rate), (its_loss, its_own, *its_rate) in zip(first, second, strict=True):
        assert loss == its_loss == pytest.approx((own + its_own) / 2) and own != its_own
        assert rate == its_rate


# Figures ---------------------------------------------------------------------------------------------


def all_figures(folder, devices=1, eval_tasks_per_batch=1, names=tuple(ALGORITHMS)):
    """The figures of all algorithms on seven episodes, of two also in float64; also saved."""
    sizes = {"eval_tasks_per_batch": eval_tasks_per_batch, "num_val_episodes": 5, "num_test_episodes": 7}
    own = {"root": folder / "images", "cache_dir": folder / "cache", "image_size": 16, "channels": 1}
    few = {"num_ways": 3, "num_queries": 2, **sizes}
    found = {}
    for name in names:
        model = build(name, **(MAPS if name == "RelationNet" else SMALL))
        found[name] = figures(model, ImageFolder(**own, **few), devices)
    for norm in ("running", "transductive"):
        found[norm] = figures(build("ProtoNet", **{**SMALL, "norm": norm}), ImageFolder(**own, **few), devices)
    for name in ("MAML", "Reptile"):  # side by side
        model = build(name, **{**SMALL, "norm": "transductive"})
        found[f"{name} transductive"] = figures(model, ImageFolder(**own, **few), devices)
    validating = quiet_trainer(devices)
    found["validated"] = validating.validate(
        build("MAML", **SMALL), datamodule=ImageFolder(**own, **few), verbose=False
    )[0]
    for name in ("ProtoNet", "MAML"):
        found[f"{name} in float64"] = figures_of_doubles(build(name, **SMALL).double(), devices, eval_tasks_per_batch)
    curves = build("MAML", num_ways=1, image_shape=(1, 1, 1), backbone="mlp-40-40", norm="none")
    found["curves"] = figures(curves, Sinusoid(**sizes), devices)
    if int(os.environ.get("RANK", "0")) == 0:
        (folder / f"figures{devices}.json").write_text(json.dumps(found))
    return found


def figures(model, data, devices):
    return quiet_trainer(devices).test(model, datamodule=data, verbose=False)[0]


def figures_of_doubles(model, devices, eval_tasks_per_batch):
    trainer = quiet_trainer(devices)
    episodes = random_episode(num_tasks=7, dtype=torch.float64)
    mine = FixedEpisodes(7, eval_tasks_per_batch, devices, trainer.global_rank)
    batches = [episodes.tasks(slice(first, first + count)) for _, first, count in mine]
    return trainer.test(model, DataLoader(batches, batch_size=None), verbose=False)[0]


def test_figures_are_the_same_to_the_last_digit(folder):
    """On any number of processes and workers, in batches of any size."""
    one = all_figures(folder)
    assert one["MAML"].keys() == {f"test/{figure}" for figure in FIGURES}
    assert one["curves"].keys() == {"test/loss", "test/mse", "test/ci95"}
    losses = {figures["test/loss"] for name, figures in one.items() if name != "validated"}
    assert len(losses) == len(one) - 1
    assert all_figures(folder, eval_tasks_per_batch=7) == one
    for count, eval_tasks_per_batch, names in ((2, 2, tuple(ALGORITHMS)), (4, 3, ("ProtoNet", "Reptile"))):
        in_forks(count, all_figures, folder, count, eval_tasks_per_batch, names)
        found = json.loads((folder / f"figures{count}.json").read_text())
        assert found == {name: one[name] for name in found}, f"{count} processes"


def test_workers_change_no_figure(folder):
    own = {"root": folder / "images", "cache_dir": folder / "cache", "image_size": 16, "channels": 1}
    few = {"num_ways": 3, "num_queries": 2, "num_val_episodes": 5, "num_test_episodes": 7}
    model = build("MAML", **SMALL)
    alone, helped = (
        figures(model, ImageFolder(**own, **few, store="host", num_workers=number), 1) for number in (0, 2)
    )
    assert alone == helped


def test_with_threads_too_batches_change_no_figure():
    """A task alone in its batch has no more threads than others, as sums would then be rounded differently."""
    torch.set_num_threads(2)
    try:
        model = build("ProtoNet", norm="transductive", image_shape=(3, 32, 32))
        tasks = random_episode(num_tasks=5, num_queries=15, image_shape=(3, 32, 32))
        found = [
            quiet_trainer(1).test(
                model, DataLoader([tasks.tasks(part) for part in parts], batch_size=None), verbose=False
            )
            for parts in ([slice(5)], [slice(4), slice(4, 5)], [slice(i, i + 1) for i in range(5)])
        ]
    finally:
        torch.set_num_threads(1)
    assert found[0] == found[1] == found[2]


# Commands --------------------------------------------------------------------------------------------


def flags(folder, runs, devices, num_nodes, tasks_per_batch):
    """Two steps of plain SGD, where rounding is the only difference."""
    values = {
        "data": "ImageFolder",
        "data.root": folder / "images",
        "data.cache_dir": folder / "cache",
        "data.image_size": 16,
        "data.channels": 1,
        "data.augment": "false",
        "data.num_ways": 3,
        "data.num_queries": 2,
        "data.batches_per_epoch": 2,
        "data.tasks_per_batch": tasks_per_batch,
        "data.num_val_episodes": 7,
        "data.num_test_episodes": 21,
        "data.eval_tasks_per_batch": 2,
        "optimizer": "SGD",
        "optimizer.lr": 0.1,
        "pictures": "all",
        "trainer.max_epochs": 1,
        "trainer.enable_progress_bar": "false",
        **devices_of(devices, num_nodes),
        "runs": folder / runs,
    }
    return words(values)


def devices_of(devices, num_nodes):
    return {"trainer.accelerator": "cpu", "trainer.devices": devices, "trainer.num_nodes": num_nodes}


def words(values):
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def train_and_evaluate(folder, name, devices=1, num_nodes=1):
    """Train a run, then evaluate the checkpoint of the run ``alone``, with a result and a report."""
    assert train(flags(folder, name, devices, num_nodes, 4 // (devices * num_nodes))) == 0
    checkpoint = checkpoint_of(folder, "alone")
    output = {"ckpt_path": checkpoint, "output": folder / f"{name}.json", "report": folder / f"{name}-report"}
    assert evaluate(words({**output, **devices_of(devices, num_nodes)})) == 0


def checkpoint_of(folder, runs):
    (run,) = (folder / runs / "ImageFolder" / "ProtoNet").iterdir()  # one folder, whatever the number of processes
    assert json.loads((run / "results.json").read_text())["num_episodes"] == 21
    return run / "checkpoints" / "last.ckpt"


def pictures(run, tag):
    """The PNG files of a tag in the event files of a run."""
    found = []
    for file in sorted(run.glob("events.*")):
        events = EventAccumulator(str(file)).Reload()
        found += [event.encoded_image_string for event in events.Images(tag)] if tag in events.Tags()["images"] else []
    assert len(found) == 1
    return found


@pytest.fixture(scope="module")
def alone(folder):
    """The checkpoint of a run in one process."""
    train_and_evaluate(folder, "alone")
    return checkpoint_of(folder, "alone")


def assert_same_training(checkpoint, alone):
    """Assert that two checkpoints are equal up to float32 rounding, including running statistics."""
    ours, theirs = (torch.load(path, weights_only=True) for path in (checkpoint, alone))
    assert ours["global_step"] == theirs["global_step"] == 2
    torch.testing.assert_close(ours["state_dict"], theirs["state_dict"], rtol=1e-4, atol=1e-5)


PLACES = {
    "two-devices": (2, 1, torchrun),
    "slurm": (1, 2, slurm),
}


@pytest.mark.parametrize("name", PLACES)
def test_commands_leave_what_those_of_one_process_leave(folder, alone, name):
    devices, num_nodes, launcher = PLACES[name]
    in_forks(2, train_and_evaluate, folder, name, devices, num_nodes, launcher=launcher)
    checkpoint = checkpoint_of(folder, name)
    assert_same_training(checkpoint, alone)
    for tag in ("val/confusion", "val/episode"):  # they cover all processes, and one writes them
        assert pictures(checkpoint.parents[1], tag) == pictures(alone.parents[1], tag), tag

    ours, theirs = (json.loads((folder / f"{which}.json").read_text()) for which in (name, "alone"))
    assert {figure: ours[figure] for figure in FIGURES} == {figure: theirs[figure] for figure in FIGURES}
    # Counts of correct answers by class are right only if each episode is in its place in the list.
    ours, theirs = (classes(folder / f"{which}-report" / "report.html") for which in (name, "alone"))
    assert len(ours) == 4 and ours == theirs


def lacking(folder, name):
    met = []
    prepare = ImageFolder.prepare_data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFolder, "prepare_data", lambda data: met.append(is_initialized()) or prepare(data))
        assert train([*flags(folder, name, 2, 1, 1), "--data.num_shots=9"]) == 2
    assert all(met)  # nobody packs, and has others wait, before all have met


def test_processes_that_a_launcher_started_look_for_what_is_lacking_once_they_have_met(folder):
    in_forks(2, lacking, folder, "lacking")
    assert not list((folder / "lacking").rglob("*"))


def classes(report):
    return re.findall(r'<td class="name">(.*?)</td>.*?<td>(\d+ of \d+)</td>', report.read_text("utf-8"))


def process(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_lightning_and_torchrun_start_the_processes_themselves(folder, alone):
    """Lightning starts two devices on one machine, torchrun one on each of two machines, both of which are this one."""
    address = ["--master-addr", "localhost", "--master-port", free_port()]
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *address]
    started = [process("train.py", *flags(folder, "lightning", 2, 1, 2))]
    for rank in "01":
        started.append(process(*launcher, "--node-rank", rank, "train.py", *flags(folder, "torchrun", 1, 2, 2)))
    try:
        for one in started:
            told = one.communicate(timeout=300)[1]
            assert one.returncode == 0, told
            assert "sync_dist" not in told  # figures already cover all devices
            assert "strides" not in told  # the memory layout of gradients is no concern of users
    finally:
        for one in started:
            one.kill()
    for name in ("lightning", "torchrun"):
        assert_same_training(checkpoint_of(folder, name), alone)
