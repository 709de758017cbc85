"""Gradient descent on a task, as a differentiable function of the starting point."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fewshot_pl.errors import InputError
from fewshot_pl.functional.recomputed import recomputed

Parameters = dict[str, Tensor]
GRADS_IN_INFERENCE_MODE = torch.__version__ >= "2.12"  # before, torch.func.grad is 0 there


def adapted_parameters(
    loss: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    inner_lr: float,
    num_steps: int,
    first_order: bool = False,
    *,
    data: tuple[Tensor, ...] = (),
    recompute: bool = False,
    plain: bool = False,
) -> Parameters:
    """The parameters after ``num_steps`` of gradient descent on ``loss`` (Finn et al. 2017, equation 1).

    The result is differentiable with respect to ``parameters``, where autograd is on; with ``first_order`` every inner
    gradient counts as a constant.

    Args:
        loss: of the parameters and ``data``.
        parameters: where to start.
        inner_lr: of the descent.
        num_steps: of the descent.
        first_order: see above.
        data: what ``loss`` takes after the parameters; with ``recompute`` it must hold all tensors it depends on.
        recompute: keep only the parameters of each step for the backward pass, and make the step again there.
        plain: see ``inner_gradients``.
    """
    names = list(parameters)
    constant = first_order or not torch.is_grad_enabled()

    def stepped(*inputs: Tensor) -> tuple[Tensor, ...]:
        values, data = inputs[: len(names)], inputs[len(names) :]

        def loss_at(point: Sequence[Tensor]) -> tuple[Tensor]:
            return (loss(dict(zip(names, point, strict=True)), *data),)

        gradients, _ = inner_gradients(loss_at, values, constant=constant, plain=plain)
        if plain:  # a call for all, which vmap does not know
            return tuple(torch._foreach_add(values, torch._foreach_mul(gradients, -inner_lr)))
        return tuple(value - inner_lr * gradient for value, gradient in zip(values, gradients, strict=True))

    values = tuple(parameters.values())
    for _ in range(num_steps):
        values = recomputed(stepped, *values, *data) if recompute else stepped(*values, *data)
    return dict(zip(names, values, strict=True))


def inner_gradients(
    loss: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], point: Sequence[Tensor], *, constant: bool, plain: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The gradients of a loss at a point, and as constants what else ``loss`` gives.

    ``torch.func.grad`` takes them, so this also works under its transforms and where autograd is off.

    Args:
        loss: of the tensors of a point, to a scalar and any other tensors.
        point: where.
        constant: the gradients are constants, or else functions of the point and of what else the loss depends on.
        plain: let autograd take the gradients, which is faster where it can: nothing is transformed, and no tensor is
            of inference mode.

    Raises:
        InputError: in inference mode before torch 2.12, unless ``plain``.
    """
    start = tuple(value.detach() for value in point) if constant else tuple(point)

    def loss_and_more(point: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        value, *more = loss(point)
        return value, tuple(more)

    if plain:
        with torch.enable_grad():
            # Steps are taken by what is frozen too, as torch.func takes them.
            leaves = (value if constant or value.requires_grad else value.detach() for value in start)
            start = tuple(value.requires_grad_() for value in leaves)
            found, more = loss_and_more(start)
            gradients = torch.autograd.grad(found, start, create_graph=not constant, materialize_grads=True)
    else:
        if torch.is_inference_mode_enabled() and not GRADS_IN_INFERENCE_MODE:
            raise InputError(
                "before torch 2.12 there are no gradients in inference mode: adapt within torch.no_grad() in its place"
            )
        gradients, more = torch.func.grad(loss_and_more, has_aux=True)(start)
    return gradients, tuple(values.detach() for values in more)
