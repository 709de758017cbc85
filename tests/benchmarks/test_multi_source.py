"""Several benchmarks at once: the source of an episode, its contents, and its way through the commands."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from quiet_trainer import on_device
from random_images import give_random_images, write_image_folder

from fewshot_pl.benchmarks import CIFARFS, ImageFolder, MultiSource
from fewshot_pl.checkpoints import opened_checkpoint
from fewshot_pl.cli import evaluate, train
from fewshot_pl.data import placed_images
from fewshot_pl.data.episode_dataset import EpisodeRange, IndexBatch
from fewshot_pl.data.image_store import ImageStore
from fewshot_pl.data.mixture import drawn_sources
from fewshot_pl.errors import InputError
from fewshot_pl.prediction.trained_model import trained_model

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
NUM_EPISODES = 23
CPU = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def own(tmp_path):
    """A source of user images."""
    write_image_folder(tmp_path / "own", num_classes=6, num_images=7, size=12)
    return {"ImageFolder": {"root": str(tmp_path / "own"), "image_size": 32}}


@pytest.fixture
def made(tmp_path, monkeypatch, own):
    give_random_images(monkeypatch, num_classes=6, num_images=8)

    def made(kind=MultiSource, stage="test", **settings):
        if kind is MultiSource:
            settings.setdefault("sources", ["CIFARFS", own])
        sizes = {"num_ways": 3, "num_shots": 2, "num_queries": 2, "num_test_episodes": NUM_EPISODES}
        data = kind(cache_dir=str(tmp_path / "cache"), **sizes | settings)
        data.prepare_data()
        data.setup(stage)
        return data

    return made


def episodes(data, loader):
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def joined(batches):
    return [torch.cat(field) for field in zip(*(batch[:4] for batch in batches), strict=True)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_sources_are_drawn_in_their_shares():
    shares = np.array([0.5, 0.0, 0.3, 0.2])
    counts = np.bincount(drawn_sources(0, EpisodeRange(0, 0, 4000), shares), minlength=4)
    assert counts[1] == 0
    expected = 4000 * shares[[0, 2, 3]]
    assert ((counts[[0, 2, 3]] - expected) ** 2 / expected).sum() < 13.8  # 99.9 %, 2 degrees of freedom


def test_the_source_is_a_function_of_seed_epoch_and_number():
    shares = np.ones(3) / 3
    together = drawn_sources(5, EpisodeRange(2, 10, 40), shares)
    one_by_one = [drawn_sources(5, EpisodeRange(2, number, 1), shares)[0] for number in range(10, 50)]
    assert together.tolist() == one_by_one
    for other in ((6, EpisodeRange(2, 10, 40)), (5, EpisodeRange(3, 10, 40)), (5, EpisodeRange(2, 50, 40))):
        assert drawn_sources(*other, shares).tolist() != together.tolist()


@pytest.mark.parametrize("sampling", ["fixed", "variable"])
def test_an_episode_is_that_of_its_source_normalised_as_there(made, own, sampling):
    variable = {"min_ways": 2, "max_ways": 4}
    arguments = {name: {**more, **variable} for name, more in (("CIFARFS", {}), *own.items())}
    data = made(sources=[{name: more} for name, more in arguments.items()], sampling=sampling)
    alone = [
        made(CIFARFS, sampling=sampling, **arguments["CIFARFS"]),
        made(ImageFolder, sampling=sampling, **arguments["ImageFolder"]),
    ]
    assert alone[0].mean != alone[1].mean
    drawn = drawn_sources(0, EpisodeRange(0, 0, NUM_EPISODES), data.shares).tolist()
    assert set(drawn) == {0, 1}
    for number, source in enumerate(drawn):
        one, other = data.fixed_episodes("test", number), alone[source].fixed_episodes("test", number)
        assert same(one[:4], other[:4]) and one.known_ways == other.known_ways
    loaded = [task for batch in episodes(data, data.test_dataloader()) for task in batch.query_y]
    assert len(loaded) == NUM_EPISODES


@pytest.mark.parametrize(
    "settings",
    [{"eval_tasks_per_batch": 1}, {"eval_tasks_per_batch": 20}, {"store": "host"}, {"store": "host", "num_workers": 2}],
)
def test_batches_workers_and_the_place_of_the_images_change_nothing(made, settings):
    data, other = made(store="device"), made(**settings)
    assert same(*(joined(episodes(each, each.test_dataloader())) for each in (data, other)))


def test_a_batch_is_an_episode_without_a_trainer_too(made):
    data = made()
    given = [data.episode(batch) for batch in data.test_dataloader()]
    assert same(joined(given), joined(episodes(data, data.test_dataloader())))


def test_each_source_sees_what_those_before_it_leave_of_a_device(made, monkeypatch):
    data, taken, tensor = made(sources=["CIFARFS"] * 3), [], ImageStore.tensor
    size = data.sources[0].stores["test"].images.nbytes

    def sent(store):
        return SimpleNamespace(to=lambda device: taken.append(store.images.nbytes) or tensor(store).to(device))

    monkeypatch.setattr(ImageStore, "tensor", sent)
    monkeypatch.setattr(placed_images, "_free_memory", lambda device: 2.1 * size - sum(taken))
    on_device(data, kind="meta")
    data.setup("test")
    parts = [source.episode_dataset("test")[EpisodeRange(0, 0, 1)] for source in data.sources]
    assert [isinstance(part, IndexBatch) for part in parts] == [True, False, False]  # half of 2.1 stores, and of 1.1
    assert taken == [size]


def test_another_seed_has_other_episodes(made):
    data, other = made(), made(seed=1)
    assert not same(data.fixed_episodes("test", 0, 5)[:4], other.fixed_episodes("test", 0, 5)[:4])


def test_ranks_share_out_the_episodes(made):
    data, seen = made(store="device"), []
    for rank in range(2):
        on_device(data, rank, of=2)
        seen += episodes(data, data.test_dataloader())
    numbers = torch.tensor(data.seen_order("test"))
    whole = data.fixed_episodes("test", 0, NUM_EPISODES)
    assert same(joined(seen), [field[numbers] for field in whole[:4]])


def test_training_episodes_are_of_all_sources_and_fresh(made):
    data = made(stage="fit", tasks_per_batch=4, batches_per_epoch=5, augment=False)
    loader = data.train_dataloader()
    first = list(loader)
    loader.sampler.set_epoch(1)
    second = list(loader)
    assert {source for batch in first for source in batch.sources} == {0, 1}
    assert not same(joined(episodes(data, first)), joined(episodes(data, second)))
    assert all(episode.support_x.shape == (4, 6, 3, 32, 32) for episode in episodes(data, first))


def test_tasks_of_one_source_may_come_without_labels(made, own):
    sources = [{"CIFARFS": {"unlabelled_tasks": 1.0}}, own]
    data = made(stage="fit", sources=sources, tasks_per_batch=12, batches_per_epoch=3, augment="none")
    for episode in episodes(data, data.train_dataloader()):
        unlabelled = [bool((labels == -100).all()) for labels in episode.support_y]
        assert episode.is_labelled == tuple(not unknown for unknown in unlabelled)
        assert 0 < sum(unlabelled) < len(unlabelled) and episode.known_ways == 3


def test_features_are_those_of_the_images(made):
    data = made(num_test_episodes=200)
    data.embed_split("test", lambda images: images.flatten(1), torch.device("cpu"))
    batch = next(iter(data.test_dataloader()))
    features, images = data.on_after_batch_transfer(batch, 0), data.fixed_episodes("test", 0, 8)
    assert features.holds_features
    for seen, expected in zip(features[:4], images[:4], strict=True):
        assert torch.equal(seen, expected.flatten(2) if expected.ndim == 5 else expected)
    data.forget_features()
    assert not data.on_after_batch_transfer(batch, 0).holds_features


def test_another_size_is_over_the_same_images(made):
    data = made()
    sized, new = data.sized(num_ways=4, num_shots=1), made(num_ways=4, num_shots=1)
    assert all(one.stores is other.stores for one, other in zip(sized.sources, data.sources, strict=True))
    assert same(sized.fixed_episodes("test", 0, 6)[:4], new.fixed_episodes("test", 0, 6)[:4])


def test_classes_of_sources_of_one_kind_have_names_of_their_own(made, own):
    data = made(sources=["CIFARFS", own, own])
    names = data.class_names("test")
    assert len(set(names)) == len(names) == 18
    assert [names[number] for number in (0, 6, 12)] == ["0 (CIFARFS)", "test0 (ImageFolder 1)", "test0 (ImageFolder 2)"]


def test_pixels_lie_within_the_range_of_all_sources(made):
    low, high = made().pixel_range
    ranges = [source.pixel_range for source in made().sources]
    assert low == tuple(min(values) for values in zip(*(low for low, _ in ranges), strict=True))
    assert high == tuple(max(values) for values in zip(*(high for _, high in ranges), strict=True))
    assert low != ranges[0][0] or high != ranges[0][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": []}, "no source"),
        ({"sources": ["Sinusoid", "CIFARFS"]}, "no benchmark of images Sinusoid.*CUB"),
        ({"sources": ["CIFARSF"]}, "no benchmark of images CIFARSF"),
        ({"sources": ["MultiSource"]}, "no benchmark of images MultiSource"),
        ({"sources": ["CIFARFS", "Omniglot"]}, r"one shape.*CIFARFS \(3, 32, 32\), Omniglot \(1, 28, 28\).*image_size"),
        ({"sources": [{"CIFARFS": {"image_sise": 3}}]}, "CIFARFS has no argument image_sise"),
        ({"sources": [{"CIFARFS": {"num_ways": 3}}]}, "pass --data.num_ways, not to CIFARFS"),
        ({"sources": [{"Omniglot": {"split": "Vinyals"}}]}, "--data.split takes one of 'vinyals', 'alphabets', not V"),
        ({"sources": [{"Omniglot": {"rotations": "true"}}]}, "--data.rotations takes bool or one of 'train', not true"),
        ({"sources": [{"CIFARFS": {"augment": "sup"}}]}, "--data.augment takes bool or one of 'both', .*, not sup"),
        ({"sources": [{"CIFARFS": {"sampling": "varible"}}]}, "--data.sampling takes one of 'fixed', 'variable', not"),
        ({"sources": [{"CIFARFS": {"store": "gpu"}}]}, "--data.store takes one of 'auto', 'device', 'host', not gpu"),
        ({"sources": [{"CUB": {"image_size": "32"}}]}, "--data.image_size takes a whole number, not 32"),
        ({"sources": [{"CIFARFS": {}, "FC100": {}}]}, "a source is a name, or"),
        ({"sources": ["CIFARFS", {"FC100": {"num_unlabelled": 1}}]}, "tasks of one kind"),
        ({"sources": ["CIFARFS", {"FC100": {"sampling": "variable"}}]}, "tasks of one kind"),
        ({"weights": [1.0]}, "for each of 2 sources"),
        ({"weights": [1.0, -1.0]}, "0 or more"),
        ({"weights": [0.0, 0.0]}, "0 or more"),
        ({"weights": [math.nan, 1.0]}, "0 or more"),
        ({"weights": [math.inf, 1.0]}, "0 or more"),
        ({"sampling": "variable", "tasks_per_batch": 2, "stage": "fit"}, "accumulate_grad_batches 2"),
    ],
)
def test_what_cannot_be_is_said_with_the_cure(made, settings, message):
    with pytest.raises(InputError, match=message):
        made(**settings)


@pytest.fixture
def trained(tmp_path, monkeypatch, own):
    """The best checkpoint of a short training on CIFAR-FS and own images, by flags."""
    give_random_images(monkeypatch, num_classes=6, num_images=8)
    sources = json.dumps(["CIFARFS", own])
    settings = {"cache_dir": tmp_path / "cache", "num_ways": 3, "num_queries": 2, "tasks_per_batch": 3}
    settings |= {"num_val_episodes": 6, "num_test_episodes": 40, "batches_per_epoch": 2}
    flags = [f"--data.{name}={value}" for name, value in settings.items()]
    runs = [f"--runs={tmp_path / 'runs'}", "--trainer.max_epochs=1", "--pictures=all", *CPU]
    assert train(["--data=MultiSource", f"--data.sources={sources}", "--data.weights=[3, 1]", *flags, *runs]) == 0
    return next((tmp_path / "runs").rglob("best.ckpt"))


def test_a_checkpoint_is_self_contained_and_evaluates_on_each_benchmark_alone(trained, own, tmp_path):
    assert json.loads((trained.parents[1] / "results.json").read_text())["data"] == "MultiSource"
    contents = opened_checkpoint(trained)  # it reads plain values only
    assert contents["data"] == "MultiSource"
    assert contents["datamodule_hyper_parameters"]["sources"] == ["CIFARFS", own]
    assert contents["datamodule_hyper_parameters"]["weights"] == [3, 1]
    assert [(one["num_ways"], one["num_shots"]) for one in contents["rejections"]] == [(3, 1), (3, 5)]

    def evaluated(*flags):
        assert evaluate([f"--ckpt_path={trained}", *flags, f"--output={tmp_path / 'result.json'}", *CPU]) == 0
        return json.loads((tmp_path / "result.json").read_text())

    first = json.loads((trained.parents[1] / "results.json").read_text())
    assert evaluated()["accuracy"] == pytest.approx(first["accuracy"], abs=1e-6)
    alone = evaluated("--data=CIFARFS")
    assert alone["data"] == "CIFARFS" and alone["num_ways"] == 3
    assert evaluated("--data.sources=[CIFARFS]", "--data.weights=null")["accuracy"] == alone["accuracy"]


def test_a_users_images_are_made_as_those_of_the_first_source(trained):
    model = trained_model(trained, "cpu")
    assert isinstance(model.data, CIFARFS)
    grey = np.full((10, 10, 3), 128, dtype=np.uint8)
    expected = (128 / 255 - torch.tensor(CIFARFS.mean)) / torch.tensor(CIFARFS.std)
    torch.testing.assert_close(model.pixels([grey])[0, :, 0, 0], expected)
