"""A data module of images: its episodes, the store it reads, and what it refuses."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule
from quiet_trainer import on_device, quiet_trainer

from fewshot_pl import MAML, Glyphs, ProtoNet
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.episode_dataset import EpisodeRange, ImageBatch, IndexBatch
from fewshot_pl.data.image_store import ImageStore
from fewshot_pl.data.pixels import rotated
from fewshot_pl.errors import InputError

CLASSES = {"train": 12, "val": 6, "test": 7}
IMAGES = 8
NUM_WAYS = {MAML: {"num_ways": 3}}


class Tiny(ImageDataModule):
    """Image i of class c has c in its top left pixel and i to the right of it."""

    image_shape = (1, 4, 4)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.reads = []

    def class_images(self, split):
        self.reads.append(split)
        random = np.random.default_rng(0)
        for index in range(CLASSES[split]):
            images = random.integers(100, 256, (IMAGES, *self.image_shape), dtype=np.uint8)
            images[:, 0, 0, 0] = index
            images[:, 0, 0, 1] = np.arange(IMAGES)
            yield f"class{index:02}", images

    def source_fingerprint(self):
        return {"benchmark": "tiny"}


class Turned(Tiny):
    def num_rotations(self, split):
        return 4


class Coloured(Tiny):
    image_shape = (3, 4, 4)
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    augmentation = staticmethod(lambda images: images * 0 + torch.rand(len(images), 1, 1, 1))


@pytest.fixture
def made(tmp_path):
    def make(benchmark=Tiny, ready=True, **settings):
        defaults = {"num_ways": 3, "num_shots": 2, "num_queries": 4, "tasks_per_batch": 4, "batches_per_epoch": 3}
        defaults |= {"num_val_episodes": 10, "num_test_episodes": 20, "cache_dir": str(tmp_path / "cache")}
        data = benchmark(**(defaults | settings))
        if ready:
            data.prepare_data()
            data.setup("fit")
            data.setup("test")
        return data

    return make


def episodes(data, loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def marks(images):
    """(class, image) as written into the pixels, [..., 2]."""
    return (images[..., 0, 0, :2] * 255).round().long()


def test_an_episode_has_the_shapes_labels_and_images_it_says(made):
    data = made(train_num_ways=5, train_num_shots=1, train_num_queries=3)
    for episode in episodes(data, data.train_dataloader()):
        assert episode.support_x.shape == (4, 5, 1, 4, 4) and episode.query_x.shape == (4, 15, 1, 4, 4)
        assert episode.support_x.dtype == torch.float32
        assert episode.num_ways == 5 and episode.num_tasks == 4
        support, query = marks(episode.support_x), marks(episode.query_x)
        for task in range(4):
            class_of = dict(zip(episode.support_y[task].tolist(), support[task, :, 0].tolist(), strict=True))
            assert len(set(class_of.values())) == 5
            assert [class_of[label] for label in episode.query_y[task].tolist()] == query[task, :, 0].tolist()
            drawn = [tuple(mark) for mark in torch.cat([support[task], query[task]]).tolist()]
            assert len(set(drawn)) == len(drawn)


def test_labels_are_dealt_anew_in_every_episode(made):
    data = made(num_val_episodes=300)
    labels_of_class_0 = set()
    for episode in episodes(data, data.val_dataloader()):
        marked = marks(episode.support_x)[..., 0] == 0
        labels_of_class_0 |= set(episode.support_y[marked].tolist())
    assert labels_of_class_0 == {0, 1, 2}


@pytest.mark.parametrize("benchmark", [Tiny, Turned, Coloured])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_place_of_the_images_and_the_workers_change_nothing(made, benchmark, num_workers):
    device = made(benchmark, store="device", augment=False)
    host = made(benchmark, store="host", num_workers=num_workers, augment=False)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        on_device, on_host = getattr(device, name)(), getattr(host, name)()
        assert isinstance(next(iter(on_device)), IndexBatch)
        if name == "test_dataloader":
            assert isinstance(next(iter(on_host)), ImageBatch)
        assert same(episodes(device, on_device), episodes(host, on_host))


@pytest.mark.parametrize("tasks", [1, 3, 20])
def test_tasks_per_evaluation_batch_change_nothing(made, tasks):
    def joined(batches):
        return [tuple(torch.cat(field) for field in zip(*(batch[:4] for batch in batches), strict=True))]

    data, other = made(), made(eval_tasks_per_batch=tasks)
    assert same(joined(episodes(data, data.test_dataloader())), joined(episodes(other, other.test_dataloader())))


def test_training_episodes_are_fresh_every_epoch_and_validation_is_a_fixed_list(made):
    data = made()
    train = [episodes(data, data.train_dataloader(), epoch) for epoch in (0, 1, 0)]
    assert not same(train[0], train[1]) and same(train[0], train[2])
    val = [episodes(data, data.val_dataloader(), epoch) for epoch in (0, 1)]
    assert same(val[0], val[1])
    assert sum(episode.num_tasks for episode in val[0]) == 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_iteration_over_a_loader_without_a_trainer_is_of_the_next_epoch(made, num_workers):
    data = made(store="host", num_workers=num_workers)
    expected = [episodes(data, data.train_dataloader(), epoch) for epoch in range(3)]
    loader = data.train_dataloader()
    seen = [[data.episode(batch) for batch in loader] for _ in range(2)]
    next(iter(data.train_dataloader()))  # from another loader
    seen.append([data.episode(batch) for batch in loader])
    assert all(map(same, seen, expected))


def test_the_seed_decides(made):
    data, other, again = made(), made(seed=1), made()
    test = [episodes(each, each.test_dataloader()) for each in (data, other, again)]
    assert same(test[0], test[2]) and not same(test[0], test[1])


def test_a_quarter_turn_is_a_class(made):
    data = made(Turned, num_ways=24, num_val_episodes=2)  # 6 classes, all 4 turns of each
    batch = next(iter(data.val_dataloader()))
    classes = batch.indices.support[..., 0] // IMAGES
    assert {*zip(classes[0].tolist(), batch.indices.quarter_turns[0].tolist(), strict=True)} == {
        (index, turn) for index in range(6) for turn in range(4)
    }
    episode = data.episode(batch)
    store = torch.from_numpy(np.array(data.stores["val"].images))
    for images, indices, labels in (
        (episode.support_x, batch.indices.support, episode.support_y),
        (episode.query_x, batch.indices.query, episode.query_y),
    ):
        for task in range(2):
            for position, label in enumerate(labels[task].tolist()):
                source = store[indices[task].flatten()[position]]
                turned = torch.rot90(source, int(batch.indices.quarter_turns[task, label]), dims=(-2, -1))
                assert torch.equal(images[task, position], turned.float() / 255)


def test_turns_agree_with_rot90():
    images = torch.randint(0, 256, (2, 4, 3, 3, 5, 5), dtype=torch.uint8)
    quarter_turns = torch.tensor([[0, 1, 2, 3], [3, 3, 1, 0]])
    turned = rotated(images, quarter_turns)
    for task in range(2):
        for way in range(4):
            turn = int(quarter_turns[task, way])
            assert torch.equal(turned[task, way], torch.rot90(images[task, way], turn, dims=(-2, -1)))


def test_only_training_images_are_augmented_and_only_when_asked(made):
    def spread(data, loader):
        """The greatest standard deviation within an image before normalisation; the augmentation makes it 0."""
        pixels = torch.cat([episode.support_x.flatten(0, 1) for episode in episodes(data, loader)])
        pixels = pixels * torch.tensor(data.std).view(-1, 1, 1) + torch.tensor(data.mean).view(-1, 1, 1)
        return pixels.flatten(1).std(dim=1).max().item()

    data = made(Coloured)
    assert spread(data, data.train_dataloader()) < 1e-5
    assert spread(data, data.val_dataloader()) > 0.1
    assert spread(data, data.test_dataloader()) > 0.1
    plain = made(Coloured, augment=False)
    assert spread(plain, plain.train_dataloader()) > 0.1


@pytest.mark.parametrize(
    ("augment", "augmented"),
    [
        (True, {"support", "query"}),
        ("both", {"support", "query"}),
        ("support", {"support"}),
        ("query", {"query"}),
        ("none", set()),
        (False, set()),
    ],
)
@pytest.mark.parametrize("sampling", ["fixed", "variable"])
def test_only_the_asked_part_of_training_tasks_is_augmented(made, augment, augmented, sampling):
    unlabelled = {"num_unlabelled": 1} if sampling == "fixed" else {"tasks_per_batch": 1}
    data = made(Coloured, augment=augment, sampling=sampling, **unlabelled)
    for episode in episodes(data, data.train_dataloader()):
        parts = {"support": [episode.support_x], "query": [episode.query_x]}
        if episode.support_u is not None:  # they are treated as the part that they belong to
            parts = {"support": [episode.support_x, episode.support_u], "query": [episode.query_x, episode.query_u]}
        for name, images in parts.items():
            for part in images:
                plain = (part * torch.tensor(data.std).view(-1, 1, 1) + torch.tensor(data.mean).view(-1, 1, 1)).flatten(
                    2
                )
                assert (plain.std(-1).max() < 1e-5) == (name in augmented)


def test_images_are_normalised_by_the_benchmarks_mean_and_deviation(made):
    data = made(Coloured, num_test_episodes=1)
    batch = next(iter(data.test_dataloader()))
    images = torch.from_numpy(np.array(data.stores["test"].images))[batch.indices.query.flatten()]
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        expected = (images[:, channel].float() / 255 - mean) / std
        torch.testing.assert_close(data.episode(batch).query_x[0, :, channel], expected)


def test_the_source_is_read_once_and_then_only_the_cache(made):
    assert made().reads == ["train", "val", "test"]
    assert made().reads == []


@pytest.mark.parametrize("file", ["images.u8", "index.json"])
@pytest.mark.parametrize("content", [b"", b"{}", None], ids=["emptied", "other content", "bit flipped"])
def test_a_broken_cache_is_read_again_from_the_source(made, tmp_path, file, content):
    data = made()
    before = episodes(data, data.val_dataloader())
    (path,) = (tmp_path / "cache").glob(f"*/val/{file}")
    whole = path.read_bytes()
    flipped = bytes([*whole[:50], whole[50] ^ 1, *whole[51:]])
    path.unlink()  # the first data module still maps the file
    path.write_bytes(flipped if content is None else content)
    again = made()
    assert again.reads == ["val"]
    assert same(before, episodes(again, again.val_dataloader()))
    assert path.read_bytes() == whole


class Full:
    """Images that fit on no device."""

    def __init__(self, error):
        self.error = error

    def to(self, device):
        raise self.error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")]
)
def test_images_that_do_not_fit_on_the_device_name_the_host(made, monkeypatch, error):
    data = made(store="device")
    monkeypatch.setattr(ImageStore, "tensor", lambda self: Full(error))
    with pytest.raises(InputError, match=r"the val images do not fit into the memory of cpu: pass --data\.store host"):
        episodes(data, data.val_dataloader())
    monkeypatch.setattr(ImageStore, "tensor", lambda self: Full(RuntimeError("of another kind")))
    with pytest.raises(RuntimeError, match="of another kind"):
        episodes(data, data.val_dataloader())


class Anywhere:
    """Images that fit on any device, of a kind that may not exist."""

    def to(self, device):
        return self


@pytest.mark.parametrize(("kind", "free", "fits"), [("mps", 1 << 20, True), ("mps", 1000, False), ("xpu", 0, False)])
def test_auto_copies_only_what_fits_to_any_accelerator(made, monkeypatch, kind, free, fits):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: free + 500)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 500)
    data = made()
    data.fixed_episodes("val", 0, 1)  # in main memory, which decides nothing for the accelerator
    monkeypatch.setattr(ImageStore, "tensor", lambda self: Anywhere())
    on_device(data, kind=kind)
    for split in ("train", "val"):
        batch = data.episode_dataset(split)[EpisodeRange(0, 0, 1)]
        assert isinstance(batch, IndexBatch if fits else ImageBatch)


def test_another_source_has_a_cache_of_its_own(made, monkeypatch):
    made()
    monkeypatch.setattr(Tiny, "source_fingerprint", lambda self: {"benchmark": "tiny", "size": 2})
    assert made().reads == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_ways": 13}, "needs 13 classes and there are only 12"),
        ({"num_shots": 5}, "'class00' has 8 images.*5 shots . 4 queries"),
        ({"num_ways": 7}, "needs 7 classes and there are only 6"),  # the validation classes
    ],
)
def test_a_task_that_does_not_fit_is_refused_at_setup(made, settings, message):
    with pytest.raises(InputError, match=message):
        made(**settings)


def test_unlabelled_images_are_others_of_the_same_classes(made):
    data = made(num_ways=3, num_shots=2, num_queries=2, num_unlabelled=2)  # every image of a class
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for episode in episodes(data, loader):
            parts = [
                marks(images) for images in (episode.support_x, episode.query_x, episode.support_u, episode.query_u)
            ]
            assert [part.shape[1] for part in parts] == [6, 6, 6, 6]
            assert (episode.query_y >= 0).all()
            for task in range(episode.num_tasks):
                drawn = {tuple(mark) for part in parts for mark in part[task].tolist()}
                classes = parts[0][task, :, 0].unique().tolist()
                assert drawn == {(way, image) for way in classes for image in range(IMAGES)}


def test_unlabelled_images_change_no_other(made):
    without, with_unlabelled = made(num_shots=1, num_queries=2), made(num_shots=1, num_queries=2, num_unlabelled=2)
    for name in ("train_dataloader", "test_dataloader"):
        plain, more = (episodes(data, getattr(data, name)()) for data in (without, with_unlabelled))
        assert all(episode.support_u is None and episode.query_u is None for episode in plain)
        assert same([episode[:4] for episode in more], [episode[:4] for episode in plain])


@pytest.mark.parametrize("store", ["device", "host"])
def test_a_share_of_the_training_tasks_has_no_labels(made, store):
    settings = {"batches_per_epoch": 60, "store": store}
    data, labelled = made(unlabelled_tasks=0.3, **settings), made(**settings)
    some = episodes(data, data.train_dataloader())
    plain = episodes(labelled, labelled.train_dataloader())
    is_labelled = [task for episode in some for task in episode.is_labelled]
    assert 0.6 < sum(is_labelled) / len(is_labelled) < 0.8
    for half, whole in zip(some, plain, strict=True):
        known = [task for task, labelled in enumerate(half.is_labelled) if labelled]
        unknown = [task for task, labelled in enumerate(half.is_labelled) if not labelled]
        assert half.is_labelled == half._replace(known_ways=None, labelled_tasks=None).is_labelled
        assert torch.equal(half.support_x, whole.support_x) and torch.equal(half.query_x, whole.query_x)
        assert not known or same([half.tasks(known)[:4]], [whole.tasks(known)[:4]])
        assert (half.support_y[unknown] == -100).all() and (half.query_y[unknown] == -100).all()
    assert same(episodes(data, data.val_dataloader()), episodes(labelled, labelled.val_dataloader()))
    one_by_one = made(unlabelled_tasks=0.3, **{**settings, "tasks_per_batch": 1, "batches_per_epoch": 240})
    alone = episodes(one_by_one, one_by_one.train_dataloader())
    assert [task for episode in alone for task in episode.is_labelled] == is_labelled
    every = made(unlabelled_tasks=1)
    assert not any(any(episode.is_labelled) for episode in episodes(every, every.train_dataloader()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unlabelled_tasks": 1.5}, "share, 0 to 1, not 1.5"),
        ({"unlabelled_tasks": -0.1}, "share, 0 to 1, not -0.1"),
        ({"num_unlabelled": 2}, r"8 images.*2 shots . 4 queries . 2 x 2 unlabelled images.*or num_unlabelled"),
    ],
)
def test_unlabelled_images_and_tasks_that_cannot_be_are_refused(made, settings, message):
    with pytest.raises(InputError, match=message):
        made(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_unlabelled": -1}, "^--data.num_unlabelled must be at least 0, not -1$"),
        ({"num_workers": -1}, "^--data.num_workers must be at least 0, not -1$"),
        ({"sampling": "variable", "min_ways": 1, "max_ways": 1}, "^--data.min_ways must be at least 2, not 1$"),
        ({"sampling": "variable", "min_ways": 0}, "^--data.min_ways must be at least 2, not 0$"),
        ({"sampling": "variable", "min_ways": 6, "max_ways": 5}, "between 6 and 5"),
        ({"sampling": "variable", "max_queries": 0}, "max_queries must be at least 1"),
        ({"sampling": "variable", "max_support": 49}, "49 images cannot hold one of each of 50 classes"),
    ],
)
def test_what_no_images_could_serve_is_refused_before_any_is_read(settings, message):
    with pytest.raises(InputError, match=message):
        Glyphs(**settings)


def test_the_range_of_the_pixels_is_that_of_black_and_white(made):
    assert made().pixel_range == ((0.0,), (1.0,))
    low, high = made(Coloured).pixel_range
    assert low == pytest.approx((-5, -2, -1)) and high == pytest.approx((5, 3, 7 / 3))


class Recorder(LightningModule):
    """Keeps the episodes that a Trainer passes to it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": {}, "val": {}, "test": {}}

    def record(self, part, batch):
        self.seen[part].setdefault(self.current_epoch, []).append(batch)

    def training_step(self, batch, batch_idx):
        self.record("train", batch)
        return self.weight * batch.query_x.mean()

    def validation_step(self, batch, batch_idx):
        self.record("val", batch)

    def test_step(self, batch, batch_idx):
        self.record("test", batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("store", ["auto", "host"])
def test_a_trainer_gets_the_same_episodes(made, tmp_path, store):
    data, recorder = made(store=store), Recorder()
    trainer = quiet_trainer(max_epochs=2, num_sanity_val_steps=0, default_root_dir=tmp_path)
    trainer.fit(recorder, datamodule=data)
    trainer.test(recorder, datamodule=data, verbose=False)
    plain = made()
    for epoch in range(2):
        assert same(recorder.seen["train"][epoch], episodes(plain, plain.train_dataloader(), epoch))
        assert same(recorder.seen["val"][epoch], episodes(plain, plain.val_dataloader()))
    (tested,) = recorder.seen["test"].values()
    assert same(tested, episodes(plain, plain.test_dataloader()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", ["fit", "validate", "test", "predict"])
def test_a_loader_without_its_data_module_is_refused_with_the_cure(made, run):
    data = made()
    loader = {"fit": data.train_dataloader, "validate": data.val_dataloader}.get(run, data.test_dataloader)
    with pytest.raises(InputError, match=r"IndexBatch is not an Episode: pass the data module .*datamodule=data"):
        getattr(quiet_trainer(max_epochs=1), run)(
            ProtoNet(image_shape=data.image_shape, backbone="mlp-4", norm="none"), loader()
        )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", [ProtoNet, MAML])
@pytest.mark.parametrize("store", ["auto", "host"])
def test_predictions_are_the_logits_of_the_test_episodes(made, algorithm, store):
    made()  # packs
    data = made(store=store, ready=False)
    model = algorithm(image_shape=data.image_shape, backbone="mlp-4", norm="none", **NUM_WAYS.get(algorithm, {})).eval()
    predicted = torch.cat(quiet_trainer().predict(model, datamodule=data))
    with torch.no_grad():
        torch.testing.assert_close(predicted, model(data.fixed_episodes("test", 0, 20)))
    assert set(data.stores) == {"test"}


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_that_overfits_a_part_of_the_episodes_is_refused(made):
    data = made()
    model = ProtoNet(image_shape=data.image_shape, backbone="mlp-4", norm="none")
    with pytest.raises(InputError, match=r"leave out --trainer\.overfit_batches"):
        quiet_trainer(max_epochs=1, overfit_batches=2).fit(model, datamodule=data)


def test_hyper_parameters_are_plain_values_of_every_argument(made):
    hparams = dict(made().hparams)
    assert hparams["num_ways"] == 3 and hparams["seed"] == 0 and hparams["store"] == "auto"
    assert all(isinstance(value, (int, float, str, bool, type(None))) for value in hparams.values())


@pytest.mark.parametrize("benchmark", [Tiny, Turned])
def test_fixed_classes_are_those_that_the_images_show(made, benchmark):
    data = made(benchmark)
    names, classes = data.class_names("val"), data.fixed_classes("val", 2, 5)
    assert len(names) == len(set(names)) == CLASSES["val"] * data.num_rotations("val")
    episode = data.fixed_episodes("val", 2, 5)
    examples = data.class_examples("val", classes.flatten()).unflatten(0, (5, 3))
    for task in range(5):
        for image, label in zip(episode.query_x[task], episode.query_y[task], strict=True):
            name, _, degrees = names[classes[task, label]].partition(", turned by ")
            turned_back = image.rot90(-int(degrees.rstrip("°") or 0) // 90, (1, 2))
            assert f"class{round(255 * float(turned_back[0, 0, 0])):02}" == name
            example = examples[task, label].rot90(-int(degrees.rstrip("°") or 0) // 90, (1, 2))
            assert example[0, 0, :2].tolist() == [int(name[5:]), 0]


@pytest.mark.parametrize(("device", "is_pinned"), [("cpu", False), ("cuda", True)])
def test_batches_lie_in_pinned_memory_only_for_a_gpu(made, device, is_pinned, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = made(store="host")
    on_device(data, kind=device)
    assert data.train_dataloader().pin_memory == is_pinned
