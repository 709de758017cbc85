"""Runs that start at once on one data folder, that are killed, or that may not write, in real processes."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import json
import multiprocessing
import os
import signal
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.one_process import one_process
from fewshot_pl.errors import InputError

FORK = multiprocessing.get_context("fork")  # a child has imported everything


class Slow(ImageDataModule):
    """A benchmark that is slow to read, and logs which splits it has read."""

    image_shape = (1, 4, 4)

    def __init__(self, *, log, seconds=0.0, **kwargs):
        super().__init__(num_queries=2, num_ways=2, **kwargs)
        self.log, self.seconds = Path(log), seconds

    def class_images(self, split):
        random = np.random.default_rng(len(split))
        for name in "abc":
            time.sleep(self.seconds)
            yield name, random.integers(0, 256, (5, *self.image_shape), dtype=np.uint8)
        with self.log.open("a") as log:
            log.write(f"{split}\n")

    def source_fingerprint(self):
        return {"benchmark": "slow"}


def prepared(folder, **arguments):
    """The images of the training split, after a run has prepared its data in ``folder``."""
    data = Slow(log=folder / "log", cache_dir=str(folder / "cache"), **arguments)
    data.prepare_data()
    return np.array(data._stored("train").images)


def in_children(function, *arguments, count=1):
    """What a function returns in each of ``count`` processes at once."""
    with ProcessPoolExecutor(count, mp_context=FORK) as pool:
        return [future.result(timeout=60) for future in [pool.submit(function, *arguments) for _ in range(count)]]


def read_only(folder, function, *arguments):
    """What a function returns where a folder cannot be written to; root can write everywhere, so not as root."""
    places = [folder, *folder.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        return in_children(_unprivileged, function, *arguments)[0]
    finally:
        for place in places:
            place.chmod(0o755)


def _unprivileged(function, *arguments):
    if os.geteuid() == 0:
        os.setuid(65534)
    return function(*arguments)


@pytest.fixture
def folder():
    """A folder that every user can reach; those above pytest's own are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def prepared_slowly(folder):
    return prepared(folder, seconds=0.05)


def test_two_runs_at_once_read_the_images_once(folder):
    first, second = in_children(prepared_slowly, folder, count=2)
    np.testing.assert_array_equal(first, second)
    assert (folder / "log").read_text().split() == ["train", "val", "test"]


def hold(path, ready):
    with one_process(path):
        path.with_name("train.abc.part").mkdir()
        ready.set()
        time.sleep(60)


def test_a_killed_run_keeps_nobody_waiting_and_what_it_left_is_removed(folder):
    place = folder / "cache" / Slow(log="")._cache_name / "train"
    ready = FORK.Event()
    killed = FORK.Process(target=hold, args=(place, ready))
    killed.start()
    assert ready.wait(30)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert len(prepared(folder)) == 15
    assert list(place.parent.glob("*.part")) == []


def test_a_cache_is_read_where_nothing_can_be_written(folder):
    images = prepared(folder)
    np.testing.assert_array_equal(read_only(folder, prepared, folder), images)
    assert len((folder / "log").read_text().split()) == 3


def test_a_cache_that_cannot_be_written_is_said_with_the_cure(folder):
    with pytest.raises(
        InputError, match=r"cannot write .*train \(Permission denied\).*--data.cache_dir another folder"
    ):
        read_only(folder, prepared, folder)


@pytest.mark.parametrize("change", [{"format": 0}, {"format": 2}, {"format": None}])
def test_a_cache_of_another_version_is_packed_anew(folder, change):
    images = prepared(folder)
    (index,) = folder.glob("cache/*/train/index.json")
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    np.testing.assert_array_equal(prepared(folder), images)
    assert (folder / "log").read_text().split() == ["train", "val", "test", "train"]
    assert json.loads(index.read_text())["format"] == 1
