"""CalibrationPicture: a diagram of the bins that ``val/ece`` came from."""

import pytest
import torch

from fewshot_pl.algorithms import ProtoNet
from fewshot_pl.callbacks import CalibrationPicture, calibration
from fewshot_pl.callbacks.calibration import TAG, calibration_figure
from fewshot_pl.callbacks.observer import figure_pixels
from fewshot_pl.metrics.calibration import confidence_bins

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def heights(container):
    return [bar.get_height() for bar in container]


def test_bars_are_accuracies_and_gaps_reach_to_the_confidence():
    confidence = torch.tensor([0.3, 0.3, 0.9, 0.9, 0.9, 0.9, 1.0]).double()
    correct = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]).double()
    figure = calibration_figure(confidence_bins(confidence, correct))
    upper, lower = figure.axes
    bars, gaps = upper.containers
    assert [round(bar.get_x() + bar.get_width() / 2, 3) for bar in bars] == [0.3, 0.9, 0.967]
    assert heights(bars) == pytest.approx([0.5, 0.75, 1.0])
    assert heights(gaps) == pytest.approx([-0.2, 0.15, 0.0])
    assert [bar.get_y() for bar in gaps] == pytest.approx(heights(bars))
    (stairs,) = lower.patches
    shares = stairs.get_data().values
    assert (shares.sum(), shares[4], shares[13], shares[14]) == pytest.approx((1, 2 / 7, 4 / 7, 1 / 7))
    assert upper.get_title(loc="left") == "ECE 14.3%, over-confident"  # (2 * 0.2 + 4 * 0.15 + 1 * 0) / 7
    assert (
        lower.get_title(loc="left") == "mean accuracy 71.4%" and lower.get_title(loc="right") == "mean confidence 74.3%"
    )
    doubting = calibration_figure(confidence_bins(confidence / 2, correct)).axes[0]
    assert doubting.get_title(loc="left") == "ECE 34.3%, under-confident"


def test_it_shows_the_bins_of_each_validations_ece(patterns, trainer, events, monkeypatch):
    shown, draw = [], calibration.calibration_figure
    monkeypatch.setattr(calibration, "calibration_figure", lambda bins: shown.append(bins) or draw(bins))
    trainer(CalibrationPicture()).fit(ProtoNet(image_shape=(1, 16, 16)), datamodule=patterns())
    assert [image.step for image in events().Images(TAG)] == [3, 6]
    logged = [event.value for event in events().Scalars("val/ece")]
    assert [bins.ece.item() for bins in shown] == pytest.approx(logged, rel=1e-6)
    assert [int(bins.num_queries.sum()) for bins in shown] == [10 * 3 * 3] * 2


def test_a_diverged_training_is_drawn_too():
    nothing = torch.full((9,), torch.nan).double()
    assert figure_pixels(calibration_figure(confidence_bins(nothing, torch.zeros(9).double()))).shape[2] == 3


def test_nothing_of_a_model_that_does_not_measure_it(fit, events):
    fit(CalibrationPicture())
    assert events().Tags()["images"] == []
