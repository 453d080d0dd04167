"""A model's description, as YAML holds it, to a tree of modules; and the walk that says what the tree costs.

A list is a Sequential, a text is a layer with its defaults, a one-key mapping is a layer and its arguments:

    net = build([
        {"conv2d": {"in_channels": 3, "out_channels": 16, "kernel_size": 3, "padding": 1}},
        "relu",
        {"residual": {"body": [{"conv2d": {...}}]}},
    ])

Arguments annotated `Module` hold a spec of their own; those annotated `Callable[[], Module]` a spec that is
built afresh at every call.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch

from denoise_cli.nn.arguments import SpecError, arguments_of, check_arguments, show, unknown
from denoise_cli.nn.layers.containers import Chain, Sequential, join
from denoise_cli.nn.module import Module, Reach, Shape, ShapeError
from denoise_cli.nn.registry import LAYERS

__all__ = [
    "LAYERS",
    "Row",
    "SpecError",
    "build",
    "choose",
    "construct",
    "receptive_field",
    "saved_bytes",
    "summary",
]

T = TypeVar("T")
Spec = list[Any] | str | Mapping[str, Any]

_GIVEN: WeakKeyDictionary[Module, Mapping[str, Any]] = WeakKeyDictionary()
"""The arguments that each built module was described with, for `summary` to show."""


def build(spec: Spec, path: str = "model") -> Module:
    """The module tree that a spec describes.

    Raises SpecError, a ValueError whose message starts with the path to the faulty place:
    `model[3].residual.body[1].conv2d: unknown key 'kernal_size' - did you mean 'kernel_size'?`
    """
    if isinstance(spec, list):
        if not spec:
            raise SpecError(path, "an empty list of layers")
        return Sequential(*(build(each, f"{path}[{i}]") for i, each in enumerate(spec)))
    name, arguments = choose(LAYERS, spec, path, kind="layer")
    module = construct(LAYERS[name], arguments, f"{path}.{name}")
    plain = [each.name for each in arguments_of(LAYERS[name]) if not each.nests]
    _GIVEN[module] = {each: arguments[each] for each in plain if arguments and each in arguments}
    return module


def choose(known: Mapping[str, Any], spec: Any, path: str, *, kind: str) -> tuple[str, Any]:
    """(name, arguments) of a spec that is a name, or a one-key mapping of a name to its arguments."""
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, arguments = next(iter(spec.items()))
    elif isinstance(spec, Mapping) and len(spec) > 1 and next(iter(spec.values())) is None:
        name = next(iter(spec))
        raise SpecError(path, f"indent the arguments of {show(name)} further than its name")
    elif isinstance(spec, str):
        name, arguments = spec, None
    else:
        raise SpecError(
            path, f"should be a {kind}'s name, or {{name: {{argument: value}}}}, not {show(spec)}"
        )
    if name not in known:
        raise SpecError(path, unknown(kind, name, known))
    return name, arguments


def construct(cls: type[T], given: Any, path: str, *supplied: Any) -> T:
    """`cls(*supplied, **given)` with `given` as YAML gives it: checked by the signature, nested specs built.

    Raises SpecError with the path, for what the class itself refuses too.
    """
    arguments = check_arguments(cls, given, path, supplied=len(supplied))
    for argument in arguments_of(cls, len(supplied)):
        if argument.name in arguments and argument.holds_module:
            arguments[argument.name] = build(arguments[argument.name], f"{path}.{argument.name}")
        elif argument.name in arguments and argument.holds_factory:
            arguments[argument.name] = _factory(arguments[argument.name], f"{path}.{argument.name}")
    try:
        return cls(*supplied, **arguments)
    except SpecError:
        raise
    except (ValueError, RuntimeError) as error:  # RuntimeError: torch cannot make a tensor of that size
        raise SpecError(path, str(error).split("\n")[0]) from error


def _factory(spec: Any, path: str) -> Callable[[], Module]:
    return lambda: build(spec, path)


# What a tree costs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One module of a tree, in the order of the walk.

    `arguments` are those it was described with. `parameters` (how many numbers it learns) and `macs` (of one
    forward) are its own, without those of the rows inside it, so that columns can be summed. `reach` is that
    of the network up to and including it. `depth` counts the containers around it.

    After the row of a container come those inside it: the last row need not be the end of the network.
    """

    path: str
    name: str
    arguments: Mapping[str, Any]
    output_shape: Shape
    parameters: int
    macs: int
    reach: Reach
    depth: int


def receptive_field(reach: Reach) -> int | None:
    """The side of the square of input pixels that an output pixel may see, at most; None: all of them."""
    side = 2 * reach.margin + max(1.0, float(reach.step))
    return None if math.isinf(side) else math.ceil(side)


def summary(net: Module, input_shape: Shape, path: str = "model") -> list[Row]:
    """What each module does to an input of this shape, without computing it.

    Raises ShapeError with the path of the first module that does not fit.
    """
    root = path if isinstance(net, Sequential) else f"{path}.{net.yaml_name}"
    try:
        shapes = _trace(net, "output_shape", input_shape)
    except ShapeError as error:
        raise error.inside(root) from None
    reaches = _trace(net, "reach", Reach())

    def rows(module: Module, path: str, depth: int) -> Iterator[Row]:
        steps = [(step, child) for step, child in _children(module) if child in shapes]
        if not isinstance(module, Sequential):
            (shape, output_shape), (_, reach) = shapes[module], reaches[module]
            parameters = _count(module) - sum(_count(child) for _, child in steps)
            macs = module.macs(shape) - sum(child.macs(shapes[child][0]) for _, child in steps)
            given = _GIVEN.get(module, {})
            yield Row(path, module.yaml_name, given, output_shape, parameters, macs, reach, depth)
            depth += 1
        for step, child in steps:
            yield from rows(child, join(path, step), depth)

    return list(rows(net, root, 0))


def _children(module: Module) -> Iterator[tuple[str, Module]]:
    """The modules directly inside, each with the way to it as errors tell it."""
    if isinstance(module, Chain):
        yield from zip(module.steps(), module.layers, strict=True)
    else:
        yield from module.children()


def _count(module: Module) -> int:
    return sum(value.numel() for value, _ in module.param())


def _trace(net: Module, method: str, argument: T) -> dict[Module, tuple[T, T]]:
    """What `method` of every module was asked and answered while `net` was asked for `argument`.

    Containers hand shapes and reaches from child to child in their own ways; listening to them is how
    `summary` works for every container, those written later included.
    """
    heard: dict[Module, tuple[T, T]] = {}

    def listen(module: Module) -> None:
        ask = getattr(module, method)

        def asked(argument: T) -> T:
            answer: T = ask(argument)
            heard[module] = (argument, answer)
            return answer

        vars(module)[method] = asked

    modules = list(net.modules())
    for module in modules:
        listen(module)
    try:
        getattr(net, method)(argument)
    finally:
        for module in modules:
            vars(module).pop(method, None)
    return heard


def saved_bytes(net: Module, input_shape: Shape) -> int:
    """How many bytes a forward in training keeps for the backward, measured on an input of zeros."""
    was_training = net.training
    net.train().forward(torch.zeros(input_shape).contiguous(memory_format=torch.channels_last))
    kept = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for module in net.modules()
        for tensor in _tensors(module._saved)
    }
    net.train(False).train(was_training)
    return sum(kept.values())


def _tensors(kept: Any) -> Iterator[torch.Tensor]:
    if isinstance(kept, torch.Tensor):
        yield kept
    elif isinstance(kept, tuple | list):
        for each in kept:
            yield from _tensors(each)
