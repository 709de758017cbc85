"""The inner loop against finite differences and the definitions, on a small tanh network in float64."""

import pytest
import torch
from episodes import relative_error
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from fewshot_pl.errors import InputError
from fewshot_pl.functional import inner_loop
from fewshot_pl.functional.inner_loop import adapted_parameters

NUM_WAYS = 3
INNER_LR = 0.3
KNOWN_FROM_2_12 = pytest.mark.skipif(torch.__version__ < "2.12", reason="torch.func.grad is 0 in inference mode")


@pytest.fixture
def task():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 9, 4, dtype=torch.float64, generator=generator)
    labels = torch.arange(NUM_WAYS).repeat(3)
    return (images[0], labels), (images[1], labels)


@pytest.fixture
def theta():
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden": (4, 5), "hidden_bias": (5,), "head": (5, NUM_WAYS), "head_bias": (NUM_WAYS,)}
    return {
        name: torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for name, shape in shapes.items()
    }


def loss_of(theta, images, labels):
    hidden = torch.tanh(images @ theta["hidden"] + theta["hidden_bias"])
    return F.cross_entropy(hidden @ theta["head"] + theta["head_bias"], labels)


def meta_loss(theta, task, num_steps, first_order=False):
    support, query = task
    phi = adapted_parameters(lambda point: loss_of(point, *support), theta, INNER_LR, num_steps, first_order)
    return loss_of(phi, *query)


def gradient(loss, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))])


def central_differences(function, theta, step=1e-5):
    """The gradient of a function of the parameters, one coordinate after the other."""
    slopes = []
    with torch.no_grad():
        for value in theta.values():
            for index in range(value.numel()):
                coordinate = value.view(-1)[index : index + 1]
                centre = coordinate.clone()
                above, below = (function(theta) for _ in (coordinate.copy_(centre + s) for s in (step, -step)))
                coordinate.copy_(centre)
                slopes.append((above - below) / (2 * step))
    return torch.stack(slopes)


def test_meta_gradient_is_that_of_central_differences(theta, task):
    exact = gradient(meta_loss(theta, task, num_steps=3), theta)
    numerical = central_differences(lambda point: meta_loss(point, task, num_steps=3), theta)
    assert relative_error(exact, numerical) < 1e-6


NORMS = {
    "batch": lambda: nn.BatchNorm1d(5, track_running_stats=False),
    "layer": lambda: nn.LayerNorm(5),
    "instance": lambda: nn.Sequential(
        nn.Unflatten(1, (5, 1)), nn.Linear(1, 3), nn.InstanceNorm1d(5, affine=True), nn.Softplus(), nn.Flatten()
    ),
    "attention": lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), SelfAttention(), nn.Flatten()),
}


class SelfAttention(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x.mT, x.mT, x.mT)


@pytest.mark.parametrize("mapped", [False, True], ids=["loop", "vmap"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", NORMS)
def test_meta_gradient_through_torchs_norms_and_attention(kind, recompute, mapped, task):
    """Whose own second derivatives torch lacks, or gets wrong under vmap."""
    torch.manual_seed(0)
    width = 15 if kind == "instance" else 5
    net = nn.Sequential(nn.Linear(4, 5), NORMS[kind](), nn.Softplus(), nn.Linear(width, NUM_WAYS)).double()
    theta = dict(net.named_parameters())
    (support_x, labels), (query_x, _) = task

    def loss_at(point, images):
        return F.cross_entropy(functional_call(net, point, (images,)), labels)

    def loss(point, support_x, query_x):
        return loss_at(adapted_parameters(loss_at, point, 1.0, 3, data=(support_x,), recompute=recompute), query_x)

    def mean_loss(point):
        inputs = torch.stack([support_x, query_x]), torch.stack([query_x, support_x])
        if mapped:
            return vmap(lambda *images: loss(point, *images))(*inputs).mean()
        return torch.stack([loss(point, *images) for images in zip(*inputs, strict=True)]).mean()

    numerical = central_differences(mean_loss, theta)
    assert relative_error(gradient(mean_loss(theta), theta), numerical) < 1e-6


def test_first_order_gradient_differs_from_the_meta_gradient(theta, task):
    second_order = gradient(meta_loss(theta, task, num_steps=3), theta)
    first_order = gradient(meta_loss(theta, task, num_steps=3, first_order=True), theta)
    assert relative_error(first_order, second_order) > 0.05


@pytest.mark.parametrize("by_autograd", [False, True])
def test_first_order_gradients_are_constants_with_respect_to_anything(by_autograd):
    scale = torch.tensor(2.0, requires_grad=True)
    start = {"x": torch.ones(3)}
    settings = {"first_order": True, "by_autograd": by_autograd}
    adapted = adapted_parameters(lambda point: (scale * point["x"] ** 2).sum(), start, 0.1, 2, **settings)["x"]
    torch.testing.assert_close(adapted, torch.full((3,), 0.6**2))
    assert not adapted.requires_grad


@pytest.mark.parametrize("first_order", [False, True])
def test_no_step_is_joint_training(theta, task, first_order):
    joint = gradient(loss_of(theta, *task[1]), theta)
    assert torch.equal(gradient(meta_loss(theta, task, 0, first_order), theta), joint)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_first_order_gradient_is_that_at_the_adapted_point(theta, task, num_steps):
    support, query = task
    phi = adapted_parameters(lambda point: loss_of(point, *support), theta, INNER_LR, num_steps)
    phi = {name: value.detach().requires_grad_() for name, value in phi.items()}
    assert torch.equal(
        gradient(meta_loss(theta, task, num_steps, first_order=True), theta), gradient(loss_of(phi, *query), phi)
    )


@pytest.mark.parametrize("first_order", [False, True])
def test_steps_are_those_of_torch_sgd(theta, task, first_order):
    support, _ = task
    phi = adapted_parameters(lambda point: loss_of(point, *support), theta, INNER_LR, 4, first_order)
    trained = {name: value.detach().clone().requires_grad_() for name, value in theta.items()}
    sgd = torch.optim.SGD(trained.values(), lr=INNER_LR)
    for _ in range(4):
        sgd.zero_grad()
        loss_of(trained, *support).backward()
        sgd.step()
    torch.testing.assert_close(phi, trained, rtol=0, atol=1e-14)


def test_labels_permuted_with_the_head_leave_the_loss(theta, task):
    order = torch.tensor([2, 0, 1])
    inverse = order.argsort()
    renamed = tuple((images, inverse[labels]) for images, labels in task)
    reordered = {**theta, "head": theta["head"][:, order], "head_bias": theta["head_bias"][order]}
    torch.testing.assert_close(meta_loss(reordered, renamed, 3), meta_loss(theta, task, 3), rtol=0, atol=1e-14)
    assert not torch.allclose(meta_loss(theta, renamed, 3), meta_loss(theta, task, 3))


@pytest.mark.parametrize("autograd_off", [torch.no_grad, pytest.param(torch.inference_mode, marks=KNOWN_FROM_2_12)])
def test_adapts_where_autograd_is_off(theta, task, autograd_off):
    with_autograd = meta_loss(theta, task, 3)
    with autograd_off():
        without = meta_loss(theta, task, 3)
    assert not without.requires_grad
    torch.testing.assert_close(without, with_autograd.detach(), rtol=0, atol=0)


def test_inference_mode_is_refused_where_torch_has_no_gradients_in_it(theta, task, monkeypatch):
    monkeypatch.setattr(inner_loop, "GRADS_IN_INFERENCE_MODE", False)
    meta_loss(theta, task, 3)
    with torch.inference_mode(), pytest.raises(InputError, match="no gradients in inference mode"):
        meta_loss(theta, task, 3)


def test_the_starting_point_is_not_touched(theta, task):
    before = {name: value.detach().clone() for name, value in theta.items()}
    meta_loss(theta, task, 3).backward()
    assert all(torch.equal(theta[name], before[name]) for name in theta)


@pytest.mark.parametrize("by_autograd", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
def test_every_way_of_taking_gradients_gives_the_same(theta, task, by_autograd, recompute, first_order):
    if by_autograd and recompute:
        pytest.skip("what is recomputed is transformed, and autograd itself cannot be")
    theta["unused"] = torch.ones(2, dtype=torch.float64, requires_grad=True)
    support, query = task
    phi = adapted_parameters(
        loss_of, theta, INNER_LR, 3, first_order, data=support, recompute=recompute, by_autograd=by_autograd
    )
    expected = meta_loss(theta, task, 3, first_order)
    torch.testing.assert_close(loss_of(phi, *query), expected, rtol=0, atol=1e-14)
    del theta["unused"]
    found, reference = gradient(loss_of(phi, *query), theta), gradient(expected, theta)
    torch.testing.assert_close(found, reference, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("arguments", "num_calls"), [({}, 2), ({"recompute": False}, 2), ({"recompute": True}, 4)])
def test_only_what_is_asked_for_is_computed_again(theta, task, arguments, num_calls):
    calls = []

    def counted_loss(*inputs):
        calls.append(1)
        return loss_of(*inputs)

    phi = adapted_parameters(counted_loss, theta, INNER_LR, 2, data=task[0], **arguments)
    loss_of(phi, *task[1]).backward()
    assert len(calls) == num_calls
    torch.testing.assert_close(theta["head"].grad, torch.autograd.grad(meta_loss(theta, task, 2), theta["head"])[0])


def learning_rates(kind, theta):
    """A learning rate for all parameters, or one for each: scalars, and tensors of the parameters' shapes."""
    if kind == "scalar":
        return nn.Parameter(torch.tensor(INNER_LR, dtype=torch.float64))
    sizes = {name: value.shape if name.startswith("hidden") else () for name, value in theta.items()}
    return {name: nn.Parameter(0.1 + 0.4 * torch.rand(size, dtype=torch.float64)) for name, size in sizes.items()}


@pytest.mark.parametrize("kind", ["scalar", "of each parameter"])
@pytest.mark.parametrize("way", [{}, {"recompute": True}, {"by_autograd": True}])
def test_learning_rates_are_learned(theta, task, kind, way):
    torch.manual_seed(0)
    support, query = task
    rates = learning_rates(kind, theta)
    learned = {**theta, **({"rate": rates} if kind == "scalar" else {f"{name} rate": r for name, r in rates.items()})}

    def loss(_):
        phi = adapted_parameters(loss_of, theta, rates, 3, data=support, **{"by_autograd": False, **way})
        return loss_of(phi, *query)

    assert relative_error(gradient(loss(learned), learned), central_differences(loss, learned)) < 1e-6


@pytest.mark.parametrize("recompute", [False, True])
def test_learning_rates_are_learned_under_vmap(theta, task, recompute):
    torch.manual_seed(0)
    (images, labels), query = task
    rates = learning_rates("of each parameter", theta)

    def loss(images):
        phi = adapted_parameters(loss_of, theta, rates, 3, data=(images, labels), recompute=recompute)
        return loss_of(phi, *query)

    tasks = torch.stack([images, -images])
    torch.testing.assert_close(
        gradient(vmap(loss)(tasks).sum(), rates), gradient(loss(tasks[0]) + loss(tasks[1]), rates)
    )


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("by_autograd", [False, True])
def test_a_learning_rate_of_each_parameter_is_the_one_it_takes(theta, task, first_order, by_autograd):
    def adapted(inner_lr):
        return adapted_parameters(loss_of, theta, inner_lr, 1, first_order, data=task[0], by_autograd=by_autograd)

    rates = {name: torch.tensor(rate) for rate, name in enumerate(theta)}
    for name, value in adapted(rates).items():
        torch.testing.assert_close(value, adapted(float(rates[name]))[name], rtol=0, atol=1e-14)


def test_a_parameter_without_a_learning_rate_is_refused(theta, task):
    rates = {name: torch.tensor(INNER_LR) for name in theta if name != "head_bias"}
    with pytest.raises(InputError, match="no learning rate of head_bias: give one for each parameter"):
        adapted_parameters(loss_of, theta, rates, 1, data=task[0])
