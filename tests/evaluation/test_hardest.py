"""The hardest classes of every kind of task, against a count that finds the class of each query by its pixels."""

from collections import Counter

import numpy as np
import pytest
import torch
from quiet_trainer import on_device
from random_images import give_random_images, write_image_folder
from torch.nn.utils.rnn import pad_sequence

from fewshot_pl.benchmarks import CIFARFS, MultiSource, Omniglot
from fewshot_pl.evaluation.hardest import hardest_classes
from fewshot_pl.evaluation.outcome import Outcome
from fewshot_pl.metrics import EpisodeRecords

VARIABLE = {"sampling": "variable", "min_ways": 2, "max_ways": 4, "max_queries": 3}


@pytest.fixture
def made(tmp_path, monkeypatch):
    def made(kind, **settings):
        give_random_images(monkeypatch, num_classes=5, num_images=8)
        write_image_folder(tmp_path / "own", num_classes=6, num_images=7, size=32)
        if kind is MultiSource:
            own = {"root": str(tmp_path / "own"), "image_size": 32}
            more = VARIABLE if settings.get("sampling") == "variable" else {}
            settings["sources"] = [{"CIFARFS": more}, {"ImageFolder": own | more}]
        sizes = {"num_ways": 3, "num_shots": 2, "num_queries": 2, "num_test_episodes": 17}
        data = kind(cache_dir=str(tmp_path / "cache"), **sizes | settings)
        data.prepare_data()
        data.setup("test")
        return data

    return made


def classes_by_pixels(data):
    """The class name of every test image by its bytes, turned images included where turns are classes."""
    owners = {}
    for source in getattr(data, "sources", [data]):
        for number, name in enumerate(source.class_names("test")):
            own, turns = divmod(number, source.num_rotations("test"))
            shown = f"{name} ({type(source).__name__})" if source is not data else name
            for image in np.rot90(source.stores["test"].class_images(own), turns, axes=(2, 3)):
                owners[image.tobytes()] = shown
    return owners


def queries_as_stored(data, number):
    """The queries of a test episode as bytes, with their source's normalisation undone."""
    query_x = data.fixed_episodes("test", number).query_x[0]
    for source in getattr(data, "sources", [data]):
        mean, std = (torch.tensor(values)[:, None, None] for values in (source.mean, source.std))
        pixels = 255 * (query_x * std + mean)
        if torch.allclose(pixels, pixels.round(), atol=0.01):
            return [image.tobytes() for image in pixels.round().to(torch.uint8).numpy()]
    raise AssertionError("pixels of no source")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Omniglot, {}),
        (CIFARFS, VARIABLE),
        (Omniglot, VARIABLE),
        (MultiSource, {}),
        (MultiSource, {"sampling": "variable"}),
    ],
    ids=["turned", "variable", "turned and variable", "sources", "sources and variable"],
)
def test_counts_are_those_of_the_classes_that_the_images_show(made, kind, settings):
    data, random = made(kind, **settings), np.random.default_rng(0)
    owners, right, asked, rows = classes_by_pixels(data), Counter(), Counter(), []
    for number in range(17):
        queries = queries_as_stored(data, number)
        rows.append(torch.from_numpy(random.integers(0, 2, len(queries)).astype(np.float32)))
        for query, is_right in zip(queries, rows[-1].tolist(), strict=True):
            right[owners[query]] += int(is_right)
            asked[owners[query]] += 1
    on_device(data, 0, of=2)
    seen = data.seen_order("test")  # by two devices, concatenated
    correct = pad_sequence([rows[number] for number in seen], True, torch.nan)
    records = EpisodeRecords(torch.zeros(17), correct, correct).reordered(torch.tensor(seen).argsort())
    found = hardest_classes(Outcome("", {"split": "test"}, data, records), num_classes=100)
    assert {one.name: (one.num_right, one.num_queries) for one in found} == {
        name: (right[name], count) for name, count in asked.items()
    }
    assert len(found) > 4 and [one.accuracy for one in found] == sorted(one.accuracy for one in found)
    side = data.image_shape[-1]
    assert all(one.images.shape == (side + 2, 5 * (side + 2), 3) for one in found)
