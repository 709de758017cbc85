"""The LSTM Meta-Learner (Ravi and Larochelle 2017)."""

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_pl.algorithms.adaptation import learner_gradient
from fewshot_pl.algorithms.arguments import at_least
from fewshot_pl.algorithms.base import QueryPredictor
from fewshot_pl.algorithms.gradient import GradientAlgorithm
from fewshot_pl.backbones import Norm
from fewshot_pl.backbones.normalization import Statistics, given_statistics, observed_statistics
from fewshot_pl.backbones.passes import observing
from fewshot_pl.errors import InputError
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.lstm import lstm_step
from fewshot_pl.functional.meta_lstm import MetaState, initial_state, meta_cell_step, preprocessed
from fewshot_pl.functional.objectives import prediction_loss
from fewshot_pl.functional.precision import without_autocast

GateRecursion = Literal["values", "pre_activations"]


class _Stop(NamedTuple):
    """The state of the learner after some steps on a task."""

    point: Tensor  # [P] theta_t
    statistics: Statistics  # of norm episode: the running average over the passes so far, at least one


class LSTMMetaLearner(GradientAlgorithm):
    """Learn an optimiser: an LSTM whose cell state is the weights of the learner, and whose steps train it on a task.

    theta_t = f_t theta_{t-1} - i_t g_t with g_t the gradient of the support's loss L_t at theta_{t-1}; the gates f_t
    (how much of the weights to keep) and i_t (the learning rate) of each coordinate come from a second LSTM that reads
    L_t and g_t (section 3, algorithm 1). One LSTM serves all coordinates. Trained by Adam on the loss of the queries
    at theta_T, with L_t and g_t treated as constants, so there are no second derivatives. Learned: both LSTMs and
    theta_0, the learner's own parameters, batch norm's scale and shift among them. Adapted: a copy of theta_0.

    By default (norm ``episode``) batch norm uses a batch's own statistics in training. At test it normalises queries by
    a running average over the passes of the support, which starts anew with each task.

    Differs from the paper's code: by default the gates see the last gates' values, as in the paper's equations; the
    gradient is not divided by the batch size a second time; the running average starts from the first pass, not
    from 0 and 1; theta_0 starts from Xavier's distribution, zero biases and scales of 1, not from torch7's defaults
    (uniform within 1/sqrt(inputs), scales uniform in 0 to 1). Each step sees the whole support. With 5 shots the paper
    takes 5 steps, its code 8.

    Args:
        norm: where batch norm takes its statistics from; ``episode``, as in the paper, is a task's own steps.
        num_inner_steps: T, steps on the support in training and at test; the paper has 12 for 1 shot and 5 for 5 shots.
        hidden_size: H, the hidden size of the LSTM that reads losses and gradients.
        norm_eps: what batch norm adds to the variance; by default 1e-3, as in the paper's code.
        gate_recursion: compute a gate from its ``values`` in the last step, as in the paper, or from its
            ``pre_activations`` there (before the sigmoid), as in the paper's code.
        divide_by_batch: divide g_t, the gradient of a mean, once more by the number of support images, as in the code.
        norm_momentum: weight of a new batch in the running average of norm ``episode``: 0.9, or 0.95 for 5 shots.
        max_gradient_norm: scale the gradient of everything that is learned down to this norm in training, before
            ``--trainer.gradient_clip_val`` applies; 0 turns this off.
    """

    argument_ranges = at_least(1, "hidden_size") | at_least(0, "max_gradient_norm") | {"norm_momentum": (0, 1)}
    carries_statistics = True

    def __init__(
        self,
        backbone: str = "conv4-32",
        norm: Norm = "episode",
        norm_eps: float | None = 1e-3,
        num_inner_steps: int = 12,
        hidden_size: int = 20,
        gate_recursion: GateRecursion = "values",
        divide_by_batch: bool = False,
        norm_momentum: float = 0.9,
        max_gradient_norm: float = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, norm=norm, norm_eps=norm_eps, num_inner_steps=num_inner_steps, **kwargs)
        if num_inner_steps < 1:
            raise InputError("LSTMMetaLearner learns to take steps: --model.num_inner_steps must be at least 1")
        self.meta_lstm = _MetaLSTM(hidden_size, gate_recursion)
        self.divide_by_batch = divide_by_batch
        self.norm_momentum = norm_momentum
        self.max_gradient_norm = max_gradient_norm

    def predictor(self, support_x: Tensor, support_y: Tensor, num_ways: int) -> QueryPredictor:
        return partial(self._logits_after, self._stops(support_x, support_y, self.num_steps)[-1], support_x)

    def adapted(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        return self.learner.parameters_at(self._stops(support_x, support_y, num_steps)[-1].point)

    def adaptation_curve(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        stops = self._stops(support_x, support_y, self.num_steps)
        return torch.stack([self._logits_after(stop, support_x, query_x) for stop in stops])

    def _stops(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> list[_Stop]:
        """theta_0 to theta_T of one task, each with the running average over the passes of its support so far."""
        state = initial_state(self.learner.point(), self.meta_lstm.hidden_size)
        with without_autocast(support_x):  # half precision spoils small gradients
            loss, gradient, average = self.support_gradient(state.point.detach(), support_x, support_y)
            stops = [_Stop(state.point, average)]
            for step in range(num_steps):
                if step > 0:
                    loss, gradient, observed = self.support_gradient(state.point.detach(), support_x, support_y)
                    pairs = zip(average, observed, strict=True)
                    average = tuple(old.lerp(new, self.norm_momentum) for old, new in pairs)
                state = self.meta_lstm(state, loss, gradient)
                stops.append(_Stop(state.point, average))
        return stops

    def support_gradient(
        self, point: Tensor, support_x: Tensor, support_y: Tensor
    ) -> tuple[Tensor, Tensor, Statistics]:
        """The loss [] of one task's support at a point [P], its gradient [P], and the statistics of batch norm."""

        def support_loss(parameters: Parameters) -> tuple[Tensor, ...]:
            with observing(self.learner):
                logits = functional_call(self.learner, parameters, (support_x,))
            loss = prediction_loss(logits, support_y)
            return loss, loss, *observed_statistics(self.learner)

        gradient, loss, *statistics = learner_gradient(self.learner, support_loss, point)
        return loss, gradient / len(support_x) if self.divide_by_batch else gradient, tuple(statistics)

    def _logits_after(self, stop: _Stop, support_x: Tensor, query_x: Tensor) -> Tensor:
        """The logits [N*Q, N] of one task's queries."""
        parameters = self.learner.parameters_at(stop.point)
        if self.training or self.norm != "episode":
            return self.logits_at(parameters, support_x, query_x)
        with given_statistics(self.learner, stop.statistics):
            return self.logits_at(parameters, support_x, query_x)


class _MetaLSTM(nn.Module):
    """Both layers, for all coordinates; takes a step given the loss [] and the gradient [P] (section 3)."""

    def __init__(self, hidden_size: int, gate_recursion: GateRecursion) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.gate_recursion = gate_recursion
        # Layer 1 reads the preprocessed loss, the preprocessed gradient and h.
        self.weight = nn.Parameter(torch.empty(4 * hidden_size, 2 + 2 + hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        # Layer 2: the rows W_I and W_F, which multiply h, theta and the previous gate; b_I and b_F.
        self.gate_weight = nn.Parameter(torch.empty(2, hidden_size + 2))
        self.gate_bias = nn.Parameter(torch.empty(2))
        for parameter in (self.weight, self.bias, self.gate_weight):
            nn.init.uniform_(parameter, -0.01, 0.01)  # the authors' code
        with torch.no_grad():  # start near gradient descent: small learning rates, nothing forgotten
            self.gate_bias[0].uniform_(-5, -4)
            self.gate_bias[1].uniform_(4, 5)

    def forward(self, state: MetaState, loss: Tensor, gradient: Tensor) -> MetaState:
        of_loss, of_rest = torch.split(self.weight, [2, 2 + self.hidden_size], 1)
        inputs = torch.cat([preprocessed(gradient), state.hidden])  # [2 + H, P]
        # The loss is the same for all coordinates, so its term is added to the bias.
        bias = self.bias + of_loss @ preprocessed(loss)
        hidden, cell = lstm_step(torch.addmm(bias[:, None], of_rest, inputs), state.cell, dim=0)

        of_hidden, of_point, of_gate = torch.split(self.gate_weight, [self.hidden_size, 1, 1], 1)
        before = torch.addmm(self.gate_bias[:, None], of_hidden, hidden) + of_point * state.point
        before = before + of_gate * state.gates  # [2, P]
        gates = before.sigmoid()
        passed_on = gates if self.gate_recursion == "values" else before
        return MetaState(meta_cell_step(state.point, gradient, gates), passed_on, hidden, cell)
