"""All observers together: they are chosen by name, and do not change a training."""

import random

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, seed_everything

from fewshot_pl.algorithms import MAML, PLATIPUS, MetaGAN, ProtoNet, Reptile
from fewshot_pl.callbacks import EmbeddingProjector, EpisodePicture, GeneratedImages, RegressionPicture, pictures
from fewshot_pl.callbacks.observer import writers
from fewshot_pl.errors import InputError

SHAPES = {"num_ways": 3, "image_shape": (1, 16, 16)}
SMALL = {**SHAPES, "backbone": "conv4-32"}
TRAININGS = {
    "ProtoNet": lambda: ProtoNet(image_shape=SHAPES["image_shape"]),
    "MAML": lambda: MAML(**SMALL, num_inner_steps=2, norm="running"),
    "Reptile": lambda: Reptile(**SMALL, num_inner_steps=2, num_inner_steps_test=3),
    "PLATIPUS": lambda: PLATIPUS(**SMALL, num_samples=2),
    "MetaGAN": lambda: MetaGAN(**SMALL, generator_width=4),
}
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


@pytest.mark.parametrize("name", TRAININGS)
def test_weights_buffers_and_random_states_are_the_same_without_them(name, patterns, trainer):
    left = []
    for callbacks in (pictures(["all"]), pictures(["none"])):
        seed_everything(0, verbose=False)
        model, data, training = TRAININGS[name](), patterns(), trainer(*callbacks, max_epochs=1)
        training.fit(model, datamodule=data)
        tested = training.test(model, datamodule=data, verbose=False)
        left.append((model.state_dict(), torch.get_rng_state(), str(np.random.get_state()), random.getstate(), tested))
    (state, torch_state, *others), (plain_state, plain_torch_state, *plain_others) = left
    assert state.keys() == plain_state.keys()
    assert [key for key, value in state.items() if not torch.equal(value, plain_state[key])] == []
    assert torch.equal(torch_state, plain_torch_state) and others == plain_others


def test_they_do_nothing_in_training_steps():
    hooks = [hook for hook in dir(Callback) if "train_batch" in hook or "backward" in hook or "optimizer" in hook]
    assert "on_train_batch_end" in hooks
    assert all(getattr(type(one), hook) is getattr(Callback, hook) for one in pictures(["all"]) for hook in hooks)


def test_only_the_first_process_writes(recorder, tmp_path):
    assert len(writers(recorder(tmp_path))) == 1
    assert writers(recorder(tmp_path, is_global_zero=False)) == []


def test_they_are_chosen_by_name():
    assert [type(one) for one in pictures()] == [EpisodePicture, RegressionPicture, GeneratedImages]
    assert [type(one) for one in pictures(["embedding", "episode", "embedding"])] == [
        EmbeddingProjector,
        EpisodePicture,
    ]
    assert pictures(["none"]) == [] and len(pictures(["all"])) == 8


@pytest.mark.parametrize("names", [["all", "episode"], ["none", "all"]])
def test_all_and_none_stand_for_themselves(names):
    with pytest.raises(InputError, match="takes no other names"):
        pictures(names)
