"""The contract of a benchmark: every row of the table passes through every test."""

import importlib
import inspect
import itertools
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from random_images import give_random_images, write_image_folder

from fewshot_pl import benchmarks
from fewshot_pl.benchmarks.published_splits import published_split
from fewshot_pl.data.datamodule import SPLITS, EpisodicDataModule

ROOT = Path(__file__).parents[1]


class Row(NamedTuple):
    source: str  # named in the docstring of the class or of its file
    image_shape: tuple[int, int, int]
    needs_users_files: bool = False
    is_regression: bool = False


ROWS = {
    "CIFARFS": Row("Bertinetto et al. 2019", (3, 32, 32)),
    "CUB": Row("Wah et al. 2011", (3, 84, 84)),
    "DTD": Row("Cimpoi et al. 2014", (3, 84, 84)),
    "FC100": Row("Oreshkin et al. 2018", (3, 32, 32)),
    "FGVCAircraft": Row("Maji et al. 2013", (3, 84, 84)),
    "Fungi": Row("Schroeder and Cui 2018", (3, 84, 84)),
    "Glyphs": Row("fonts", (1, 28, 28)),
    "ImageFolder": Row("Your own images", (3, 84, 84), needs_users_files=True),
    "MiniImageNet": Row("Ravi and Larochelle 2017", (3, 84, 84)),
    "MultiSource": Row("Triantafillou et al. 2020", (1, 28, 28)),
    "Omniglot": Row("Lake, Salakhutdinov, Tenenbaum 2015", (1, 28, 28)),
    "Quickdraw": Row("Ha and Eck 2017", (1, 28, 28)),
    "Sinusoid": Row("Finn et al. 2017", (1, 1, 1), is_regression=True),
    "TieredImageNet": Row("Ren et al. 2018", (3, 84, 84)),
    "VGGFlowers": Row("Nilsback and Zisserman 2008", (3, 84, 84)),
}
# The numbers in the papers, by splits/<name>.json (those of alphabets count alphabets, the others classes).
PUBLISHED = {
    "cifar_fs": {"train": 64, "val": 16, "test": 20},
    "cub": {"train": 100, "val": 50, "test": 50},
    "dtd": {"train": 33, "val": 7, "test": 7},
    "fc100": {"train": 60, "val": 20, "test": 20},
    "fgvc_aircraft": {"train": 70, "val": 15, "test": 15},
    "fungi": {"train": 994, "val": 200, "test": 200},
    "mini_imagenet": {"train": 64, "val": 16, "test": 20},
    "omniglot_vinyals": {"train": 1028, "val": 172, "test": 423},
    "omniglot_alphabets": {"train": 25, "val": 5, "test": 20},
    "quickdraw": {"train": 241, "val": 52, "test": 52},
    "tiered_imagenet": {"train": 351, "val": 97, "test": 160},
    "vgg_flowers": {"train": 71, "val": 15, "test": 16},
}


@pytest.fixture(params=ROWS)
def name(request):
    return request.param


@pytest.fixture
def row(name):
    return ROWS[name]


@pytest.fixture
def benchmark(name):
    return getattr(benchmarks, name)


def test_every_benchmark_has_a_row():
    assert sorted(ROWS) == sorted(benchmarks.__all__)


def test_the_docstring_names_the_source(benchmark, row):
    assert issubclass(benchmark, EpisodicDataModule)
    assert row.source in f"{benchmark.__doc__} {inspect.getmodule(benchmark).__doc__}"


def test_every_argument_has_a_default_and_a_line_in_the_docstring(benchmark):
    benchmark()  # needs no file
    own = [
        name
        for name, argument in inspect.signature(benchmark).parameters.items()
        if argument.kind.name != "VAR_KEYWORD"
    ]
    if "__init__" in vars(benchmark):
        assert [name for name in own if not re.search(rf"^ +{name}: ", benchmark.__doc__, re.MULTILINE)] == []


def test_images_have_a_shape_a_mean_and_a_deviation(benchmark, row):
    data = benchmark()
    assert data.image_shape == row.image_shape
    assert all(type(length) is int for length in data.image_shape)
    assert data.monitor == ("val/mse" if row.is_regression else "val/accuracy")
    if row.is_regression:
        return
    for source in data.sources if isinstance(data, benchmarks.MultiSource) else [data]:
        assert len(source.mean) == len(source.std) == data.image_shape[0]
        assert min(source.std) > 0
        assert {source.num_rotations(split) for split in SPLITS} <= {1, 4}


def test_it_is_in_the_readme(name):
    assert f"`{name}`" in (ROOT / "README.md").read_text("utf-8")


def test_it_has_a_config_unless_it_needs_the_users_files(name, row):
    configs = [yaml.safe_load(path.read_text("utf-8"))["data"] for path in (ROOT / "configs" / "data").glob("*.yaml")]
    assert [config["class_path"] for config in configs].count(name) == (0 if row.needs_users_files else 1)


def test_every_split_gives_episodes_of_its_images(benchmark, row, tmp_path, monkeypatch):
    give_random_images(monkeypatch)
    if row.needs_users_files:
        write_image_folder(tmp_path / "data")
    settings = {"num_shots": 1, "num_queries": 2, "num_val_episodes": 3, "num_test_episodes": 2, "tasks_per_batch": 2}
    if not row.is_regression:
        settings |= {"num_ways": 4, "root": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")}
    data = benchmark(**settings)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    if not row.is_regression:
        check_classes(data)
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for loader, num_tasks in zip(loaders, (2, 3, 2), strict=True):
        episode = data.on_after_batch_transfer(next(iter(loader)), 0)
        num_ways = 1 if row.is_regression else 4
        assert episode.support_x.shape == (num_tasks, num_ways, *row.image_shape)
        assert episode.query_x.shape == (num_tasks, 2 * num_ways, *row.image_shape)
        assert episode.support_x.dtype == torch.float32
        assert episode.query_x.isfinite().all() and episode.query_x.std() > 0.1
        if row.is_regression:
            assert episode.support_y.shape == (num_tasks, 1, 1) and episode.support_y.dtype == torch.float32
        else:
            assert episode.support_y.tolist() == [[0, 1, 2, 3]] * num_tasks


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_split_has_its_published_size(name):
    assert {split: len(published_split(name)[split]) for split in SPLITS} == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_splits_share_no_class(name):
    names = list(itertools.chain(*(published_split(name)[split] for split in SPLITS)))
    assert len(set(names)) == len(names)


def test_every_split_file_is_tested_here():
    folder = Path(inspect.getfile(benchmarks)).parent / "splits"
    assert {path.stem for path in folder.iterdir()} == PUBLISHED.keys()


def test_vinyals_split_of_omniglot_is_as_counted_in_the_papers_files():
    split = published_split("omniglot_vinyals")
    assert sorted(split["trainval"]) == sorted(split["train"] + split["val"])
    alphabets = {part: {name.split("/")[0] for name in split[part]} for part in SPLITS}
    assert {part: len(names) for part, names in alphabets.items()} == {"train": 33, "val": 5, "test": 13}
    assert alphabets["train"] & alphabets["test"] == {"Gurmukhi"}


@pytest.mark.parametrize("name", ["cifar_fs", "cub", "fc100", "mini_imagenet", "omniglot_vinyals", "tiered_imagenet"])
def test_a_split_is_the_published_one(name, shared_data):
    file = {"mini_imagenet": "mini_imagenet_ravi"}.get(name, name)
    published = json.loads((shared_data / "splits" / f"{file}.json").read_text("utf-8"))
    ours = published_split(name)
    assert {split: sorted(ours[split]) for split in SPLITS} == {split: sorted(published[split]) for split in SPLITS}


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("dtd", "describable_textures"),
        ("fgvc_aircraft", "fgvc_aircraft"),
        ("fungi", "fgvc_fungi"),
        ("quickdraw", "quickdraw"),
        ("vgg_flowers", "vgg_flowers"),
    ],
)
def test_a_split_of_meta_dataset_is_the_one_that_learn2learn_has(name, module):
    theirs = importlib.import_module(f"learn2learn.vision.datasets.{module}").SPLITS
    validation = theirs["validation" if "validation" in theirs else "valid"]
    named = "{:03d}" if name == "vgg_flowers" else "{}"
    ours = published_split(name)
    for split, names in {"train": theirs["train"], "val": validation, "test": theirs["test"]}.items():
        assert sorted(ours[split]) == sorted(named.format(found) for found in names)


def check_classes(data):
    """Check that fixed episodes hold classes with distinct names, and their images."""
    sources = data.sources if isinstance(data, benchmarks.MultiSource) else [data]
    for split in ("val", "test"):
        names, classes = data.class_names(split), data.fixed_classes(split)
        num_classes = sum(source.stores[split].num_classes * source.num_rotations(split) for source in sources)
        assert len(set(names)) == len(names) == num_classes
        assert classes.shape == (data.num_episodes[split], 4) and classes.max() < num_classes
        assert data.class_examples(split, torch.tensor([0, num_classes - 1]), 2).shape == (4, *data.image_shape)
