"""RegressionPicture: a task's curves before and after each inner step, or its sampled curves."""

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from quiet_trainer import quiet_trainer

from fewshot_pl.algorithms import MAML
from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.callbacks import AdaptationCurve, RegressionPicture, regression_figure
from fewshot_pl.callbacks.observer import figure_pixels
from fewshot_pl.errors import InputError
from fewshot_pl.functional import inner_loop

pytestmark = pytest.mark.filterwarnings("ignore:.*num_workers", "ignore:.*isinstance.treespec, LeafSpec")


@pytest.fixture
def model():
    torch.manual_seed(0)
    arguments = {"num_ways": 1, "image_shape": (1, 1, 1), "backbone": "mlp-16", "norm": "none"}
    return MAML(**arguments, inner_lr=0.01, num_inner_steps_test=2).eval()


@pytest.fixture
def data():
    return Sinusoid(num_shots=4, num_queries=6, tasks_per_batch=2, batches_per_epoch=2, num_val_episodes=4)


@pytest.fixture
def episode(data):
    return next(iter(data.val_dataloader()))


def lines(axes):
    return {line.get_label(): line.get_ydata() for line in axes.lines}


def test_shows_the_prediction_before_and_after_each_step(model, episode):
    figure = regression_figure(model, episode)
    assert len(figure.axes) == 3
    assert figure_pixels(figure).shape[2] == 3
    drawn = lines(figure.axes[1])
    assert drawn.keys() == {"before adaptation", "after 1 step", "after 2 steps", "target", "support"}
    assert sorted(drawn["support"]) == sorted(episode.support_y[1].flatten().tolist())
    x = torch.cat([episode.support_x[1], episode.query_x[1]]).flatten()
    grid = torch.linspace(x.min(), x.max(), 200)[:, None, None, None]
    adapted = model(episode.tasks(slice(1, 2))._replace(query_x=grid[None])).detach()
    torch.testing.assert_close(torch.as_tensor(drawn["after 2 steps"]), adapted.flatten(), rtol=1e-4, atol=1e-5)
    unadapted = model.learner(grid).detach().flatten()
    torch.testing.assert_close(torch.as_tensor(drawn["before adaptation"]), unadapted, rtol=1e-4, atol=1e-5)


def test_is_drawn_by_a_torch_without_gradients_in_inference_mode(model, episode, monkeypatch):
    monkeypatch.setattr(inner_loop, "GRADS_IN_INFERENCE_MODE", False)
    with torch.inference_mode():
        assert len(regression_figure(model, episode).axes) == 3


def test_shows_some_of_many_steps(model, episode):
    model.num_inner_steps_test = 50
    drawn = lines(regression_figure(model, episode, max_tasks=1).axes[0])
    assert [label for label in drawn if "step" in label] == [
        f"after {n} step{'s' * (n > 1)}" for n in (1, 10, 20, 30, 40, 50)
    ]


def test_shows_sampled_functions_with_their_mean_and_band(model, episode):
    samples = torch.randn(3, 200, 1)
    model.sampled_outputs = lambda support_x, support_y, query_x: samples
    axes = regression_figure(model, episode, max_tasks=1).axes[0]
    torch.testing.assert_close(torch.as_tensor(lines(axes)["mean of 3 samples"]), samples.mean(0).flatten())
    assert sum(line.get_alpha() == 0.4 for line in axes.lines) == 3
    assert len(axes.collections) == 1


def test_is_written_once_per_validation(model, data, tmp_path, events):
    trainer = quiet_trainer(RegressionPicture(), max_epochs=2, logger=TensorBoardLogger(tmp_path))
    trainer.fit(model, datamodule=data)
    assert [image.step for image in events().Images("val/regression")] == [2, 4]


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.parametrize("sampled", [False, True])
def test_is_drawn_in_every_precision(model, data, precision, sampled, tmp_path, events):
    if sampled:
        model.sampled_outputs = lambda support_x, support_y, query_x: model.learner(query_x)[None]
    settings = {"max_epochs": 1, "precision": precision, "logger": TensorBoardLogger(tmp_path)}
    trainer = quiet_trainer(RegressionPicture(), AdaptationCurve(), **settings)
    trainer.fit(model, datamodule=data)
    assert {"val/regression", "val/adaptation_curve"} <= set(events().Tags()["images"])


def test_draws_nothing_of_labels(model, episode):
    labelled = episode._replace(support_y=episode.support_y[..., 0].long())
    assert RegressionPicture().figure(model, labelled, torch.zeros(())) is None


def test_refuses_what_would_show_nothing():
    with pytest.raises(InputError, match="at least 1"):
        RegressionPicture(max_tasks=0)
