"""MatchingNet against its definition, and its full context against torch's own LSTMs, in float64."""

import math

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, random_episode
from torch import nn
from torch.nn import functional as F

from fewshot_pl.algorithms import MatchingNet
from fewshot_pl.errors import InputError

FLOAT64 = torch.float64
NUM_FEATURES = 32


def build(**arguments):
    torch.manual_seed(0)
    return MatchingNet(**{"image_shape": IMAGE_SHAPE, "backbone": "conv4-32", **arguments}).double().eval()


def random_features(num_support, num_queries=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_support + num_queries, NUM_FEATURES, dtype=FLOAT64, generator=generator)
    return features[:num_support], features[num_support:]


def cosines_of(query_f, support_f):
    return F.cosine_similarity(query_f[:, None], support_f[None], dim=-1)


def without_recurrent_weights(model):
    with torch.no_grad():
        for context in (model.support_context, model.query_context):
            for parameter in context.parameters():
                parameter.zero_()
    return model


# Attention -------------------------------------------------------------------------------------------


def test_one_shot_is_the_softmax_over_cosines():
    support_f, query_f = random_features(NUM_WAYS)
    labels = torch.tensor([2, 0, 1])
    logits = build().logits_from_features(support_f, labels, query_f, NUM_WAYS)
    expected = cosines_of(query_f, support_f).softmax(-1)[:, labels.argsort()]
    torch.testing.assert_close(logits.softmax(-1), expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(logits.exp(), expected, rtol=0, atol=1e-15)


def test_unequal_shots_follow_equation_1():
    labels = torch.tensor([0, 1, 1, 2, 1, 0])
    support_f, query_f = random_features(len(labels))
    probabilities = cosines_of(query_f, support_f).softmax(-1) @ F.one_hot(labels, NUM_WAYS).double()
    logits = build().logits_from_features(support_f, labels, query_f, NUM_WAYS)
    torch.testing.assert_close(logits, probabilities.log(), rtol=0, atol=1e-14)
    means = torch.stack([cosines_of(query_f, support_f)[:, labels == way].mean(-1) for way in range(NUM_WAYS)], -1)
    assert not torch.allclose(logits.softmax(-1), means.softmax(-1)), "attention is not a softmax over class means"


def test_loss_is_the_negative_log_likelihood():
    model, episode = build(), random_episode(dtype=FLOAT64)
    probabilities = model(episode).exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]), rtol=0, atol=1e-14)
    likelihoods = probabilities.gather(-1, episode.query_y[..., None])
    loss = model.training_losses(episode)["loss"]
    torch.testing.assert_close(loss, -likelihoods.log().mean(), rtol=0, atol=1e-14)
    twice = F.cross_entropy(probabilities.flatten(0, 1), episode.query_y.flatten())  # a softmax of probabilities
    assert (loss - twice).abs() > 1e-3


def test_a_support_given_twice_changes_nothing():
    labels = torch.arange(NUM_WAYS).repeat(2)
    support_f, query_f = random_features(len(labels))
    once = build().logits_from_features(support_f, labels, query_f, NUM_WAYS)
    twice = build().logits_from_features(support_f.repeat(2, 1), labels.repeat(2), query_f, NUM_WAYS)
    torch.testing.assert_close(twice, once, rtol=0, atol=1e-15)
    one_class_twice = torch.cat([support_f, support_f[labels == 0]]), torch.cat([labels, labels[labels == 0]])
    assert not torch.allclose(build().logits_from_features(*one_class_twice, query_f, NUM_WAYS), once)


def test_lengths_of_features_do_not_matter_but_their_direction_does():
    labels = torch.arange(NUM_WAYS).repeat(2)
    support_f, query_f = random_features(len(labels))
    logits = build().logits_from_features(support_f, labels, query_f, NUM_WAYS)
    lengths = torch.linspace(0.1, 9, len(labels), dtype=FLOAT64)[:, None]
    scaled = build().logits_from_features(support_f * lengths, labels, query_f * 7, NUM_WAYS)
    torch.testing.assert_close(scaled, logits, rtol=0, atol=1e-14)
    assert not torch.allclose(build().logits_from_features(-support_f, labels, query_f, NUM_WAYS), logits)


@pytest.mark.parametrize(
    ("num_ways", "others", "probability"), [(5, -1, 0.649), (20, -1, 0.280), (5, 0, 0.405), (20, 0, 0.125)]
)
def test_confidence_is_capped_without_a_scale(num_ways, others, probability):
    # The best case: cosine 1 with the right class, and -1 (0 behind a ReLU) with the others.
    query_f = F.one_hot(torch.tensor([0]), NUM_FEATURES).double()
    support_f = torch.cat([query_f, others * query_f.repeat(num_ways - 1, 1)])
    if others == 0:
        support_f[1:, 1] = 1
    labels = torch.arange(num_ways)
    logits = build().logits_from_features(support_f, labels, query_f, num_ways)
    assert logits.exp()[0, 0].item() == pytest.approx(probability, abs=5e-4)
    scaled = build(learnable_scale=True)
    torch.testing.assert_close(scaled.logits_from_features(support_f, labels, query_f, num_ways), logits)
    nn.init.constant_(scaled.log_scale, math.log(30))
    assert scaled.logits_from_features(support_f, labels, query_f, num_ways).exp()[0, 0] > 0.999


def test_cosines_are_float32_in_mixed_precision():
    support_f, query_f = (features.bfloat16() for features in random_features(2))
    model = build().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits_from_features(support_f, torch.arange(2), query_f, 2)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, cosines_of(query_f.float(), support_f.float()).log_softmax(-1))


# Full context ----------------------------------------------------------------------------------------


def test_full_context_without_recurrent_weights_is_the_plain_model():
    episode = random_episode(dtype=FLOAT64)
    plain, contextual = build(), build(full_context=True)
    assert not torch.allclose(contextual(episode), plain(episode))
    for context in (contextual.support_context, contextual.query_context):  # start near zero
        assert all(0.005 < -weight.min() < 0.01 and 0.005 < weight.max() < 0.01 for weight in context.parameters())
    in_class_order = episode.support_y.argsort(stable=True)
    support_x = torch.stack([x[order] for x, order in zip(episode.support_x, in_class_order, strict=True)])
    episode = episode._replace(support_x=support_x, support_y=episode.support_y.sort().values)
    assert torch.equal(without_recurrent_weights(contextual)(episode), plain(episode))


def test_g_is_torchs_bidirectional_lstm_with_a_skip():
    context = build(full_context=True).support_context
    lstm = nn.LSTM(NUM_FEATURES, NUM_FEATURES, bidirectional=True, dtype=FLOAT64)
    with torch.no_grad():
        for ours, suffix in (("forward", ""), ("backward", "_reverse")):
            inputs, recurrent = getattr(context, f"{ours}_inputs"), getattr(context, f"{ours}_recurrent")
            getattr(lstm, f"weight_ih_l0{suffix}").copy_(inputs.weight)
            getattr(lstm, f"weight_hh_l0{suffix}").copy_(recurrent.weight)
            getattr(lstm, f"bias_ih_l0{suffix}").copy_(inputs.bias)
            getattr(lstm, f"bias_hh_l0{suffix}").zero_()
    support_f, _ = random_features(7)
    ahead, back = lstm(support_f)[0].chunk(2, -1)
    torch.testing.assert_close(context(support_f), ahead + back + support_f, rtol=0, atol=1e-14)


@pytest.mark.parametrize("first_read_out", ["zero", "mean"])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_f_is_the_recurrence_of_the_paper(num_steps, first_read_out):
    # To the gates, r concatenated with h (the paper) and with the input (as torch's cell needs it) are the same.
    context = build(full_context=True, num_context_steps=num_steps, first_read_out=first_read_out).query_context
    cell = nn.LSTMCell(2 * NUM_FEATURES, NUM_FEATURES, dtype=FLOAT64)
    of_hidden, of_read_out = context.recurrent.weight.detach().chunk(2, -1)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([context.inputs.weight, of_read_out], -1))
        cell.weight_hh.copy_(of_hidden)
        cell.bias_ih.copy_(context.inputs.bias)
        cell.bias_hh.zero_()
    support_g, query_f = random_features(6)
    for features, embedding in zip(query_f, context(query_f, support_g), strict=True):
        hidden = memory = torch.zeros(NUM_FEATURES, dtype=FLOAT64)
        read_out = hidden if first_read_out == "zero" else support_g.mean(0)
        for _ in range(num_steps):
            without_skip, memory = cell(torch.cat([features, read_out]), (hidden, memory))
            hidden = without_skip + features
            read_out = (support_g @ hidden).softmax(0) @ support_g
        torch.testing.assert_close(embedding, hidden, rtol=0, atol=1e-14)


def test_f_does_not_depend_on_the_order_of_g_and_g_depends_on_that_of_the_support():
    model = build(full_context=True)
    support_f, query_f = random_features(6)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    support_g = model.support_context(support_f)
    permuted = model.query_context(query_f, support_g[order])
    torch.testing.assert_close(permuted, model.query_context(query_f, support_g), rtol=0, atol=1e-15)
    assert (model.support_context(support_f[order]) - support_g[order]).abs().max() > 1e-2


def test_f_sees_the_support_from_the_second_step():
    support_g, query_f = random_features(6)
    for num_steps, moved in ((1, False), (2, True)):
        context = build(full_context=True, num_context_steps=num_steps).query_context
        assert torch.equal(context(query_f, support_g), context(query_f, 2 * support_g)) is not moved


def test_context_reads_classes_in_the_order_of_their_labels():
    model = build(full_context=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    support_f, query_f = random_features(len(labels))
    logits = model.logits_from_features(support_f, labels, query_f, NUM_WAYS)
    mixed = torch.tensor([2, 4, 0, 3, 1, 5])  # keeps the order within each class
    torch.testing.assert_close(
        model.logits_from_features(support_f[mixed], labels[mixed], query_f, NUM_WAYS), logits, rtol=0, atol=0
    )
    swapped = torch.tensor([1, 0, 2, 3, 4, 5])  # changes the order within class 0
    assert not torch.allclose(model.logits_from_features(support_f[swapped], labels, query_f, NUM_WAYS), logits)


def test_context_is_in_the_precision_of_its_weights():
    support_f, query_f = (features.bfloat16() for features in random_features(3))
    for model in (build(full_context=True).float(), build(full_context=True).bfloat16()):
        with torch.autocast(
            "cpu", dtype=torch.bfloat16, enabled=model.support_context.forward_inputs.bias.dtype == torch.float32
        ):
            logits = model.logits_from_features(support_f, torch.arange(3), query_f, 3)
        assert logits.dtype == torch.float32 and logits.isfinite().all()


def test_context_takes_at_least_one_step():
    with pytest.raises(InputError, match="num_context_steps"):
        build(full_context=True, num_context_steps=0)
