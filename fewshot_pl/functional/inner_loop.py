"""Gradient descent on a task, as a differentiable function of the starting point."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from fewshot_pl.errors import InputError
from fewshot_pl.functional.primitive_norms import right_second_derivatives
from fewshot_pl.functional.recomputed import recomputed

Parameters = dict[str, Tensor]
Rate = float | Tensor | Mapping[str, Tensor]  # one for all parameters, or one for each by its name
GRADS_IN_INFERENCE_MODE = torch.__version__ >= "2.12"  # before, torch.func.grad is 0 there


def adapted_parameters(
    loss: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    inner_lr: Rate,
    num_steps: int,
    first_order: bool = False,
    *,
    data: tuple[Tensor, ...] = (),
    recompute: bool = False,
    by_autograd: bool = False,
    written_out: bool = True,
) -> Parameters:
    """The parameters after ``num_steps`` steps of gradient descent on ``loss`` (Finn et al. 2017, equation 1).

    The result is differentiable with respect to ``parameters``, and tensors of ``inner_lr``, if autograd is on; with
    ``first_order`` every inner gradient is treated as a constant.

    Args:
        loss: a function of the parameters and ``data``.
        parameters: the starting point.
        inner_lr: the learning rate of the descent: a number, a scalar, or a tensor for each parameter by its name, such
            as a scalar or one of the parameter's shape.
        num_steps: the number of steps.
        first_order: see above.
        data: what ``loss`` takes after the parameters; with ``recompute`` it must include all tensors it depends on.
        recompute: keep only the parameters of each step for the backward pass, and recompute the step there.
        by_autograd: see ``inner_gradients``.
        written_out: for second derivatives, compute ``loss`` within ``right_second_derivatives``; False saves time
            where ``loss`` has no attention and no norms, or does so itself.
    """
    names = list(parameters)
    constant = first_order or not torch.is_grad_enabled()
    written_out = written_out and not constant
    rates = _rates(inner_lr, names)

    def stepped(*inputs: Tensor) -> tuple[Tensor, ...]:
        values, given, data = inputs[: len(names)], inputs[len(names) : num_own], inputs[num_own:]

        def loss_at(point: Sequence[Tensor]) -> tuple[Tensor]:
            with right_second_derivatives(transformed=not by_autograd) if written_out else nullcontext():
                return (loss(dict(zip(names, point, strict=True)), *data),)

        gradients, _ = inner_gradients(loss_at, values, constant=constant, by_autograd=by_autograd)
        return _step(values, gradients, given or rates, together=by_autograd)

    values = tuple(parameters.values())
    learned = rates if isinstance(rates, tuple) else ()
    num_own = len(values) + len(learned)
    for _ in range(num_steps):
        inputs = *values, *learned, *data
        values = recomputed(stepped, *inputs) if recompute else stepped(*inputs)
    return dict(zip(names, values, strict=True))


def _step(
    values: tuple[Tensor, ...], gradients: tuple[Tensor, ...], rates: float | tuple[Tensor, ...], *, together: bool
) -> tuple[Tensor, ...]:
    """The values after one step; ``together`` in one call for all, which vmap does not support, if rates are equal."""
    if isinstance(rates, tuple):
        of_each = rates if len(rates) == len(values) else rates * len(values)
        return tuple(v - rate * gradient for v, rate, gradient in zip(values, of_each, gradients, strict=True))
    if together:
        return tuple(torch._foreach_add(values, torch._foreach_mul(gradients, -rates)))
    return tuple(value - rates * gradient for value, gradient in zip(values, gradients, strict=True))


def _rates(inner_lr: Rate, names: Sequence[str]) -> float | tuple[Tensor, ...]:
    """A number, or the tensors that are learning rates: one for all parameters, or one for each."""
    if isinstance(inner_lr, Tensor):
        return (inner_lr,)
    if not isinstance(inner_lr, Mapping):
        return inner_lr
    if missing := [name for name in names if name not in inner_lr]:
        raise InputError(f"inner_lr has no learning rate of {', '.join(missing)}: give one for each parameter")
    return tuple(inner_lr[name] for name in names)


def inner_gradients(
    loss: Callable[[Sequence[Tensor]], tuple[Tensor, ...]],
    point: Sequence[Tensor],
    *,
    constant: bool,
    by_autograd: bool,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The gradients of a loss at a point, and the other outputs of ``loss`` as constants.

    They are taken by ``torch.func.grad``, which also works under torch.func transforms and with autograd off.

    Args:
        loss: a function from the tensors of a point to a scalar and any other tensors.
        point: the tensors at which to take the gradients.
        constant: return the gradients as constants, not as functions of the point and of what else the loss depends on.
        by_autograd: take the gradients by autograd instead, which is faster, but works only outside torch.func
            transforms and without tensors of inference mode.

    Raises:
        InputError: in inference mode before torch 2.12, unless ``by_autograd``.
    """
    start = tuple(value.detach() for value in point) if constant else tuple(point)

    def loss_and_more(point: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        value, *more = loss(point)
        return value, tuple(more)

    if by_autograd:
        with torch.enable_grad():
            # Frozen parameters take steps too, as with torch.func.
            leaves = (value if constant or value.requires_grad else value.detach() for value in start)
            start = tuple(value.requires_grad_() for value in leaves)
            found, more = loss_and_more(start)
            gradients = torch.autograd.grad(found, start, create_graph=not constant, materialize_grads=True)
    else:
        # Asked last, as torch.compile cannot trace the question.
        if not (GRADS_IN_INFERENCE_MODE or torch.compiler.is_compiling()) and torch.is_inference_mode_enabled():
            raise InputError(
                "before torch 2.12 there are no gradients in inference mode: adapt within torch.no_grad() in its place"
            )
        gradients, more = torch.func.grad(loss_and_more, has_aux=True)(start)
        if constant:
            gradients = tuple(gradient.detach() for gradient in gradients)
    return gradients, tuple(values.detach() for values in more)
