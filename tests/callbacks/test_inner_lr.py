"""InnerLearningRates: the step sizes of PLATIPUS and MetaSGD in the event file, and none for other algorithms."""

import pytest
import torch

from fewshot_pl.algorithms import MAML, PLATIPUS, MetaSGD
from fewshot_pl.callbacks import InnerLearningRates

SHAPES = {"num_ways": 3, "image_shape": (1, 16, 16)}
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


@pytest.mark.parametrize("gamma", ["per_parameter", "scalar"])
def test_histograms_and_means_are_those_of_the_model(gamma, patterns, trainer, events):
    torch.manual_seed(0)
    model = PLATIPUS(**SHAPES, backbone="conv4-32", gamma=gamma, num_samples=1)
    trainer(InnerLearningRates()).fit(model, datamodule=patterns())
    sizes, found = model.learned_step_sizes, events()
    assert not all((values == 0.01).all() for values in sizes.values())  # they have moved from where they started
    assert set(found.Tags()["histograms"]) == {f"inner_lr/{name}" for name in sizes}
    for name, values in sizes.items():  # validation came after the last step
        histogram = found.Histograms(f"inner_lr/{name}")[-1]
        mean = found.Scalars(f"inner_lr_mean/{name}")[-1]
        assert histogram.step == mean.step == 6
        counted = histogram.histogram_value
        assert counted.num == values.numel()
        assert (counted.min, counted.max) == pytest.approx((values.min().item(), values.max().item()))
        assert mean.value == pytest.approx(values.mean().item())


def test_the_rates_of_meta_sgd_are_told_too(patterns, trainer, events):
    model = MetaSGD(**SHAPES, backbone="conv4-32")
    trainer(InnerLearningRates(), max_epochs=1).fit(model, datamodule=patterns())
    names = {f"inner_lr/{name}" for name in model.learned_step_sizes}
    assert "inner_lr/alpha/head.weight" in names and set(events().Tags()["histograms"]) == names


def test_a_diverged_training_goes_on(patterns, trainer, events):
    model = PLATIPUS(**SHAPES, backbone="conv4-32", gamma="scalar", num_samples=1)
    with torch.no_grad():
        model.gamma_p.fill_(torch.nan)
    trainer(InnerLearningRates(), max_epochs=1).fit(model, datamodule=patterns())
    assert "inner_lr/gamma_p" not in events().Tags()["histograms"]


def test_nothing_of_algorithms_that_learn_none(patterns, trainer, events):
    model = MAML(**SHAPES)
    assert model.learned_step_sizes == {}
    trainer(InnerLearningRates()).fit(model, datamodule=patterns())
    assert events().Tags()["histograms"] == []
