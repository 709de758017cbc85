"""ProtoNet against its definition, learn2learn, and in mixed precision."""

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, random_episode
from torch import nn

from fewshot_pl.algorithms import ProtoNet
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.metrics import episode_accuracy


def build(**arguments):
    torch.manual_seed(0)
    return ProtoNet(**{"image_shape": IMAGE_SHAPE, "backbone": "conv4-32", **arguments})


@pytest.mark.parametrize(("distance", "theirs"), [("squared_euclidean", "euclidean"), ("cosine", "cosine")])
def test_logits_are_learn2learns(distance, theirs):
    from learn2learn.nn import PrototypicalClassifier  # seconds to import, so only here

    model = build(distance=distance).double().eval()
    episode = random_episode(dtype=torch.float64)
    for support_x, support_y, query_x, logits in zip(*episode[:3], model(episode), strict=True):
        classifier = PrototypicalClassifier(model.encode(support_x), support_y, distance=theirs)
        # learn2learn's cosine adds 1e-8 to the lengths.
        torch.testing.assert_close(logits, classifier(model.encode(query_x)), rtol=1e-10, atol=1e-7)


def test_divides_distances_by_the_dimension():
    episode = random_episode(dtype=torch.float64)
    plain, divided = (build(divide_by_dimension=flag).double().eval()(episode) for flag in (False, True))
    torch.testing.assert_close(divided * 32, plain)


def test_support_and_query_pass_together_in_training():
    # As in the authors' code, batch statistics cover both, so the queries shift the support's features.
    model = build().double().train()
    episode = random_episode(dtype=torch.float64)
    first_half = slice(0, episode.query_y.shape[1] // 2)
    fewer = episode._replace(query_x=episode.query_x[:, first_half], query_y=episode.query_y[:, first_half])
    assert not torch.allclose(model(fewer), model(episode)[:, first_half])
    joint = model.backbone(torch.cat([episode.support_x[0], episode.query_x[0]]))
    num_support = episode.support_y.shape[1]
    logits = model.logits_from_features(joint[:num_support], episode.support_y[0], joint[num_support:], NUM_WAYS)
    torch.testing.assert_close(model(episode)[0], logits)


def test_far_blobs_are_told_apart_without_error():
    model = build()
    model.backbone = nn.Flatten()
    labels = torch.arange(5).repeat(20)[None]
    centres = 10 * torch.eye(5, 8)[labels].view(1, 100, 1, 2, 4)  # 14 standard deviations between any two
    images = centres + torch.randn_like(centres)
    episode = Episode(images[:, :25], labels[:, :25], images[:, 25:], labels[:, 25:])
    assert episode_accuracy(model(episode), episode.query_y) == 1


def test_takes_tasks_of_any_number_of_ways():
    model = build()
    assert model(random_episode(num_ways=7)).shape[-1] == 7
    assert model(random_episode(num_ways=2)).shape[-1] == 2


def test_distances_are_float32_in_mixed_precision():
    model = build()
    features = torch.full((2, 64), 200.0).bfloat16()  # |f|^2 = 2,560,000: float16 would overflow, bfloat16 round by 1%
    query = features[:1] + 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits_from_features(features, torch.tensor([0, 1]), query, 2)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.full((1, 2), -64.0))


def test_learning_rate_halves_every_so_many_steps():
    model = build(learning_rate=0.5, lr_halve_every=3)
    configured = model.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    assert rates == [0.5] * 3 + [0.25] * 3 + [0.125]
    assert schedule["interval"] == "step"
    assert build().lr_halve_every == 2000  # of the authors' code
    assert isinstance(build(lr_halve_every=0).configure_optimizers(), torch.optim.Adam)


@pytest.mark.parametrize("labels", [[[0, 0, 2, 2, 2]], [[0, 1, 2, 3, 4], [0, 1, 2, 2, 0]]])
def test_a_class_without_support_is_refused_where_the_ways_are_not_known(labels):
    images = torch.rand(len(labels), 5, *IMAGE_SHAPE)
    episode = Episode(images, torch.tensor(labels), images, torch.zeros_like(torch.tensor(labels)))
    for call in (build(), build().training_losses):
        with pytest.raises(InputError, match=r"task \d of an Episode has no support image of class [13]: number"):
            call(episode)
    assert build()(episode._replace(known_ways=5)).isnan().any()  # a check would make a GPU wait
