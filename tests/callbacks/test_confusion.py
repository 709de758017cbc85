"""ConfusionPicture: its counts against scikit-learn's, and the classes that it chooses to show."""

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from sklearn.metrics import confusion_matrix

from fewshot_pl.algorithms import MAML, ProtoNet
from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.callbacks import ConfusionPicture, confusion
from fewshot_pl.callbacks.confusion import TAG, confusion_figure, most_confused
from fewshot_pl.callbacks.observer import figure_pixels
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


class Answers(Callback):
    """Collects the answers to each episode in every validation."""

    def __init__(self):
        self.collected = []

    def on_validation_epoch_start(self, trainer, pl_module):
        self.collected.append([])

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.collected[-1] += list(zip(outputs["logits"].argmax(-1).tolist(), batch.query_y.tolist(), strict=True))


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of each confusion_figure from now on, and the figure."""
    calls, draw = [], confusion.confusion_figure

    def noted(*args):
        calls.append((*args, draw(*args)))
        return calls[-1][-1]

    monkeypatch.setattr(confusion, "confusion_figure", noted)
    return calls


@pytest.mark.parametrize("algorithm", [ProtoNet, MAML])
def test_counts_are_those_of_scikit_learn_by_class_name(algorithm, patterns, trainer, events, drawn):
    answers, data = Answers(), patterns()
    model = algorithm(image_shape=(1, 16, 16), **({"num_ways": 3} if algorithm is MAML else {}))
    trainer(answers, ConfusionPicture(max_classes=20)).fit(model, datamodule=data)
    assert [image.step for image in events().Images(TAG)] == [3, 6]
    names = data.class_names("val")
    assert names[:3] == ["val0", "val0, turned by 90°", "val0, turned by 180°"] and len(names) == 20
    for collected, drawing in zip(answers.collected[1:], drawn, strict=True):  # 0: the check
        answered, _, shown, examples, figure = drawing
        true, taken_for = [], []
        for number, (predictions, labels) in enumerate(collected):
            classes = data.fixed_classes("val", number)[0]
            true += [names[classes[label]] for label in labels]
            taken_for += [names[classes[label]] for label in predictions]
        expected = confusion_matrix(true, taken_for, labels=shown)
        assert answered.tolist() == expected.tolist()
        assert examples.shape == (len(shown), 1, 16, 16)
        wrong = {name for pair in zip(true, taken_for, strict=True) if pair[0] != pair[1] for name in pair}
        assert set(shown) == wrong
        share = np.mean([one == other for one, other in zip(true, taken_for, strict=True)])
        told = f"{len(wrong)} most confused of 20 classes; {share:.1%} of {len(true)} queries right"
        assert figure.get_suptitle() == told


def test_nothing_where_a_validation_step_of_ones_own_gives_no_logits(patterns, trainer, events):
    class Own(ProtoNet):
        def validation_step(self, batch, batch_idx):
            return {"loss": super().validation_step(batch, batch_idx)["loss"]}

    trainer(ConfusionPicture()).fit(Own(image_shape=(1, 16, 16)), datamodule=patterns())
    assert TAG not in events().Tags()["images"]


def test_the_most_confused_pairs_come_first_and_side_by_side():
    answered = np.diag([9] * 6)
    answered[0, 4], answered[4, 0], answered[2, 1], answered[1, 5] = 3, 4, 5, 1
    assert most_confused(answered, 6) == [0, 4, 1, 2, 5]
    assert most_confused(answered, 4) == [0, 4, 1, 2]
    assert most_confused(answered, 3) == [0, 4]
    assert most_confused(np.diag([9] * 6), 6) == []


def test_cells_hold_shares_of_the_queries_that_could_be_confused():
    answered, offered = np.array([[6, 2, 0], [0, 4, 0], [0, 0, 3]]), np.array([[8, 4, 0], [5, 5, 5], [0, 3, 3]])
    figure = confusion_figure(answered, offered, ["a", "b" * 40, "c"], torch.rand(3, 1, 8, 8))
    (axes,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}  # by (column, row)
    expected = {(0, 0): "75", (1, 0): "50", (0, 1): "0", (1, 1): "80", (2, 1): "0", (1, 2): "0", (2, 2): "100"}
    assert cells == expected  # (2, 0) and (0, 2) never met
    assert {text.get_text() for text in axes.texts if text.get_color() != "black"} == {"0"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "…" + "b" * 31, "c"]
    assert len(axes.images) == 3 + 2 * 3
    assert figure_pixels(figure).shape[2] == 3


def test_nothing_where_classes_have_no_names(trainer, events):
    data = Sinusoid(num_shots=4, num_queries=6, tasks_per_batch=2, batches_per_epoch=2, num_val_episodes=4)
    model = MAML(num_ways=1, image_shape=(1, 1, 1), backbone="mlp-16", norm="none")
    trainer(ConfusionPicture()).fit(model, datamodule=data)
    assert events().Tags()["images"] == []


def test_refuses_what_would_show_nothing():
    with pytest.raises(InputError, match="at least 2"):
        ConfusionPicture(max_classes=1)
