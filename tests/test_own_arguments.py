"""User-defined algorithms and benchmarks whose arguments are not plain values: networks, arrays."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from quiet_trainer import quiet_trainer
from sklearn.base import clone
from torch import nn

from fewshot_pl import FewShotPredictor, ImageDataModule, InputError, ProtoNet, TrainedModel, calibrate, load_algorithm
from fewshot_pl.checkpoints import opened_checkpoint
from fewshot_pl.data.datamodule import SPLITS
from fewshot_pl.prediction.calibration import calibrated_rejections

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
SHAPE = (1, 16, 16)


class Arrays(ImageDataModule):
    image_shape = SHAPE

    def __init__(self, images, folder=Path(), **settings):
        super().__init__(**settings)
        self.images, self.folder = images, folder

    def class_images(self, split):
        for number, images in enumerate(self.images[SPLITS.index(split) :: 3]):
            yield str(number), images

    def source_fingerprint(self):
        return {"num_images": len(self.images)}


class OwnNetwork(ProtoNet):
    def __init__(self, net, scale=1.0, **settings):
        super().__init__(**settings)
        self.backbone = net


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 4))


@pytest.fixture
def data(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 4, *SHAPE), dtype=np.uint8)
    few = {"num_queries": 2, "batches_per_epoch": 2, "num_val_episodes": 2, "num_test_episodes": 3}
    return Arrays(images, tmp_path, num_ways=np.int64(2), cache_dir=tmp_path / "cache", **few)


@pytest.fixture
def trained(data, tmp_path):
    """A trainer that has trained such a model on such data, and the model."""
    model = OwnNetwork(network(), scale=np.float32(0.5), image_shape=torch.Size(SHAPE))
    best = ModelCheckpoint(tmp_path, "best", monitor="val/accuracy", mode="max", save_last=True)
    trainer = quiet_trainer(best, enable_checkpointing=True, max_epochs=1)
    trainer.fit(model, datamodule=data)
    return trainer, model


def test_a_checkpoint_holds_their_plain_arguments_alone(trained, data, tmp_path):
    held = opened_checkpoint(trained[0].checkpoint_callback.best_model_path)
    assert "net" not in held["hyper_parameters"] and held["hyper_parameters"]["scale"] == 0.5
    assert held["hyper_parameters"]["image_shape"] == SHAPE
    of_data = held["datamodule_hyper_parameters"]
    assert "images" not in of_data and (of_data["num_ways"], of_data["folder"]) == (2, str(tmp_path))
    assert "images" not in data.hparams_initial  # no copy, and none for a logger


def test_it_is_tested_loaded_resumed_and_calibrated(trained, data, tmp_path):
    trainer, model = trained
    best = trainer.checkpoint_callback.best_model_path
    (figures,) = trainer.test(datamodule=data, ckpt_path="best", verbose=False)
    loaded = OwnNetwork.load_from_checkpoint(best, net=network())
    assert quiet_trainer().test(loaded, datamodule=data, verbose=False) == [figures]
    with pytest.raises(InputError, match=r"'net'\): load it in Python by OwnNetwork.load_from_checkpoint, with"):
        load_algorithm(best)
    with pytest.raises(InputError, match=r"'images'.*pass the benchmark itself, FewShotPredictor\(TrainedModel\("):
        FewShotPredictor(best).fit([], [])
    again = OwnNetwork(network(), image_shape=SHAPE)
    longer = quiet_trainer(max_epochs=2)
    longer.fit(again, datamodule=data, ckpt_path=tmp_path / "last.ckpt")
    assert longer.global_step == 4
    assert calibrate(model, data, Path(best)) is not None
    assert "rejections" in opened_checkpoint(best)


def test_its_model_labels_images(trained, data):
    _, model = trained
    images = data.images[:2, :, 0].reshape(8, 16, 16)
    own = TrainedModel(model, data, calibrated_rejections(model.eval(), data, "val"))
    model.train()  # as load_from_checkpoint gives it
    predictor = FewShotPredictor(own, device="cpu").fit(images[::4], ["a", "b"])
    with torch.no_grad():
        x = torch.from_numpy(images)[:, None] / 255
        expected = model.query_logits(x[::4], torch.arange(2), x, 2)
    np.testing.assert_allclose(predictor.logits(predictor.model.pixels(images)), expected, atol=1e-5)
    np.testing.assert_allclose(predictor.decision_function(images), expected[:, 1] - expected[:, 0], atol=1e-5)
    assert predictor.is_unknown(images).shape == (8,)
    assert clone(predictor).checkpoint is own and not model.training
    with pytest.raises(InputError, match="this model has no threshold"):
        FewShotPredictor(TrainedModel(model, data)).fit(images[::4], ["a", "b"]).is_unknown(images)


def test_another_size_has_the_same_arguments(data, tmp_path):
    sized = data.sized(num_shots=2)
    assert sized.images is data.images and sized.folder == tmp_path
    assert (sized.eval_size.num_ways, sized.eval_size.num_shots) == (2, 2)


def test_a_class_may_redefine_the_type_of_an_argument():
    class Other(ProtoNet):
        def __init__(self, distance: str = "manhattan", backbone_weights: int = 3, **settings):
            super().__init__(**settings)

    assert Other(distance="chebyshev", backbone_weights=4).given_arguments["distance"] == "chebyshev"
    with pytest.raises(InputError, match=r"--model\.distance takes str, not 5"):
        Other(distance=5)


def test_arguments_of_ours_that_are_no_plain_values_are_refused_still():
    with pytest.raises(InputError, match=r"--model\.learning_rate takes a number, not 0.1"):
        ProtoNet(learning_rate=torch.tensor(0.1))
