"""A training resumes with the optimizers that it was begun with, or says why not."""

from functools import partial

import pytest
from tiny_trainings import last_checkpoint, state, trained
from torch.optim import SGD, Adam, RMSprop

from fewshot_pl.algorithms import ProtoNet
from fewshot_pl.errors import InputError
from fewshot_pl.resuming import same_optimizers

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
SLOW_SGD = partial(SGD, lr=0.01)


@pytest.fixture
def told(monkeypatch):
    sentences = []
    monkeypatch.setattr(same_optimizers, "rank_zero_info", sentences.append)
    return sentences


@pytest.fixture
def trained_by(images, tmp_path, monkeypatch, told):
    def train(optimizer, **flags):
        monkeypatch.setattr(ProtoNet, "configure_optimizers", lambda self: optimizer(self.parameters()))
        return trained(images, tmp_path, **flags)

    train(SLOW_SGD, max_epochs=1)
    return partial(train, resume_from=last_checkpoint(tmp_path))


@pytest.mark.parametrize("optimizer", [Adam, RMSprop])
def test_another_optimizer_is_refused_and_the_checkpoint_stays(optimizer, trained_by, tmp_path):
    before = last_checkpoint(tmp_path).read_bytes()
    with pytest.raises(InputError, match=rf"another optimizer than {optimizer.__name__}: pass --optimizer as in its"):
        trained_by(optimizer)
    assert last_checkpoint(tmp_path).read_bytes() == before


def test_other_settings_are_named_as_those_of_the_checkpoint_replace_them(trained_by, told, tmp_path):
    trained_by(partial(SGD, lr=0.5, momentum=0.9))
    assert told == [
        f"SGD goes on with lr 0.01 instead of 0.5, momentum 0 instead of 0.9 from {last_checkpoint(tmp_path)}"
    ]
    (optimizer,) = state(tmp_path)["optimizer_states"]
    assert optimizer["param_groups"][0]["lr"] == 0.01


def test_nothing_is_said_of_the_same_settings_or_of_a_training_from_the_start(trained_by, told):
    trained_by(SLOW_SGD)
    assert not told


def test_a_rate_that_a_schedule_has_changed_is_the_same_setting(images, tmp_path, told):
    for resumed in ({"max_epochs": 1}, {"max_epochs": 2, "resume_from": last_checkpoint(tmp_path)}):
        trained(images, tmp_path, model={"lr_halve_every": 1}, **resumed)
    assert not told


def test_a_rate_that_check_same_training_names_is_not_named_twice_but_again_when_it_is_resumed_again(
    images, tmp_path, told
):
    last = last_checkpoint(tmp_path)
    trained(images, tmp_path, max_epochs=1)
    for num_epochs, said in ((2, []), (3, [f"Adam goes on with lr 0.001 instead of 0.5 from {last}"])):
        trained(images, tmp_path, max_epochs=num_epochs, model={"learning_rate": 0.5}, resume_from=last)
        assert told == said
