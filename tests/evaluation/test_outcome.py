"""What is written above, below and in the rows of a table of outcomes."""

from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.evaluation.files import latex
from fewshot_pl.evaluation.outcome import Difference, Outcome, caption, difference_sentence, table_rows, title

EPISODES = {"data": "Glyphs", "split": "test", "num_shots": 1, "num_episodes": 600, "episode_seed": 7}
FIGURES = {"accuracy": 0.5, "ci95": 0.01, "nll": 1.0, "ece": 0.1, "brier": 0.6}


def outcome(algorithm="ProtoNet", norm="running", ways=5, difference=None):
    """Made up; nothing here looks at the data."""
    result = {"algorithm": algorithm, "norm": norm, "num_ways": ways, **EPISODES, **FIGURES}
    return Outcome(algorithm, result, Sinusoid(), difference=difference)


def test_one_task_of_a_comparison_stands_in_the_caption_and_several_in_the_rows():
    compared = outcome("MAML", "transductive", difference=Difference(0.02, 0.025, "ProtoNet"))
    one_task = [outcome(), compared]
    several = [*one_task, outcome(ways=20), outcome("MAML", "transductive", ways=20)]
    assert title(several) == "ProtoNet and MAML on Glyphs, test split"
    norms = "norm: running (ProtoNet); transductive (MAML)"
    assert caption(one_task) == f"5-way 1-shot, 600 episodes of seed 7, {norms}"
    assert caption(several) == f"600 episodes of seed 7, {norms}"
    assert [row.get("task") for row in table_rows(one_task)] == [None, None]
    assert [row["task"] for row in table_rows(several)] == ["5-way 1-shot"] * 2 + ["20-way 1-shot"] * 2
    assert [(row["model"], row["difference"]) for row in table_rows(one_task)] == [
        ("ProtoNet", "–"),
        ("MAML", "+2.00 ± 2.50"),
    ]
    assert difference_sentence(compared).endswith(
        "5-way 1-shot: +2.00 ± 2.50 points, not larger than its 95% interval: these episodes do not tell them apart"
    )


def test_one_checkpoint_has_its_task_in_every_row_and_one_norm():
    cells = [outcome(ways=ways) for ways in (5, 20)]
    assert title(cells) == "ProtoNet on Glyphs, test split"
    assert caption(cells) == caption(cells[:1]) == "600 episodes of seed 7, norm: running"
    for row, ways in zip(table_rows(cells), (5, 20), strict=True):
        assert row["task"] == f"{ways}-way 1-shot" and not {"model", "difference"} & row.keys()


def test_one_episode_has_neither_interval_nor_verdict():
    first, second = outcome(), outcome("MAML", difference=Difference(0.02, None, "ProtoNet"))
    both = [one._replace(result={**one.result, "num_episodes": 1, "ci95": None}) for one in (first, second)]
    assert caption(both) == "5-way 1-shot, 1 episode of seed 7, norm: running"
    assert [row["95% CI"] for row in table_rows(both)] == ["–", "–"]
    assert table_rows(both)[1]["difference"] == "+2.00"
    assert difference_sentence(both[1]) == (
        "MAML less ProtoNet, 5-way 1-shot: +2.00 points, and one episode has no interval: pass a larger --num_episodes"
    )
    assert r"MAML & 5-way 1-shot & $50.00$ & $+2.00$ \\" in latex(both).splitlines()
