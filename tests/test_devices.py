"""Two processes on the CPU do what one does: the same figures, and the same step from the union of their tasks."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/<split>/<class>/*.png, and a place for runs."""
    root = tmp_path_factory.mktemp("devices")
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(4):
            target = root / "images" / split / f"{split}{number}"
            target.mkdir(parents=True)
            for index in range(3):
                Image.fromarray(random.integers(0, 255, (16, 16), np.uint8)).save(target / f"{index}.png")
    return root


def process(*words: str) -> subprocess.Popen[str]:
    """A Python process of its own, as Lightning starts one for each device from it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(*processes: subprocess.Popen[str]) -> None:
    try:
        for one in processes:
            told = one.communicate(timeout=300)[1]
            assert one.returncode == 0, told
    finally:
        for one in processes:
            one.kill()


def command(script: str, *flags: str) -> None:
    wait_for(process(script, *flags))


def two_machines(script: str, *flags: str) -> None:
    """Run a command under torchrun on two machines with a device each, both of which are this one."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = ["--master-addr", "localhost", "--master-port", str(free.getsockname()[1])]
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *address]
    wait_for(*(process(*launcher, "--node-rank", rank, script, *flags) for rank in "01"))


def trained(
    folder: Path,
    algorithm: str,
    devices: int,
    tasks_per_batch: int,
    run_command: Callable[..., None] = command,
    **more: object,
) -> dict[str, Any]:
    """The checkpoint after two steps of plain SGD; group norm, as batch statistics would be those of a device."""
    runs = folder / f"{run_command.__name__}{devices}"
    values = {
        "model": algorithm,
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
        "model.norm": "group",
        "optimizer": "SGD",
        "optimizer.lr": 0.1,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.devices": devices,
        "trainer.logger": True,
        "runs": runs,
        **more,
    }
    run_command("train.py", *[word for name, value in values.items() for word in (f"--{name}", str(value))])
    (run,) = (runs / "ImageFolder" / algorithm).iterdir()  # one folder, whatever the number of processes
    assert json.loads((run / "results.json").read_text())["num_episodes"] == 21
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint | {"path": run / "checkpoints" / "last.ckpt"}


def pictures(run: Path, tag: str) -> list[bytes]:
    """The PNG files of a tag in the event files of a run."""
    found = []
    for file in sorted(run.glob("events.*")):
        events = EventAccumulator(str(file)).Reload()
        found += [event.encoded_image_string for event in events.Images(tag)] if tag in events.Tags()["images"] else []
    assert len(found) == 1
    return found


def test_two_processes_take_the_step_and_give_the_figures_of_one(folder: Path) -> None:
    one, two = (trained(folder, "ProtoNet", *size, pictures="all") for size in ((1, 4), (2, 2)))
    machines = trained(folder, "ProtoNet", 1, 2, two_machines, **{"trainer.num_nodes": 2, "pictures": "all"})
    for other in (two, machines):
        assert one["global_step"] == other["global_step"] == 2
        for name, value in one["state_dict"].items():
            torch.testing.assert_close(other["state_dict"][name], value, rtol=1e-4, atol=1e-6)

    for tag in ("val/confusion", "val/episode"):  # of all processes; and written by one
        assert pictures(one["path"].parents[1], tag) == pictures(two["path"].parents[1], tag), tag

    results, classes = {}, {}
    for devices in (1, 2):
        output, report = folder / f"result{devices}.json", folder / f"report{devices}"
        flags = ["--trainer.devices", str(devices), "--trainer.accelerator", "cpu", "--output", str(output)]
        command("evaluate.py", "--ckpt_path", str(one["path"]), *flags, "--report", str(report))
        results[devices] = json.loads(output.read_text())
        page = (report / "report.html").read_text("utf-8")
        classes[devices] = re.findall(r'<td class="name">(.*?)</td>.*?<td>(\d+ of \d+)</td>', page)
    for figure in ("accuracy", "ci95", "num_episodes"):
        assert results[1][figure] == results[2][figure], figure
    # Right answers are counted by class only where each episode has its place in the list.
    assert len(classes[1]) == 4 and classes[1] == classes[2]


def test_two_processes_share_reptiles_inner_adam(folder: Path) -> None:
    steps = {"model.num_inner_steps": 3, "model.num_inner_steps_test": 2, "model.inner_batch_size": 4}
    one, two = (trained(folder, "Reptile", *size, **steps) for size in ((1, 4), (2, 2)))
    assert one["state_dict"]["inner_num_steps"] == two["state_dict"]["inner_num_steps"] == 6
    second_moments = one["state_dict"]["inner_second_moment"], two["state_dict"]["inner_second_moment"]
    torch.testing.assert_close(*second_moments, rtol=1e-4, atol=1e-6)
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-4, atol=1e-5)
