"""Loading a checkpoint by a class: its own, a subclass, and another one."""

import pytest
import torch

from fewshot_pl import InputError
from fewshot_pl.algorithms import MAML, MatchingNet, ProtoNet, Reptile


class Mine(ProtoNet):
    """A user's variant."""


@pytest.mark.parametrize(
    ("stored", "other"), [("ProtoNet", MAML), ("MatchingNet", ProtoNet), ("PLATIPUS", MAML), ("MAML", Reptile)]
)
def test_another_class_is_told_whose_checkpoint_it_is(checkpoint, stored, other):
    path = checkpoint(stored)
    with pytest.raises(InputError) as told:
        other.load_from_checkpoint(path)
    cure = "load it by fewshot_pl.load_algorithm(path)"
    assert str(told.value) == f"{path} holds a {stored} and not a {other.__name__}: {cure}"


def test_a_users_checkpoint_names_its_class(checkpoint):
    path = checkpoint()
    torch.save({**torch.load(path, weights_only=True), "algorithm": "mine.Own"}, path)
    with pytest.raises(InputError, match=r"holds a mine.Own and not a MAML: load it by Own.load_from_checkpoint"):
        MAML.load_from_checkpoint(path)


@pytest.mark.parametrize("kind", [ProtoNet, Mine])
def test_the_class_itself_and_subclasses_load(checkpoint, kind):
    path = checkpoint()
    loaded = kind.load_from_checkpoint(path, weights_only=True)
    assert type(loaded) is kind
    torch.testing.assert_close(dict(loaded.state_dict()), dict(torch.load(path, weights_only=True)["state_dict"]))


def test_other_errors_are_lightnings_own(checkpoint, tmp_path):
    path = checkpoint()
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        ProtoNet.load_from_checkpoint(path, nonsense=1)
    with pytest.raises(FileNotFoundError):
        ProtoNet.load_from_checkpoint(tmp_path / "missing.ckpt")
    with pytest.raises(TypeError, match="cannot be called on an instance"):
        ProtoNet.load_from_checkpoint(path).load_from_checkpoint(path)
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(KeyError):
        MatchingNet.load_from_checkpoint(tmp_path / "foreign.ckpt")
