"""An evaluation that embeds each image of a split once has the figures of one that embeds each episode's."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import numpy as np
import pytest
import torch
from episodes import random_episode
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from quiet_trainer import quiet_trainer
from torch import nn

from fewshot_pl.algorithms import MAML, MatchingNet, ProtoNet, RelationNet
from fewshot_pl.callbacks import EpisodePicture
from fewshot_pl.callbacks.validation_picture import FirstBatchObserver
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.episode import Episode

SHAPE = (1, 16, 16)
METRIC = {
    "ProtoNet": (ProtoNet, {}),
    "ProtoNet, group norm": (ProtoNet, {"norm": "group"}),
    "MatchingNet": (MatchingNet, {}),
    "MatchingNet, full context": (MatchingNet, {"full_context": True}),
    "RelationNet": (RelationNet, {"norm": "running"}),
}


class Noise(ImageDataModule):
    """5 classes with 6 images each, of which each quarter turn is a class of its own."""

    image_shape = SHAPE
    mean, std = (0.5,), (0.3,)

    def class_images(self, split):
        random = np.random.default_rng(["train", "val", "test"].index(split))
        for index in range(5):
            pattern = random.integers(0, 180, SHAPE)
            yield str(index), (pattern + random.integers(0, 75, (6, *SHAPE))).astype(np.uint8)

    def source_fingerprint(self):
        return {"benchmark": "noise"}

    def num_rotations(self, split):
        return 4


@pytest.fixture
def data(tmp_path):
    def data(**settings):
        sizes = {"num_ways": 3, "num_shots": 2, "num_queries": 3, "num_test_episodes": 40, "num_val_episodes": 40}
        return Noise(cache_dir=str(tmp_path / "cache"), batches_per_epoch=3, **(sizes | settings))

    return data


def counted(model, monkeypatch):
    """The sizes of the batches that the model embeds from now on."""
    sizes, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda images: sizes.append(len(images)) or encode(images))
    return sizes


def evaluated(model, module):
    return quiet_trainer().test(model, datamodule=module, verbose=False)[0]


@pytest.mark.parametrize("store", ["device", "host"])
@pytest.mark.parametrize("name", METRIC)
def test_the_figures_are_those_of_episodes_of_images(data, monkeypatch, name, store):
    algorithm, settings = METRIC[name]
    seed_everything(0, verbose=False)
    model = algorithm(image_shape=SHAPE, **settings)
    sizes = counted(model, monkeypatch)
    once = evaluated(model, data(store=store))
    assert sum(sizes) == 5 * 6 * 4  # every image in every turn
    monkeypatch.setattr(algorithm, "embeds_alone", False)
    each = evaluated(model, data(store=store))
    assert sum(sizes) == 120 + 40 * 3 * (2 + 3)
    assert once.keys() == each.keys()
    for figure, value in each.items():
        assert once[figure] == pytest.approx(value, abs=1e-5), figure


@pytest.mark.parametrize("tasks", [1, 7, 40])
def test_tasks_per_batch_and_the_place_of_the_images_change_no_digit(data, tasks):
    model = ProtoNet(image_shape=SHAPE)
    figures, others = evaluated(model, data()), evaluated(model, data(eval_tasks_per_batch=tasks, store="host"))
    assert figures == others


@pytest.mark.parametrize("name", METRIC)
def test_how_many_tasks_are_compared_at_once_changes_no_bit(name):
    algorithm, settings = METRIC[name]
    torch.manual_seed(0)
    model = algorithm(image_shape=SHAPE, **settings).eval()
    tasks = random_episode(12, 5, num_shots=5, num_queries=10, image_shape=(model.num_features,))
    features = tasks._replace(**{name: getattr(tasks, name).flatten(2) for name in ("support_x", "query_x")})
    assert features.holds_features
    with torch.inference_mode():
        at_once, alone = model(features), torch.cat([model(features.tasks(slice(i, i + 1))) for i in range(12)])
    assert torch.equal(at_once, alone)


def test_images_are_embedded_with_each_episode_where_that_is_less_work(data, monkeypatch):
    model = ProtoNet(image_shape=SHAPE)
    sizes = counted(model, monkeypatch)
    evaluated(model, data(num_test_episodes=8))
    assert sizes == [15] * 8


@pytest.mark.parametrize("norm", ["transductive", "support"])
def test_features_that_depend_on_the_episode_are_made_with_it(data, monkeypatch, norm):
    model = ProtoNet(image_shape=SHAPE, norm=norm)
    sizes = counted(model, monkeypatch)
    evaluated(model, data())
    assert sizes == [15] * 40


def test_methods_that_adapt_the_network_are_given_images(data):
    model = MAML(image_shape=SHAPE, num_ways=3)
    assert 0 <= evaluated(model, data())["test/accuracy"] <= 1


class Mirrored(ProtoNet):
    """Counts each support image twice, once mirrored, for which it needs images instead of features."""

    def query_logits(self, support_x, support_y, query_x, num_ways):
        support = torch.cat([support_x, support_x.flip(-1)]), torch.cat([support_y, support_y])
        return super().query_logits(*support, query_x, num_ways)


class BatchStatistics(ProtoNet):
    """Has a network whose batch norm only has batch statistics."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())


class Centred(ProtoNet):
    """Has features that depend on the images they pass with."""

    def encode(self, images):
        features = super().encode(images)
        return features - features.mean(0)


class Turned(ProtoNet):
    """Turns the queries of a batch of tasks, for which it needs images."""

    def forward(self, episode):
        return super().forward(episode._replace(query_x=episode.query_x.transpose(3, 4)))


class Nearest(ProtoNet):
    """Picks the images of each class, which vmap cannot."""

    def logits_from_features(self, support_f, support_y, query_f, num_ways):
        classes = [support_f[support_y == label] for label in range(num_ways)]
        return torch.stack([-torch.cdist(query_f, of_class).min(1).values for of_class in classes], -1)


@pytest.mark.filterwarnings("ignore:Nearest takes tasks one by one")
@pytest.mark.parametrize("algorithm", [Mirrored, BatchStatistics, Centred, Turned, Nearest])
def test_what_depends_on_more_than_an_image_is_given_images(data, algorithm):
    torch.manual_seed(0)
    model, module = algorithm(image_shape=SHAPE), data()
    figures = evaluated(model, module)
    episodes = [module.fixed_episodes("test", number) for number in range(40)]
    with torch.no_grad():
        right = [(model.eval()(one).argmax(-1) == one.query_y).float().mean().item() for one in episodes]
    assert figures["test/accuracy"] == pytest.approx(np.mean(right), abs=1e-6)


class Breaks(Callback):
    """Interrupts a test before its third batch."""

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 2:
            raise RuntimeError("interrupted")


def test_a_test_that_was_interrupted_leaves_nothing_to_the_next(data):
    for model in (ProtoNet(image_shape=SHAPE), MAML(image_shape=SHAPE, num_ways=3)):
        expected, module = evaluated(model, data()), data()
        with pytest.raises(RuntimeError, match="interrupted"):
            quiet_trainer(Breaks()).test(model, datamodule=module, verbose=False)
        assert evaluated(model, module) == expected


def test_features_of_a_test_that_was_interrupted_are_not_given_to_another_model(data):
    module, other = data(), ProtoNet(image_shape=SHAPE, norm="transductive")
    with pytest.raises(RuntimeError, match="interrupted"):
        quiet_trainer(Breaks()).test(ProtoNet(image_shape=SHAPE), datamodule=module, verbose=False)
    assert evaluated(other, module) == evaluated(other, data())


def test_training_is_as_before_and_its_pictures_show_images(data, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(EpisodePicture, "figure", lambda self, module, episode, logits: shown.append(episode))

    def trained():
        seed_everything(0, verbose=False)
        model, module = ProtoNet(image_shape=SHAPE), data(num_queries=2)
        fitting = quiet_trainer(EpisodePicture(), max_epochs=2, logger=TensorBoardLogger(tmp_path))
        fitting.fit(model, datamodule=module)
        return model, module, fitting.callback_metrics["val/accuracy"].item()

    model, module, accuracy = trained()
    monkeypatch.setattr(ProtoNet, "embeds_alone", False)
    plain, _, plain_accuracy = trained()
    assert accuracy == pytest.approx(plain_accuracy, abs=1e-5)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in model.state_dict().items())
    for with_features, with_images in zip(shown[:2], shown[2:], strict=True):
        assert torch.equal(with_features.support_x, with_images.support_x)
        assert torch.equal(with_features.query_y, with_images.query_y)
    assert not module.fixed_episodes("val").holds_features


def test_a_picture_has_the_images_behind_features_where_the_model_is(data, tmp_path):
    class Looks(FirstBatchObserver):
        def look(self, trainer, pl_module, episode, logits):
            seen.append(episode)

    seen, fitting, module = [], quiet_trainer(logger=TensorBoardLogger(tmp_path)), data()
    fitting.datamodule = module
    module.prepare_data()
    module.setup("fit")
    model = ProtoNet(image_shape=SHAPE).to("meta")
    features = Episode(torch.empty(2, 6, 8), torch.empty(2, 6), torch.empty(2, 9, 8), torch.empty(2, 9))
    Looks().on_validation_batch_end(fitting, model, {"logits": torch.empty(2, 9, 3)}, features, 0)
    (episode,) = seen
    assert not episode.holds_features
    assert {field.device.type for field in episode[:4]} == {"meta"}
