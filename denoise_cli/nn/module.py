"""The base of every block: four steps (`__init__`, `forward`, `backward`, `param`) and a walk over the tree.

A module computes y = f(x; theta) in `forward`. Given dL/dy, the gradient of the loss by its output,
`backward` adds dL/dtheta to its parameter gradients and returns dL/dx. Nothing else is needed to train: the
chain rule is the order in which containers call `backward`.

Tensors are (N, C, H, W) in meaning and channels-last in memory. dtype and device come from the tensors.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from denoise_cli.nn.initialisation import Initialisation, initialise
from denoise_cli.nn.kernels.joining import ADD, Join

Shape = tuple[int, ...]


class ShapeError(ValueError):
    """An input that a module cannot take. Containers put the way to the module before the message."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.problem = problem
        self.path = path

    def inside(self, step: str) -> "ShapeError":
        """The same error seen from one container further out."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return ShapeError(self.problem, f"{step}{joint}{self.path}")


@dataclass
class Parameter:
    """A learned tensor and the gradient of the loss by it; both keep their identity for life."""

    value: Tensor
    grad: Tensor


@dataclass(frozen=True)
class Reach:
    """Where an output pixel looks: what tiling needs to know of a network.

    `step`: input pixels between two neighbouring output pixels (2 after a stride of 2, 1/2 after a x2
    upsampling). `margin`: how many input pixels beyond its own place an output pixel may see, on any side;
    infinite for global operations. `period`: the input grid on which the network repeats itself: shifting the
    input by a multiple of it shifts the output.
    """

    step: Fraction = Fraction(1)
    margin: float = 0.0
    period: int = 1

    def then(self, *, margin: float = 0.0, stride: Fraction | int = 1) -> "Reach":
        """The reach after one more layer: `margin` in pixels of its own input, then a new resolution."""
        step = self.step * stride
        return Reach(step, self.margin + margin * float(self.step), math.lcm(self.period, step.numerator))


class Module:
    """One block of a network.

    Subclasses write `__init__`, `forward` and `backward`, and say what they cost in `output_shape`, `macs`
    and `reach`. Parameters are registered with `add_parameter`.
    """

    yaml_name: ClassVar[str] = ""
    """The name in a YAML `model:`; set by `registry.layer`."""

    fresh_output: bool = False
    """Whether `forward` returns new memory that nobody, this module included, reads again: what follows may
    overwrite it."""

    fresh_gradient: bool = False
    """Whether `backward` returns new memory that nobody reads again."""

    joins: bool = False
    """Whether `forward_onto` and `backward_onto` join their results piece by piece, as they come."""

    def __init__(self) -> None:
        self.training = True
        self.needs_input_gradient = True
        self.parameters: dict[str, Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        self._saved: Any = None

    # The four steps -------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """y = f(x). Never changes `x`. Saves what `backward` needs, and nothing outside training."""
        raise NotImplementedError(type(self).__name__)

    def backward(self, dy: Tensor) -> Tensor:
        """dL/dx from dL/dy. Never changes `dy`; adds to the parameter gradients; drops what was saved."""
        raise NotImplementedError(type(self).__name__)

    def param(self) -> list[tuple[Tensor, Tensor]]:
        """(value, gradient) of every parameter, own ones first: the same tensor objects at every call."""
        own = [(p.value, p.grad) for p in self.parameters.values()]
        return own + [pair for _, child in self.children() for pair in child.param()]

    # The same two in place, for containers that own the tensor they pass on -----------------------------

    def forward_(self, x: Tensor) -> Tensor:
        """`forward` that may overwrite its argument."""
        return self.forward(x)

    def backward_(self, dy: Tensor) -> Tensor:
        """`backward` that may overwrite its argument."""
        return self.backward(dy)

    def forward_onto(self, x: Tensor, onto: Tensor, join: Join = ADD) -> Tensor:
        """f(x) joined with `onto`, in its memory if that is channels-last."""
        join.put(onto, self.forward(x))
        return onto

    def backward_onto(self, dy: Tensor, onto: Tensor, join: Join = ADD) -> Tensor:
        """dL/dx joined with `onto`, in its memory if that is channels-last: it may be what was saved."""
        join.put(onto, self.backward(dy))
        return onto

    # What a subclass uses -------------------------------------------------------------------------------

    def add_parameter(self, name: str, value: Tensor) -> Parameter:
        """Registers a learned tensor with a gradient of zeros, and returns the pair."""
        self.parameters[name] = Parameter(value, torch.zeros_like(value))
        return self.parameters[name]

    def add_weights(
        self, initialisation: Initialisation, shape: Shape, outputs: int | None
    ) -> tuple[Parameter, Parameter | None]:
        """Registers a weight of this shape and a bias of so many outputs, or none."""
        weight = self.add_parameter("weight", torch.empty(shape))
        bias = None if outputs is None else self.add_parameter("bias", torch.empty(outputs))
        initialise(initialisation, weight.value, None if bias is None else bias.value)
        return weight, bias

    def save(self, *tensors: Any) -> None:
        """Keeps what `backward` needs, in training only."""
        self._saved = tensors if self.training else None

    def saved(self) -> Any:
        """What `save` kept, which is dropped: one `backward` for each `forward`."""
        if self._saved is None:
            raise RuntimeError(
                f"{self.yaml_name or type(self).__name__}: backward needs a forward in training mode first"
            )
        saved, self._saved = self._saved, None
        return saved

    def forget(self) -> None:
        """Drops what `save` kept, here and below."""
        for module in self.modules():
            module._saved = None

    def skip_input_gradient(self) -> None:
        """Says that nobody reads what `backward` returns: it may return anything, such as an empty tensor."""
        self.needs_input_gradient = False

    # The tree -------------------------------------------------------------------------------------------

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules directly inside, by the names that `state` uses."""
        yield from ()

    def modules(self) -> Iterator["Module"]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def train(self, mode: bool = True) -> Self:
        """Switches training mode on or off, here and below; leaving it drops what was saved."""
        for module in self.modules():
            module.training = mode
            if not mode:
                module._saved = None
        return self

    def state(self) -> dict[str, Tensor]:
        """Every parameter and buffer by its dotted name: the tensors themselves, not copies."""
        own = {name: p.value for name, p in self.parameters.items()} | self.buffers
        for step, child in self.children():
            own |= {f"{step}.{name}": tensor for name, tensor in child.state().items()}
        return own

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copies tensors into those of the same dotted name; a ValueError names what does not match."""
        own = self.state()
        if missing := sorted(own.keys() - state.keys()):
            raise ValueError(f"the state lacks {missing[0]!r}" + _and_more(missing))
        if unknown := sorted(state.keys() - own.keys()):
            raise ValueError(f"the state has {unknown[0]!r}, which the model lacks" + _and_more(unknown))
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                given, wanted = tuple(state[name].shape), tuple(tensor.shape)
                raise ValueError(f"{name!r} is {given}, the model wants {wanted}")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Self:
        """Moves parameters and floating-point buffers; the (value, grad) tensors are new ones afterwards."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        for module in self.modules():
            for parameter in module.parameters.values():
                parameter.value, parameter.grad = moved(parameter.value), moved(parameter.grad)
            module.buffers.update({name: moved(tensor) for name, tensor in module.buffers.items()})
            module._saved = None
        return self

    # What it costs --------------------------------------------------------------------------------------

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of `forward`'s result for an input shape; raises ShapeError where it does not fit."""
        return shape

    def macs(self, shape: Shape) -> int:
        """Multiply-accumulates of one `forward` of this input shape, as a direct computation counts them."""
        return 0

    def reach(self, reach: Reach) -> Reach:
        """The reach of the network up to and including this module, given that up to its input."""
        return reach


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
