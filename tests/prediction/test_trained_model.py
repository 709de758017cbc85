"""TrainedModel: used from several threads, after trainings of other precisions, and while its owner trains it."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from quiet_trainer import quiet_trainer
from random_images import give_random_images

from fewshot_pl import FewShotPredictor, InputError, TrainedModel
from fewshot_pl.algorithms import MAML, ProtoNet
from fewshot_pl.benchmarks import CIFARFS
from fewshot_pl.prediction.trained_model import trained_model

PIXELS = np.random.default_rng(0).integers(0, 256, (18, 32, 32, 3), dtype=np.uint8)
SUPPORT, LABELS, QUERIES = PIXELS[:6], list("aabbcc"), PIXELS[6:]


@pytest.fixture
def hasty_threads():
    """Let threads interrupt each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def weights(predictor):
    return copy.deepcopy(predictor.model.algorithm.state_dict())


@pytest.mark.parametrize("algorithm", ["ProtoNet", "MAML", "Reptile", "LSTMMetaLearner", "MetaGAN", "PLATIPUS"])
def test_threads_that_share_a_predictor_get_what_one_gets_alone(checkpoint, hasty_threads, algorithm):
    predictor = FewShotPredictor(checkpoint(algorithm)).fit(SUPPORT, LABELS)
    alone, before = predictor.predict_proba(QUERIES), weights(predictor)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: predictor.predict_proba(QUERIES), range(40)))
    for answer in answers:
        np.testing.assert_array_equal(answer, alone)
    torch.testing.assert_close(weights(predictor), before, rtol=0, atol=0)


@pytest.mark.parametrize("algorithm", ["MAML", "LSTMMetaLearner"])
def test_threads_that_share_a_model_each_fit_it(checkpoint, hasty_threads, algorithm):
    model = trained_model(checkpoint(algorithm))
    supports = [SUPPORT, QUERIES[:6]] * 10

    def answer(support):
        return FewShotPredictor(model).fit(support, LABELS).predict_proba(QUERIES)

    alone = [answer(support) for support in supports]
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(list(pool.map(answer, supports)), alone)


def test_the_lock_is_no_obstacle_to_copies(checkpoint):
    predictor = FewShotPredictor(trained_model(checkpoint("MAML"))).fit(SUPPORT, LABELS)
    expected = predictor.predict_proba(QUERIES)
    for twin in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        np.testing.assert_array_equal(twin.predict_proba(QUERIES), expected)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A function that trains an algorithm for a step in a precision, and returns it as a TrainedModel."""

    def trained(algorithm, precision="32-true"):
        with monkeypatch.context() as patched:
            give_random_images(patched)
            data = CIFARFS(num_ways=3, num_shots=2, num_queries=2, cache_dir=str(tmp_path / "cache"))
            torch.manual_seed(0)
            model = algorithm(image_shape=data.image_shape, **({"num_ways": 3} if algorithm is MAML else {}))
            arguments = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0, "precision": precision}
            quiet_trainer(**arguments).fit(model, datamodule=data)
        return TrainedModel(model, data)

    return trained


@pytest.mark.parametrize(
    ("algorithm", "precision"),
    [(ProtoNet, "bf16-true"), (ProtoNet, "16-true"), (ProtoNet, "64-true"), (MAML, "64-true")],
)
def test_a_model_predicts_in_the_precision_it_was_trained_in(trained, algorithm, precision):
    model = trained(algorithm, precision)
    dtype = model.algorithm.dtype
    found = FewShotPredictor(model).fit(SUPPORT, LABELS).predict_proba(QUERIES)
    assert dtype != torch.float32 and model.algorithm.dtype == dtype
    plain = FewShotPredictor(model._replace(algorithm=model.algorithm.float())).fit(SUPPORT, LABELS)
    np.testing.assert_allclose(found, plain.predict_proba(QUERIES), atol=1e-4 if precision == "64-true" else 0.1)


def test_a_model_put_in_training_mode_after_fit_predicts_as_before(trained):
    model = trained(ProtoNet)
    predictor = FewShotPredictor(model).fit(SUPPORT, LABELS)
    expected = predictor.predict_proba(QUERIES)
    model.algorithm.train()
    np.testing.assert_array_equal(predictor.predict_proba(QUERIES), expected)


def test_an_algorithm_alone_does_not_say_how_images_are_prepared(trained):
    model = trained(ProtoNet)
    with pytest.raises(InputError, match=r"a ProtoNet does not say how.*TrainedModel\(algorithm, data\)"):
        FewShotPredictor(model.algorithm).fit(SUPPORT, LABELS)
    with pytest.raises(InputError, match="give the file that"):
        FewShotPredictor(None).fit(SUPPORT, LABELS)
