"""Arguments of algorithms passed by a program that have a wrong type or are out of range."""

import math

import pytest

from fewshot_pl import MAML, PLATIPUS, LSTMMetaLearner, MatchingNet, MetaGAN, MetaSGD, ProtoNet, RelationNet, Reptile
from fewshot_pl.algorithms.arguments import at_least
from fewshot_pl.errors import InputError

TAKES = {
    MAML: {
        "inner_loss_reduction": ("sum", "one of 'sum_over_shots', 'mean'"),
        "task_parallel": ("side-by-side", "one of .*'side_by_side'"),
        "norm": ("batch", "one of 'transductive', .*'none'"),
        "num_inner_steps": (1.5, "a whole number"),
        "num_inner_steps_test": ("many", "a whole number or null"),
        "first_order": (1, "bool"),
        "inner_lr": ("fast", "a number"),
    },
    MetaSGD: {"inner_lr": ("fast", "a number or null")},
    ProtoNet: {"distance": ("euclidean", "one of 'squared_euclidean', 'cosine'")},
    Reptile: {"inner_loss_reduction": ("sum_over_shots", "one of 'sum', 'mean'")},
}
RANGES = {
    MAML: {"num_ways": 0, "task_chunk": 0, "inner_lr": -0.1, "learning_rate": math.nan, "lr_halve_every": -1},
    MetaSGD: {"inner_lr": -0.1, "num_inner_steps": 0},
    ProtoNet: {"learning_rate": math.inf},
    PLATIPUS: {"initial_deviation": 0, "kl_weight": -1, "num_samples": 0, "num_training_samples": 0},
    Reptile: {"inner_batch_size": 0, "inner_batch_size_test": 0},
    LSTMMetaLearner: {"norm_momentum": 5, "max_gradient_norm": -1, "hidden_size": 0},
    RelationNet: {"max_gradient_norm": -1},
    MatchingNet: {"num_context_steps": 0},
    MetaGAN: {"generator_width": 0, "fake_weight": -1, "generator_learning_rate": -1},
}


@pytest.mark.parametrize(
    ("algorithm", "name", "value", "words"),
    [(owner, name, *case) for owner, cases in TAKES.items() for name, case in cases.items()],
)
def test_another_type_is_refused(algorithm, name, value, words):
    with pytest.raises(InputError, match=f"^--model.{name} takes {words}, not {value}$"):
        algorithm(**{name: value})


@pytest.mark.parametrize(
    ("algorithm", "name", "value"),
    [(owner, name, value) for owner, cases in RANGES.items() for name, value in cases.items()],
)
def test_a_value_out_of_range_is_refused(algorithm, name, value):
    with pytest.raises(
        InputError, match=f"^--model.{name} must be (at least [01]|between 0(\\.0067)? and (1|2\\.7183)), not {value}$"
    ):
        algorithm(**{name: value})


def test_a_subclass_adds_ranges_to_those_of_its_bases():
    class Patient(MatchingNet):
        argument_ranges = at_least(2, "num_context_steps", "num_rounds")

        def __init__(self, num_rounds: int = 2, **kwargs):
            super().__init__(**kwargs)

    for name, least in (("num_context_steps", 2), ("num_rounds", 2), ("task_chunk", 1)):
        with pytest.raises(InputError, match=f"^--model.{name} must be at least {least}, not {least - 1}$"):
            Patient(**{name: least - 1})
