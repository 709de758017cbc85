"""The arithmetic and the report of the throughput comparison; its timings are for people to run."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from episodes import random_episode
from peers_side import comparisons_of_peer
from PIL import Image

from throughput.__main__ import main
from throughput.apart import compared_apart, with_peer
from throughput.learn2learn_way import _halves, anil_step, batches_of, maml_network, maml_step, meta_sgd_step
from throughput.memory import memory_of_steps
from throughput.our_way import bare_step, episodes, maml
from throughput.process_per_core import process_per_core_rate
from throughput.report import circumstances, write
from throughput.sections import work_of
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import Comparison, compared, rate

REPOSITORY = Path(__file__).parents[1]


def test_both_sides_take_turns_and_the_medians_of_what_counts_are_told():
    turns = []

    def side(name, rates):
        given = iter(rates)
        return lambda: turns.append(name) or next(given)

    found = compared("work", "tasks/s", side("ours", [1, 20, 40, 30]), side("peer", [1, 10, 10, 20]), repeats=3)
    assert turns == ["ours", "peer"] * 4
    assert found == Comparison("work", "tasks/s", ours=30, peer=10, ratio=2.0, spread=(1.5, 4.0), repeats=3)


def test_the_peer_has_a_process_of_its_own(tmp_path):
    setting = Setting(torch.device("cpu"), tmp_path, tmp_path, repeats=3, quick=True)
    with with_peer(setting, comparisons_of_peer) as ours:
        work = compared_apart(ours, "work", "tasks/s", lambda: 10.0, lambda: 0.0)
        more = compared_apart(ours, "more work", "tasks/s", lambda: 10.0, lambda: 0.0)
    process, number = divmod(work.peer, 1000)
    assert process != os.getpid() and number == 3  # after a warm-up, the median of the second to the fourth
    assert more == Comparison("more work", "tasks/s", ours=10, peer=5, ratio=2.0, spread=(2.0, 2.0), repeats=3)


def test_a_rate_is_work_over_seconds(monkeypatch):
    clock = iter([5.0, 7.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert rate(lambda: None, 10, torch.device("cpu")) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a peak from some time on")
def test_memory_is_the_steps_and_not_the_set_ups(tmp_path):
    def side(setting, num_steps, again):
        assert len(b"1" * 300 * 2**20) > 0
        return lambda: b"1" * 100 * 2**20

    setting = Setting(torch.device("cpu"), tmp_path, tmp_path, repeats=1, quick=True)
    assert memory_of_steps(setting, side, 1, False) == pytest.approx(100, abs=5)


def test_the_report_holds_every_comparison(tmp_path):
    found = [
        Comparison(name, "tasks/s", 30, 10, ratio, (0.5, 4.0), 5) for name, ratio in (("fast", 3.0), ("slow", 0.7))
    ]
    about = circumstances(torch.device("cpu"))
    assert about["threads"] == torch.get_num_threads() and about["torch"] == torch.__version__
    write(tmp_path / "out", found, about)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["name"], row["ratio"], row["spread"]) for row in rows] == [
        ("fast", 3.0, [0.5, 4.0]),
        ("slow", 0.7, [0.5, 4.0]),
    ]
    assert {"name", "ours", "peer", "unit", "ratio", "spread"} <= rows[0].keys()
    table = (tmp_path / "out" / "results.md").read_text()
    assert "| fast | 30 | 10 | tasks/s | 3.00 | 0.50 to 4.00 |" in table
    with Image.open(tmp_path / "out" / "results.png") as picture:
        assert picture.width > 500
    assert json.loads((tmp_path / "out" / "circumstances.json").read_text()) == about


def test_of_a_gpu_is_told_whether_its_convolutions_round(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    about = circumstances(torch.device("cuda"))
    assert about["device"] == "NVIDIA H200"
    assert about["TF32 in convolutions"] == torch.backends.cudnn.allow_tf32


def test_their_tasks_are_split_as_ours():
    labels = torch.tensor([2, 0, 1, 0, 2, 1, 1, 0, 2])
    (support, support_y), (query, query_y) = _halves(torch.arange(9), labels, Task("Omniglot", 3, 1, 2))
    assert support.tolist() == [1, 2, 0] and support_y.tolist() == [0, 1, 2]
    assert query.tolist() == [3, 7, 5, 6, 4, 8] and query_y.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("flags", "exit_code", "told"),
    [
        (["--help"], 0, "data_path"),
        (["--sections", "nothing"], 2, "data_path"),
        (["--sections", "data_path", "--only", "nothing"], 2, "Data path, Omniglot 5-way"),
    ],
)
def test_the_command_tells_its_flags_and_its_work(flags, exit_code, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["throughput", *flags])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == exit_code
    assert told in "".join(capsys.readouterr())


def test_the_command_is_the_packages_own():
    command = [sys.executable, "-m", "throughput", "--sections", "data_path", "--only", "nothing"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert "Data path, Omniglot 5-way" in run.stderr


def test_only_what_is_asked_for_is_worked_on(tmp_path):
    setting = Setting(
        torch.device("cpu"), tmp_path, tmp_path, repeats=1, quick=False, only=("Omniglot", "second order")
    )
    assert [work.name for work in work_of(["maml", "scaling"], setting)] == [
        f"MAML, Omniglot 5-way {shots}-shot 15-query, {steps} inner steps, second order"
        for steps in (1, 5)
        for shots in (1, 5)
    ]


@pytest.mark.parametrize(("quick", "shots"), [(False, (1, 5)), (True, (1,))])
def test_a_quick_run_leaves_out_the_variants_long_steps(quick, shots, tmp_path):
    setting = Setting(torch.device("cpu"), tmp_path, tmp_path, repeats=1, quick=quick)
    assert [work.name for work in work_of(["variants"], setting)] == [
        f"{variant}, CIFARFS 5-way {num_shots}-shot 15-query, {steps} inner steps, second order"
        for num_shots in shots
        for variant, steps in (("ANIL", 5), ("MetaSGD", 1))
    ]


def test_processes_that_fail_say_why(tmp_path):
    setting = Setting(torch.device("cpu"), tmp_path, tmp_path, repeats=1, quick=True)
    with pytest.raises(RuntimeError, match="InputError"):
        process_per_core_rate(setting, Task("CIFARFS", 2, 1, 1), Adaptation(1, True), tasks_per_step=2, num_steps=1)


@pytest.mark.xdist_group("throughput")  # images are packed once
def test_a_process_for_each_thread_trains(shared_data, packed):
    setting = Setting(torch.device("cpu"), shared_data, packed, repeats=1, quick=True)
    task = Task("CIFARFS", 2, 1, 1)
    assert process_per_core_rate(setting, task, Adaptation(1, True), tasks_per_step=2, num_steps=1) > 0


@pytest.mark.parametrize(
    ("benchmark", "their_step"),
    [("Omniglot", maml_step), ("CIFARFS", maml_step), ("CIFARFS", anil_step), ("CIFARFS", meta_sgd_step)],
)
def test_their_steps_train_all_layers(benchmark, their_step):
    task = Task(benchmark, 2, 1, 1)
    network = maml_network(task)
    before = copy.deepcopy(network)
    step = their_step(network, Adaptation(1, first_order=False), task, torch.device("cpu"))
    step(batches_of(random_episode(num_ways=2, num_shots=1, num_queries=1, image_shape=task.image_shape)))
    weights = [pair for pair in zip(before.parameters(), network.parameters(), strict=True) if pair[0].ndim > 1]
    assert len(weights) == 5 and not any(torch.equal(*pair) for pair in weights)


@pytest.mark.xdist_group("throughput")
def test_a_bare_step_trains_on_what_the_data_module_gives(shared_data, packed):
    setting = Setting(torch.device("cpu"), shared_data, packed, repeats=1, quick=True)
    task = Task("CIFARFS", 2, 1, 1)
    episode = next(episodes(setting.data(task, tasks_per_batch=2), setting.device))
    assert episode.query_x.shape == (2, 2, 3, 32, 32)  # [T, N*Q, C, H, W]
    model = maml(task, Adaptation(1, first_order=True))
    before = [parameter.clone() for parameter in model.parameters()]
    bare_step(model)(episode)
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
