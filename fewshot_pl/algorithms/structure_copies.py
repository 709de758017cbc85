"""Copies of a network's structure that share its tensors, for threads that each set state on the layers."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

Parts = Mapping[nn.Module, nn.Module]  # from the parts of a network to those of its copy
_HELD = {"_parameters", "_buffers", "_modules", "_trainer"}
_NO_REFERENCES = (Tensor, str, bytes, int, float, complex, type(None), torch.dtype, torch.device, type, ModuleType)
_PLAIN = frozenset({str, bytes, int, float, bool, type(None), Tensor, nn.Parameter, torch.dtype, torch.device})
_USUAL_CONTAINERS = frozenset({tuple, OrderedDict, list, dict})
_CONTAINERS = (list, tuple, set, frozenset)
_COMPILED = "torch._dynamo", "torch.jit"  # where the classes of modules are whose code refers to the module itself
_TRAINING = "pytorch_lightning", "lightning"  # a Trainer refers to everything, and no pass of a network needs it


def structure_copies(network: nn.Module, number: int) -> list[nn.Module] | None:
    """Copies of a network and its parts that share their attributes, parameters and buffers.

    Where other attributes than submodules refer to parts of the network, such as a list of its stages or a method of a
    layer, those of a copy refer to parts of the copy. None if that cannot be: for compiled modules, closures, hooks and
    other objects that refer to parts.
    """
    parts = [part for part in network.modules() if not _is_metric(type(part))]  # type: ignore[arg-type]
    if any(type(part).__module__.startswith(_COMPILED) for part in parts):
        return None
    known = frozenset(parts)
    references = [
        (part, name, value)
        for part in parts
        for name, value in vars(part).items()
        # In this order, as nearly all attributes fail the first or second question.
        if type(value) not in _PLAIN and not _is_plain(value) and name not in _HELD and _refers(value, known)
    ]
    copied = [_copied(parts) for _ in range(number)]
    for copies in copied:
        for part, name, value in references:
            vars(copies[part])[name] = rebound = _rebound(value, copies)
            if _refers(rebound, known):
                return None
    return [copies[network] for copies in copied]


def _copied(parts: Iterable[nn.Module]) -> dict[nn.Module, nn.Module]:
    """The copies of parts, by the part, each with copies of its submodules."""
    copies = {part: part.__new__(type(part)) for part in parts}
    for part, copy in copies.items():
        vars(copy).update(vars(part))
        children = {name: child if child is None else copies.get(child, child) for name, child in part._modules.items()}
        vars(copy).update(_parameters=dict(part._parameters), _buffers=dict(part._buffers), _modules=children)
    return copies


@cache
def _is_metric(kind: type) -> bool:
    """Whether modules of this class are torchmetrics', whose functions refer to them, but which no pass needs."""
    return any(base.__module__.startswith("torchmetrics.") for base in kind.__mro__)


def _is_plain(value: Any) -> bool:
    """Whether a value is an empty container or a tuple of numbers, as most others of a layer's attributes are."""
    return value.__class__ in _USUAL_CONTAINERS and (
        not value or (value.__class__ is tuple and _PLAIN.issuperset(map(type, value)))
    )


def _refers(value: Any, parts: frozenset[nn.Module]) -> bool:
    """Whether a value is one of the parts, or refers to one by any number of steps."""
    seen: dict[int, Any] = {}
    waiting = [value]  # not by recursion, as chains may be long
    while waiting:
        found = waiting.pop()
        if isinstance(found, _NO_REFERENCES) or id(found) in seen:
            continue
        if isinstance(found, nn.Module) and found in parts:
            return True
        seen[id(found)] = found
        waiting.extend(_referents(found))
    return False


def _referents(value: Any) -> Iterator[Any]:
    """What a value refers to in one step."""
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, _CONTAINERS):
        yield from value
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, ref):
        yield value()
    elif isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if cell != CellType())  # not yet filled
        yield from (value.__defaults__, value.__kwdefaults__)
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    if not type(value).__module__.startswith(_TRAINING):
        yield from getattr(value, "__dict__", {}).values()


def _rebound(value: Any, copies: Parts) -> Any:
    """The value with the copies of parts in place of these, as far as it is made of containers and methods."""
    again = partial(_rebound, copies=copies)
    if isinstance(value, nn.Module):
        return copies.get(value, value)
    if type(value) in _CONTAINERS:
        return type(value)(map(again, value))
    if type(value) in (dict, OrderedDict):
        return type(value)((again(key), again(found)) for key, found in value.items())
    if isinstance(value, MethodType):
        return MethodType(value.__func__, again(value.__self__))
    if type(value) is partial:
        return partial(again(value.func), *map(again, value.args), **again(value.keywords))
    return value
