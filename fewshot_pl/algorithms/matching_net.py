"""Matching Networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016)."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewshot_pl.algorithms.arguments import at_least
from fewshot_pl.algorithms.metric import MetricAlgorithm
from fewshot_pl.functional.attention import attention_read_out, log_class_attention
from fewshot_pl.functional.lstm import lstm_hidden_states, lstm_step
from fewshot_pl.functional.precision import at_least_float32, without_autocast
from fewshot_pl.functional.prototypes import negative_cosines


class MatchingNet(MetricAlgorithm):
    """Classify a query by its attention to the support images of each class.

    p(y = n | x) = sum_i a(x, x_i) [y_i = n] with a the softmax over all support images of cos(f(x), g(x_i))
    (equation 1). f and g are one backbone, or, with ``full_context``, recurrent embeddings on top of it that see the
    whole support (sections 2.1.2 and A). Logits are log p. Learned: backbone, recurrent weights; nothing is adapted at
    test, and the paper's optional fine-tuning on the support is left out. Inductive by default.

    As in the paper there is no temperature, so no probability exceeds e^2 / (e^2 + N - 1). If the backbone ends in a
    ReLU, cosines are not negative, and no 1-shot probability exceeds e / (e + N - 1): a 5-way loss does not fall below
    0.90. Hence conv4-signed. Differs from the paper: the last block there may end in a ReLU, since the text
    makes no exception for it; with one (``conv4``) training is far slower.

    Our choices with ``full_context``, where the paper leaves them open: g reads the support sorted by class, and within
    a class as given (in the sampler's order), in training and at test. The result therefore depends on the order within
    a class, and on which class has which label. f and g share the backbone. The first read-out r_0 is zero. Recurrent
    weights start near zero, so that training starts from the plain embeddings.

    Args:
        backbone: name of the embedding network, see ``build_backbone``.
        learnable_scale: multiply cosines by a learned positive number, initially 1. Differs from the paper.
        full_context: use full context embeddings.
        num_context_steps: number of f's attention steps, at least 1; the paper gives no number, 3 is from Ravi and
            Larochelle's code.
        first_read_out: r_0: ``zero``, or the ``mean`` of g over the support as in that code. (There r is an input of
            the LSTM, in the paper a part of the hidden state; for the gates this is the same.)
    """

    argument_ranges = at_least(1, "num_context_steps")

    def __init__(
        self,
        backbone: str = "conv4-signed",
        learnable_scale: bool = False,
        full_context: bool = False,
        num_context_steps: int = 3,
        first_read_out: Literal["zero", "mean"] = "zero",
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, **kwargs)
        self.log_scale = nn.Parameter(torch.zeros(())) if learnable_scale else None
        self.support_context = _SupportContext(self.num_features) if full_context else None
        self.query_context = (
            _QueryContext(self.num_features, num_context_steps, first_read_out) if full_context else None
        )
        for context in (self.support_context, self.query_context):
            if context is not None:
                for weight in context.parameters():
                    nn.init.uniform_(weight, -0.01, 0.01)  # with zero weights f and g are the plain embeddings

    @property
    def vectorises_features(self) -> bool:
        # vmap multiplies the LSTMs' weights with all tasks at once, and the rounding depends on their number.
        return self.support_context is None

    def logits_from_features(self, support_f: Tensor, support_y: Tensor, query_f: Tensor, num_ways: int) -> Tensor:
        with without_autocast(query_f):  # dot products of long vectors, a recurrence
            if self.support_context is not None and self.query_context is not None:
                order = support_y.argsort(stable=True)
                support_y, support_f = support_y[order], self.support_context(support_f[order])
                query_f = self.query_context(query_f, support_f)
            cosines = -negative_cosines(at_least_float32(query_f), at_least_float32(support_f))  # [N*Q, N*K]
            if self.log_scale is not None:
                cosines = cosines * self.log_scale.exp()
            return log_class_attention(cosines, support_y, num_ways)


class _SupportContext(nn.Module):
    """g: maps support features [n, D] to g(x_i, S) [n, D], by an LSTM in each direction (section A.2)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.forward_inputs = nn.Linear(num_features, 4 * num_features)
        self.backward_inputs = nn.Linear(num_features, 4 * num_features)
        self.forward_recurrent = nn.Linear(num_features, 4 * num_features, bias=False)
        self.backward_recurrent = nn.Linear(num_features, 4 * num_features, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        features = features.to(self.forward_inputs.weight.dtype)
        ahead = lstm_hidden_states(self.forward_inputs(features), self.forward_recurrent.weight)
        back = lstm_hidden_states(self.backward_inputs(features).flip(0), self.backward_recurrent.weight).flip(0)
        return ahead + back + features


class _QueryContext(nn.Module):
    """f: maps query features [n, D] and the support's g [M, D] to f(x, S) [n, D] (section A.1, equations 3 to 6)."""

    def __init__(self, num_features: int, num_steps: int, first_read_out: str) -> None:
        super().__init__()
        self.inputs = nn.Linear(num_features, 4 * num_features)
        self.recurrent = nn.Linear(2 * num_features, 4 * num_features, bias=False)  # of [h; r]
        self.num_steps = num_steps
        self.starts_from_mean = first_read_out == "mean"

    def forward(self, features: Tensor, support_g: Tensor) -> Tensor:
        features = features.to(self.inputs.weight.dtype)
        input_gates = self.inputs(features)
        hidden = cell = torch.zeros_like(features)
        read_out = support_g.mean(0).expand_as(features) if self.starts_from_mean else torch.zeros_like(features)
        for _ in range(self.num_steps):
            hidden, cell = lstm_step(input_gates + self.recurrent(torch.cat([hidden, read_out], -1)), cell)
            hidden = hidden + features
            read_out = attention_read_out(hidden, support_g)
        return hidden
