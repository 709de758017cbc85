"""Fixtures for all tests."""

import os

# Networks of tests are so small that threads only wait for each other, and where a test asks for two, they would wait
# by spinning on the cores that other tests need. Must come before torch is imported. Whatever the user has set: forked
# processes have one thread, and are compared to the last digit.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

from pathlib import Path

import pytest
import torch
from own_images import ALGORITHMS
from quiet_trainer import one_step_checkpoint
from random_images import give_random_images

from fewshot_pl import algorithms, benchmarks


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}")
    return folder


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The folder in which all tests of a file find images once they are packed."""
    return tmp_path_factory.mktemp("packed")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A function that writes the checkpoint of an algorithm after a training step on a benchmark."""

    def written(algorithm="ProtoNet", data="CIFARFS", **settings):
        with monkeypatch.context() as patched:
            give_random_images(patched)
            sizes = {"num_ways": 3, "num_shots": 2, "num_queries": 2}
            module = getattr(benchmarks, data)(**sizes, cache_dir=str(tmp_path / "cache"))
            torch.manual_seed(0)
            model = getattr(algorithms, algorithm)(
                image_shape=module.image_shape, **{**ALGORITHMS[algorithm], **settings}
            )
            one_step_checkpoint(model, module, path := tmp_path / f"{algorithm}-{data}.ckpt")
        return path

    return written


@pytest.fixture
def two_threads():
    """Give torch two threads during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
