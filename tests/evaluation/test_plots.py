"""The plots show the numbers of the results."""

import numpy as np
import pytest
import torch

from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.evaluation.outcome import Outcome, paired_difference
from fewshot_pl.evaluation.plots import difference_plot, episodes_plot, grid_plot, reliability_plot
from fewshot_pl.metrics import EpisodeRecords


def outcome(label="ProtoNet", ways=5, shots=1, seed=0):
    """A made-up outcome; nothing here looks at its data."""
    generator = torch.Generator().manual_seed(seed)
    correct = (torch.rand(30, 10, generator=generator) < 0.6).float()
    records = EpisodeRecords(correct.mean(-1), torch.rand(30, 10, generator=generator), correct)
    accuracy = correct.double().mean().item()
    result = {"num_ways": ways, "num_shots": shots, "accuracy": accuracy, "ci95": 0.01 * ways, "ece": 0.123}
    return Outcome(label, result, Sinusoid(), records)


def regression(shots=5):
    """Made up likewise, of errors."""
    errors = 3 * torch.rand(30, generator=torch.Generator().manual_seed(shots))
    result = {"num_ways": 1, "num_shots": shots, "mse": errors.double().mean().item(), "ci95": 0.25}
    return Outcome("MAML $x$", result, Sinusoid(), EpisodeRecords(errors))


def test_the_grid_has_a_line_for_every_size_of_the_other_kind():
    cells = [outcome(ways=ways, shots=shots, seed=ways + shots) for ways in (5, 20) for shots in (10, 1, 5)]
    against_shots, against_ways = grid_plot(cells).axes
    assert (against_shots.get_xlabel(), against_ways.get_xlabel()) == ("shots", "ways")
    assert against_shots.get_ylabel() == against_ways.get_ylabel() == "accuracy, %"
    assert len(against_shots.containers) == 2 and len(against_ways.containers) == 3
    for container, ways in zip(against_shots.containers, (5, 20), strict=True):
        line, _, (bars,) = container
        expected = {c.result["num_shots"]: 100 * c.result["accuracy"] for c in cells if c.result["num_ways"] == ways}
        assert list(line.get_xdata()) == [1, 5, 10]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [expected[shots] for shots in (1, 5, 10)])
        lengths = [float(np.ptp(segment[:, 1])) for segment in bars.get_segments()]
        np.testing.assert_allclose(lengths, 2 * ways)  # percent, to both sides
    assert [text.get_text() for text in against_shots.get_legend().get_texts()] == [
        "ProtoNet, 5-way",
        "ProtoNet, 20-way",
    ]


def test_one_kind_of_task_has_no_grid():
    assert grid_plot([outcome("ProtoNet"), outcome("MAML", seed=1)]) is None


def test_bars_count_episodes():
    one, other = outcome(), outcome("MAML $x$", seed=1)
    other = other._replace(difference=paired_difference(other, one))
    for figure, mean in (
        (episodes_plot(one), 100 * one.result["accuracy"]),
        (difference_plot(other, one), 100 * (other.result["accuracy"] - one.result["accuracy"])),
    ):
        (axes,) = figure.axes
        assert sum(bar.get_height() for bar in axes.patches) == 30
        (line,) = axes.lines
        assert line.get_xdata()[0] == pytest.approx(mean, abs=1e-4)
    assert axes.get_title() == "5-way 1-shot\nMAML \\$x\\$ less ProtoNet"  # a dollar in a name starts no formula
    figure.canvas.draw()


def test_errors_are_no_percentages():
    cells = [regression(shots) for shots in (5, 10)]
    (axes,) = grid_plot(cells).axes
    ((line, _, (bars,)),) = axes.containers
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [cell.result["mse"] for cell in cells])
    np.testing.assert_allclose([float(np.ptp(segment[:, 1])) for segment in bars.get_segments()], 2 * 0.25)
    assert (axes.get_ylabel(), axes.get_legend().get_texts()[0].get_text()) == ("squared error", r"MAML \$x\$")
    (axes,) = episodes_plot(cells[0]).axes
    assert axes.lines[0].get_xdata()[0] == pytest.approx(cells[0].result["mse"])
    assert axes.patches[-1].get_corners()[1, 0] == pytest.approx(cells[0].records.figures.max().item())
    assert axes.get_xlabel() == "squared error of an episode"
    assert reliability_plot(cells[0]) is None


def test_there_is_no_difference_of_what_was_not_recorded():
    one, other = outcome(), outcome("MAML", seed=1)
    for first, second in ((one._replace(records=None), other), (one, other._replace(records=None))):
        with pytest.raises(AssertionError):
            paired_difference(second, first)


def test_the_reliability_diagram_has_the_accuracy_of_each_bin():
    one = outcome()
    for part in one.records[1:]:
        part[3, 6:] = torch.nan  # an episode of fewer queries
    figure = reliability_plot(one)
    confidence, correct = (torch.cat([part[:3].flatten(), part[3, :6], part[4:].flatten()]) for part in one.records[1:])
    bins = [(confidence >= number / 15) & (confidence < (number + 1) / 15) for number in range(15)]
    expected = [correct[inside].mean().item() for inside in bins if inside.any()]
    accuracies = [bar.get_height() for bar in figure.axes[0].containers[0]]
    assert accuracies == pytest.approx(expected)
    ece = sum((correct[b].mean() - confidence[b].mean()).abs() * b.double().mean() for b in bins if b.any()).item()
    assert f"ECE {ece:.1%}" in figure.axes[0].get_title(loc="left")
    assert figure.get_suptitle() == one.task


def test_outcomes_of_one_episode_have_no_bars():
    cells = [outcome(shots=shots) for shots in (1, 5)]
    for cell in cells:
        cell.result["ci95"] = None
    figure = grid_plot(cells)
    ((line, _, (bars,)),) = figure.axes[0].containers
    assert np.isfinite(np.asarray(line.get_ydata(), float)).all()
    assert not any(len(segment) for segment in bars.get_segments())
    figure.canvas.draw()
