"""EmbeddingProjector: the files that TensorBoard's projector reads, after a test."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule

from fewshot_pl.algorithms import MAML, MatchingNet, MetaGAN, ProtoNet
from fewshot_pl.callbacks import EmbeddingProjector
from fewshot_pl.errors import InputError

SHAPE = (1, 16, 16)
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def table(path):
    return list(csv.reader(path.open(encoding="utf-8"), delimiter="\t"))


@pytest.fixture
def tested(trainer, patterns, tmp_path):
    """The rows of features and of labels, and the sprite, that a test of a model writes."""

    def tested(model, *arguments, **settings):
        trainer(EmbeddingProjector(*arguments)).test(model, datamodule=patterns(**settings), verbose=False)
        folders = list(tmp_path.glob("lightning_logs/version_0/*/test_embedding"))
        if not folders:
            return None
        assert (tmp_path / "lightning_logs/version_0/projector_config.pbtxt").is_file()
        features = np.array(table(folders[0] / "tensors.tsv"), dtype=np.float32)
        return features, table(folders[0] / "metadata.tsv"), Image.open(folders[0] / "sprite.png")

    return tested


@pytest.mark.parametrize("algorithm", [ProtoNet, MAML])
def test_rows_are_the_features_and_classes_of_each_image(algorithm, tested, patterns):
    torch.manual_seed(0)
    model = algorithm(image_shape=SHAPE, **({"num_ways": 3} if algorithm is MAML else {}))
    features, (header, *labels), sprite = tested(model, 500, 2)
    data, rows, images = patterns(), [], []
    data.setup("test")
    network = (model.learner if algorithm is MAML else model).backbone.eval()
    for number in range(2):
        (support_x, support_y, query_x, query_y), names = (
            data.fixed_episodes("test", number)[:4],
            data.class_names("test"),
        )
        images.append(torch.cat([support_x[0], query_x[0]]))  # those of a task together, as batch norm may see them
        classes = data.fixed_classes("test", number)[0]
        rows += [[names[classes[label]], "support", str(number)] for label in support_y[0]]
        rows += [[names[classes[label]], "query", str(number)] for label in query_y[0]]
    assert header == ["class", "set", "episode"] and labels == rows
    expected = torch.cat([network(task) for task in images]).detach().numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert sprite.size == (6 * 16, 6 * 16)  # 30 images
    first = np.array(sprite.convert("L"))[:16, :16] / 255
    image = images[0][0, 0].numpy()
    np.testing.assert_allclose(first, (image - image.min()) / (image.max() - image.min()), atol=0.01)


def test_points_are_few_and_of_every_class(tested):
    features, (_, *labels), _ = tested(ProtoNet(image_shape=SHAPE), 20, 2)
    assert len(features) == len(labels) <= 20
    for episode in ("0", "1"):
        assert len({name for name, _, number in labels if number == episode}) == 3


def test_there_are_no_more_episodes_than_in_the_list(tested):
    _, (_, *labels), _ = tested(MatchingNet(image_shape=SHAPE), num_test_episodes=1)
    assert {number for _, _, number in labels} == {"0"}


def test_large_images_have_small_thumbnails(tested, monkeypatch):
    monkeypatch.setattr("fewshot_pl.callbacks.embedding._LARGEST_THUMBNAIL", 8)
    assert tested(ProtoNet(image_shape=SHAPE), 500, 2)[2].size == (6 * 8, 6 * 8)


@pytest.mark.parametrize(
    "settings", [{}, {"norm": "running"}, {"classifier": "relation_net", "backbone": "conv4-maps"}], ids=str
)
def test_generated_images_are_among_those_of_a_metagan(settings, tested, patterns):
    torch.manual_seed(0)
    model = MetaGAN(num_ways=3, image_shape=SHAPE, generator_width=4, **settings)
    features, (_, *labels), sprite = tested(model, 500, 2)
    data, model = patterns(), model.eval()
    data.setup("test")
    network = model.discriminator.backbone if "classifier" in settings else model.discriminator.learner.backbone
    assert sprite.size == (7 * 16, 7 * 16)  # 2 episodes of 6 + 9 + 6 images
    for number in range(2):
        (support_x, *_), mine = data.fixed_episodes("test", number), slice(21 * number, 21 * number + 21)
        assert [part for _, part, _ in labels[mine]] == ["support"] * 6 + ["query"] * 9 + ["generated"] * 6
        assert labels[mine][-6:] == [["generated", "generated", str(number)]] * 6
        real = torch.cat([support_x[0], data.fixed_episodes("test", number).query_x[0]])
        with torch.no_grad():
            expected = torch.cat([network(part).flatten(1) for part in (real, model.generated_images(support_x[0]))])
        np.testing.assert_allclose(features[mine], expected, rtol=1e-4, atol=1e-5)


def test_generated_images_count_among_the_points(tested):
    _, (_, *labels), _ = tested(MetaGAN(num_ways=3, image_shape=SHAPE, generator_width=4), 22, 2)
    assert len(labels) <= 22 and {part for _, part, _ in labels} == {"support", "query", "generated"}


class Blind(LightningModule):
    """A model that is tested without computing features."""

    def test_step(self, batch, batch_idx):
        """Do nothing."""


def test_nothing_of_a_model_without_features(tested):
    assert tested(Blind()) is None


def test_refuses_what_would_show_nothing():
    with pytest.raises(InputError, match="at least 1"):
        EmbeddingProjector(max_points=0)
