"""Names in LaTeX, and names of checkpoints."""

import pytest

from fewshot_pl.evaluation.contestants import _labels
from fewshot_pl.evaluation.files import escaped_latex


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 50 %", r"a\_b \& 50 \%"),
        ("{#1$}", r"\{\#1\$\}"),
        ("a\\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
    ],
)
def test_latex_prints_text_as_it_is(text, expected):
    assert escaped_latex(text) == expected


def labels(**algorithms):
    return list(_labels({path.replace("_", "/"): {"algorithm": name} for path, name in algorithms.items()}).values())


def test_checkpoints_are_called_by_their_algorithm_and_by_what_differs():
    assert labels(a="MAML", b="ProtoNet") == ["MAML", "ProtoNet"]
    same = labels(runs_0_best="MAML", runs_1_best="MAML", runs_0_last="ProtoNet")
    assert same == ["MAML 0", "MAML 1", "ProtoNet"]
    assert labels(a_x="MAML", a_b_x="MAML") == ["MAML", "MAML b"]
