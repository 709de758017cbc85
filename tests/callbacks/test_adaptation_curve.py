"""AdaptationCurve against a loop over tasks and steps, and its scalars in the event file."""

import math

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, random_episode
from torch.func import functional_call

from fewshot_pl.algorithms import MAML, LSTMMetaLearner, ProtoNet, Reptile
from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.callbacks import AdaptationCurve
from fewshot_pl.callbacks.adaptation_curve import TAG, adaptation_curves, adaptation_figure, shown_steps
from fewshot_pl.callbacks.observer import figure_pixels
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def maml(**arguments):
    torch.manual_seed(0)
    sizes = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "backbone": "conv4-32", "inner_lr": 0.1}
    return MAML(**{**sizes, "num_inner_steps_test": 3, **arguments}).eval()


def scalars(events):
    """The values of each scalar of the group ``adaptation``."""
    found = events.Tags()["scalars"]
    return {tag: [event.value for event in events.Scalars(tag)] for tag in found if tag.startswith("adaptation/")}


def test_curves_are_those_of_plain_gradient_descent():
    model, episode = maml().double(), random_episode(num_tasks=3, dtype=torch.float64)
    curves = adaptation_curves(model, episode)
    assert curves.shape == (3, 4)
    for task in range(3):
        support_x, support_y, query_x, query_y = (tensor[task] for tensor in episode[:4])
        parameters = dict(model.learner.named_parameters())
        for step in range(4):
            answers = functional_call(model.learner, parameters, (query_x,)).argmax(-1)
            assert curves[task, step].item() == pytest.approx((answers == query_y).double().mean().item())
            logits = functional_call(model.learner, parameters, (support_x,))
            loss = torch.nn.functional.cross_entropy(logits, support_y, reduction="sum") / 2  # over 2 shots
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            parameters = {n: p - 0.1 * g for (n, p), g in zip(parameters.items(), gradients, strict=True)}


@pytest.mark.parametrize("algorithm", [MAML, Reptile, LSTMMetaLearner])
def test_the_last_scalar_is_the_accuracy_that_validation_found(algorithm, patterns, trainer, events):
    steps = {"num_inner_steps": 1, "num_inner_steps_test": 4}
    model = algorithm(num_ways=3, image_shape=(1, 16, 16), backbone="conv4-32", **steps)
    fitting = trainer(AdaptationCurve())
    fitting.fit(model, datamodule=patterns(num_val_episodes=4))
    found = scalars(events())
    assert list(found) == [f"adaptation/accuracy_after_{step:02}_steps" for step in range(5)]
    validated = [event.value for event in events().Scalars("val/accuracy")]
    assert found["adaptation/accuracy_after_04_steps"] == pytest.approx(validated, abs=1e-6)
    assert [image.step for image in events().Images(TAG)] == [3, 6]


@pytest.mark.parametrize("tasks_per_batch", [1, 3, 6])
@pytest.mark.parametrize("kind", ["images", "regression"])
def test_scalars_are_of_the_first_tasks_whatever_the_batches_they_come_in(
    kind, tasks_per_batch, patterns, trainer, events
):
    lists = {"num_val_episodes": 6, "eval_tasks_per_batch": tasks_per_batch, "num_queries": 3, "batches_per_epoch": 1}
    if kind == "images":
        data, model = patterns(**lists), maml(num_ways=3, image_shape=(1, 16, 16))
    else:
        data = Sinusoid(num_shots=4, **lists)
        model = maml(num_ways=1, image_shape=(1, 1, 1), backbone="mlp-16", norm="none", inner_lr=0.01)
    trainer(AdaptationCurve(max_tasks=4), max_epochs=1).fit(model, datamodule=data)
    expected = adaptation_curves(model.eval(), data.fixed_episodes("val", 0, 4)).mean(0)
    found = [value for (value,) in scalars(events()).values()]
    assert found == pytest.approx(expected.tolist(), rel=1e-5)


def test_regression_shows_squared_errors(trainer, events):
    data = Sinusoid(num_shots=4, num_queries=6, tasks_per_batch=2, batches_per_epoch=2, num_val_episodes=4)
    model = maml(num_ways=1, image_shape=(1, 1, 1), backbone="mlp-16", norm="none", inner_lr=0.01)
    trainer(AdaptationCurve()).fit(model, datamodule=data)
    found = scalars(events())
    assert list(found) == [f"adaptation/mse_after_{step:02}_steps" for step in range(4)]
    validated = [event.value for event in events().Scalars("val/mse")]
    assert found["adaptation/mse_after_03_steps"] == pytest.approx(validated, rel=1e-5)


def test_methods_without_steps_have_no_curve(patterns, trainer, events):
    trainer(AdaptationCurve()).fit(ProtoNet(image_shape=(1, 16, 16)), datamodule=patterns())
    assert scalars(events()) == {} and TAG not in events().Tags()["images"]
    trainer(AdaptationCurve()).fit(maml(num_inner_steps_test=0, image_shape=(1, 16, 16)), datamodule=patterns())
    assert scalars(events()) == {}


def test_the_figure_has_a_line_for_each_task_and_their_mean():
    curves = torch.tensor([[0.2, 0.5, 0.9], [0.4, 0.5, 0.7]])
    (axes,) = adaptation_figure(curves, chance=0.2).axes
    *tasks, mean, chance = (list(map(float, line.get_ydata())) for line in axes.lines)
    assert tasks == curves.tolist()
    assert (mean, chance) == (pytest.approx([0.3, 0.5, 0.8]), [0.2, 0.2])
    assert axes.get_title(loc="left") == "30.0% before, 80.0% after 2 steps"


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_diverged_training_is_drawn_too(value):
    assert figure_pixels(adaptation_figure(torch.full((2, 4), value))).shape[2] == 3


def test_many_steps_are_thinned_out_with_the_first_and_the_last_kept():
    assert shown_steps(4, 11) == [0, 1, 2, 3, 4]
    assert shown_steps(50, 11) == [0, 1, *range(5, 51, 5)]


def test_refuses_what_would_show_nothing():
    with pytest.raises(InputError, match="at least 1"):
        AdaptationCurve(max_tasks=0)
