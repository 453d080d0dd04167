"""Containers: modules made of modules.

A container knows which tensors it alone holds, and lets its children overwrite those: a child's result that
is `fresh` (`Module.fresh_output`, `Module.fresh_gradient`) belongs to whoever called it. Everything else, the
container's own argument first of all, stays as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from denoise_cli.nn.kernels.joining import ADD, Join, adding
from denoise_cli.nn.layers.activations import Activation
from denoise_cli.nn.layout import channels_last, copy, empty, empty_like, from_rows, to_rows
from denoise_cli.nn.module import Module, Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer

_POINTWISE = {"conv2d": {"in_channels": 4, "out_channels": 4, "kernel_size": 1}}
"""A convolution for an example."""


@contextmanager
def inside(step: str) -> Iterator[None]:
    """Puts `step` before the path of a ShapeError."""
    try:
        yield
    except ShapeError as error:
        raise error.inside(step) from None


def join(step: str, path: str) -> str:
    """The path of a module seen from one container further out."""
    return step + path if path.startswith("[") or not path else f"{step}.{path}"


def _activation(links: list[tuple[str, Module]], index: int) -> Activation | None:
    """The link at this place if it is an activation that a convolution beside it can do as well."""
    module = links[index][1] if index < len(links) else None
    return module if isinstance(module, Activation) and not module.keeps_input else None


class Chain(Module):
    """Modules one after the other: forward in order, backward in reverse.

    Chains directly inside are run as part of this one, so that a tensor is let go as soon as the next layer
    has read it.
    """

    def __init__(self, *layers: Module) -> None:
        super().__init__()
        self.layers = layers
        self._links: list[tuple[str, Module]] = []
        for step, child in zip(self.steps(), layers, strict=True):
            inner = child._links if isinstance(child, Chain) else [("", child)]
            self._links += [(join(step, path), module) for path, module in inner]
        # Where `backward` may stop: the links before it have nothing to learn.
        self._first_needed = 0
        if self._links:
            self.fresh_output = self._links[-1][1].fresh_output
            self.fresh_gradient = self._links[0][1].fresh_gradient

    def steps(self) -> list[str]:
        """The way to each child, as errors tell it."""
        raise NotImplementedError(type(self).__name__)

    def children(self) -> Iterator[tuple[str, Module]]:
        for index, child in enumerate(self.layers):
            yield str(index), child

    def skip_input_gradient(self) -> None:
        super().skip_input_gradient()
        for index, (_, module) in enumerate(self._links):
            if module.param():
                self._first_needed = index
                module.skip_input_gradient()
                return

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x, owned=False)

    def forward_(self, x: Tensor) -> Tensor:
        return self._forward(x, owned=True)

    def _forward(self, x: Tensor, *, owned: bool, stop: int | None = None) -> Tensor:
        links, index = self._links[:stop], 0
        while index < len(links):
            path, module = links[index]
            activation = _activation(links, index + 1) if module.joins else None
            with inside(path):
                if activation:
                    x = activation.forward_after(module, x)
                else:
                    x = module.forward_(x) if owned else module.forward(x)
            owned = module.fresh_output and not activation
            index += 2 if activation else 1
        return x

    @property
    def ends_apart(self) -> bool:
        """Whether the last link reads what others have computed anew, and not this chain's argument."""
        return any(module.fresh_output for _, module in self._links[:-1])

    def forward_onto(self, x: Tensor, onto: Tensor, join: Join = ADD) -> Tensor:
        if not self.ends_apart:
            return super().forward_onto(x, onto, join)
        return self.end_onto(self.forward_to_last(x)[0], onto, join)

    def forward_to_last(self, x: Tensor) -> tuple[Tensor, Shape]:
        """What the last link reads, and the shape of what it makes of that."""
        before_last = self._forward(x, owned=False, stop=-1)
        path, last = self._links[-1]
        with inside(path):
            return before_last, last.output_shape(before_last.shape)

    def end_onto(self, before_last: Tensor, onto: Tensor, join: Join) -> Tensor:
        """What the last link makes of it joined with `onto`, in its memory if that is channels-last."""
        path, last = self._links[-1]
        with inside(path):
            return last.forward_onto(before_last, onto, join)

    def backward(self, dy: Tensor) -> Tensor:
        return self._backward(dy, owned=False)

    def backward_(self, dy: Tensor) -> Tensor:
        return self._backward(dy, owned=True)

    def _backward(self, dy: Tensor, *, owned: bool, stop: int = 0) -> Tensor:
        index = len(self._links) - 1
        first = max(stop, self._first_needed)
        while index >= first:
            _, module = self._links[index]
            activation = _activation(self._links, index - 1) if module.joins and index > first else None
            if activation:
                dy = activation.backward_after(module, dy)
            else:
                dy = module.backward_(dy) if owned else module.backward(dy)
            owned = module.fresh_gradient
            index -= 2 if activation else 1
        for _, module in self._links[: self._first_needed]:
            module.forget()
        return dy

    @property
    def begins_apart(self) -> bool:
        """Whether the gradient that the first link reads has been computed anew."""
        return any(module.fresh_gradient for _, module in self._links[1:])

    def backward_onto(self, dy: Tensor, onto: Tensor, join: Join = ADD) -> Tensor:
        if not self.begins_apart or self._first_needed > 0:
            return super().backward_onto(dy, onto, join)
        behind_first = self._backward(dy, owned=False, stop=1)
        return self._links[0][1].backward_onto(behind_first, onto, join)

    def output_shape(self, shape: Shape) -> Shape:
        for step, child in zip(self.steps(), self.layers, strict=True):
            with inside(step):
                shape = child.output_shape(shape)
        return shape

    def macs(self, shape: Shape) -> int:
        total = 0
        for step, child in zip(self.steps(), self.layers, strict=True):
            with inside(step):
                total += child.macs(shape)
                shape = child.output_shape(shape)
        return total

    def reach(self, reach: Reach) -> Reach:
        for child in self.layers:
            reach = child.reach(reach)
        return reach


class Sequential(Chain):
    """y = f_n(... f_2(f_1(x))). In YAML it is a list."""

    yaml_name = "sequential"

    def steps(self) -> list[str]:
        return [
            f"[{index}]" if isinstance(child, Sequential) else f"[{index}].{child.yaml_name}"
            for index, child in enumerate(self.layers)
        ]


@layer("repeat", Example({"times": 3, "body": ["tanh", "elu"]}))
class Repeat(Chain):
    """The same layers several times in a row, every copy with weights of its own. `body` makes one copy."""

    def __init__(self, times: int, body: Callable[[], Module]) -> None:
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        super().__init__(*(body() for _ in range(times)))

    def steps(self) -> list[str]:
        return ["body"] * len(self.layers)


class Wrapper(Module):
    """A container of one module, its `body`."""

    def __init__(self, body: Module) -> None:
        super().__init__()
        self.body = body

    def children(self) -> Iterator[tuple[str, Module]]:
        yield "body", self.body

    def skip_input_gradient(self) -> None:
        super().skip_input_gradient()
        self.body.skip_input_gradient()


class Skip(Wrapper):
    """A container that joins its argument with what its body makes of it."""

    fresh_output = True
    fresh_gradient = True

    @staticmethod
    def joined(before: Shape, after: Shape) -> Shape:
        """The shape of the result from those of argument and body; raises ShapeError for unlike ones."""
        raise NotImplementedError

    def output_shape(self, shape: Shape) -> Shape:
        with inside("body"):
            after = self.body.output_shape(shape)
        return self.joined(shape, after)

    def macs(self, shape: Shape) -> int:
        with inside("body"):
            return self.body.macs(shape)

    def reach(self, reach: Reach) -> Reach:
        after = self.body.reach(reach)
        return replace(after, margin=max(reach.margin, after.margin))


@layer(
    "residual",
    Example({"body": ["tanh"]}),
    Example({"body": ["elu", {"leaky_relu": {}}, "gelu"]}),
    Example({"body": [_POINTWISE, "relu", _POINTWISE]}),
)
class Residual(Skip):
    """y = x + body(x); dx = dy + body.backward(dy) (He et al., arXiv:1512.03385)."""

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x, owned=False)

    def forward_(self, x: Tensor) -> Tensor:
        # Outside training nobody needs x any more once the last layer of the body is all that is left.
        return self._forward(x, owned=not self.training)

    def _forward(self, x: Tensor, *, owned: bool) -> Tensor:
        body = self.body
        if not (isinstance(body, Chain) and body.ends_apart):
            with inside("body"):
                y = body.forward(x)
            self.joined(x.shape, y.shape)
            return torch.add(y, x, out=y if body.fresh_output else empty_like(y))
        with inside("body"):
            before_last, shape = body.forward_to_last(x)
        self.joined(x.shape, shape)
        if owned:
            return body.end_onto(before_last, x, ADD)
        x = channels_last(x)
        y = empty_like(x)
        return body.end_onto(before_last, y, adding(x, y))

    def backward(self, dy: Tensor) -> Tensor:
        dx = self.body.backward(dy)
        if not self.needs_input_gradient:
            return dx
        return torch.add(dx, dy, out=dx if self.body.fresh_gradient else empty_like(dx))

    def backward_(self, dy: Tensor) -> Tensor:
        # Nobody needs dy any more once the first layer of the body is all that is left.
        if not (self.needs_input_gradient and isinstance(self.body, Chain) and self.body.begins_apart):
            return self.backward(dy)
        return self.body.backward_onto(dy, dy)

    @staticmethod
    def joined(before: Shape, after: Shape) -> Shape:
        if before != after:
            raise ShapeError(
                f"the body of x + body(x) must keep the shape {tuple(before)}, gives {tuple(after)}"
            )
        return before


@layer("concat", Example({"body": ["tanh"]}), Example({"body": ["elu", {"leaky_relu": {}}, "gelu"]}))
class Concat(Skip):
    """y = cat(x, body(x)) on the channels; backward cuts dy in two: dx = dy_x + body.backward(dy_body)."""

    def forward(self, x: Tensor) -> Tensor:
        with inside("body"):
            y = self.body.forward(x)
        both = empty(self.joined(x.shape, y.shape), x)
        channels = x.shape[1]
        self.save(channels)
        both[:, :channels] = x
        both[:, channels:] = y
        return both

    def backward(self, dy: Tensor) -> Tensor:
        (channels,) = self.saved()
        dx = self.body.backward_(copy(dy[:, channels:]))
        if not self.needs_input_gradient:
            return dx
        return torch.add(dx, dy[:, :channels], out=dx if self.body.fresh_gradient else empty_like(dx))

    @staticmethod
    def joined(before: Shape, after: Shape) -> Shape:
        if len(before) < 2 or (before[:1], before[2:]) != (after[:1], after[2:]):
            raise ShapeError(
                f"the body of cat(x, body(x)) may change only the channels of {tuple(before)}, "
                f"gives {tuple(after)}"
            )
        return (before[0], before[1] + after[1], *before[2:])


@layer(
    "per_pixel",
    Example({"body": [{"linear": {"in_features": 4, "out_features": 3}}, "elu"]}),
    Example({"body": ["tanh", {"linear": {"in_features": 2, "out_features": 5}}]}, (2, 2, 3, 1)),
)
class PerPixel(Wrapper):
    """Applies `body`, which maps (rows, features), to each pixel's channels: (N, C, H, W) -> (N, C', H, W).

    After a `pixel_unshuffle` by p a pixel is a patch of p x p: so `linear` layers make a patch denoiser.
    """

    def __init__(self, body: Module) -> None:
        super().__init__(body)
        self.fresh_output = body.fresh_output
        self.fresh_gradient = body.fresh_gradient

    def forward(self, x: Tensor) -> Tensor:
        self.output_shape(x.shape)
        return from_rows(self.body.forward(to_rows(x)), x.shape)

    def forward_(self, x: Tensor) -> Tensor:
        self.output_shape(x.shape)
        return from_rows(self.body.forward_(to_rows(x)), x.shape)

    def backward(self, dy: Tensor) -> Tensor:
        return self._images(self.body.backward(to_rows(dy)), dy.shape)

    def backward_(self, dy: Tensor) -> Tensor:
        return self._images(self.body.backward_(to_rows(dy)), dy.shape)

    def _images(self, d_rows: Tensor, shape: Shape) -> Tensor:
        return from_rows(d_rows, shape) if self.needs_input_gradient else d_rows

    def output_shape(self, shape: Shape) -> Shape:
        N, H, W, rows = self._rows(shape)
        with inside("body"):
            after = self.body.output_shape(rows)
        if len(after) != 2 or after[0] != rows[0]:
            raise ShapeError(f"the body must map (rows, features), turns {rows} into {tuple(after)}")
        return N, after[1], H, W

    def macs(self, shape: Shape) -> int:
        with inside("body"):
            return self.body.macs(self._rows(shape)[-1])

    def reach(self, reach: Reach) -> Reach:
        self.body.reach(reach)  # for those who listen; what mixes features does not mix pixels
        return reach

    @staticmethod
    def _rows(shape: Shape) -> tuple[int, int, int, Shape]:
        if len(shape) != 4:
            raise ShapeError(f"expects (N, C, H, W), got {tuple(shape)}")
        N, C, H, W = shape
        return N, H, W, (N * H * W, C)
