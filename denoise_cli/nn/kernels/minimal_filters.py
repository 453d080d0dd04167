"""Minimal filters F(m, r) in one dimension: m outputs of an r-tap filter from m + r - 1 products.

    y = A^T [(G g) * (B^T d)]

for a filter g (r) and inputs d (m + r - 1). The rows of G and B^T evaluate polynomials at a few points, A^T
interpolates. The coefficients are few and small, so the transforms are written as additions of whole planes
along the first dimension of a tensor; planes with the same coefficients share an operation. A transform is
given its memory once and run many times: looking up the planes would cost as much time as adding them.

Neighbouring windows overlap: the last r - 1 inputs of one are the first of the next. So the input transform
takes its planes in two tensors, the m first and the r - 1 last.

Sources: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; on the points
Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution for deep neural networks",
ACM TOMS 2020.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

A = math.sqrt(0.5)

Steps = list[Callable[[], Tensor]]
"""What is to be done, in order."""

InputTransform = Callable[[Tensor, Tensor, Tensor, Tensor], Steps]
"""(the first `outputs` planes, the others, to, scratch), each with the planes first."""

Transform = Callable[[Tensor, Tensor, Tensor], Steps]
"""(from, to, scratch), each with the planes first."""


@dataclass(frozen=True)
class MinimalFilter:
    """F(outputs, taps)."""

    outputs: int
    taps: int
    filter_matrix: tuple[tuple[float, ...], ...]
    """G, (inputs, taps)."""
    input: InputTransform
    """v = B^T d, inputs -> inputs."""
    output: Transform
    """y = A^T m, inputs -> outputs."""
    output_adjoint: Transform
    """dm = A dy, outputs -> inputs."""
    scratch: int
    """Planes of scratch memory that the transforms want."""

    @property
    def inputs(self) -> int:
        return self.outputs + self.taps - 1


def _input_4_3(first: Tensor, last: Tensor, v: Tensor, scratch: Tensor) -> Steps:
    """v0 = d0 - 5/2 d2 + d4                  v5 = d1 - 5/2 d3 + d5
    v1, v2 = (d4 - 2 d2) +- a (d3 - 2 d1)     v3, v4 = (d4 - d2 / 2) +- 2 a (d3 - d1 / 2)
    """
    (_, d1, d2, d3), d4, ends = first.unbind(), last[0], v[::5]
    even, odd = scratch[0], scratch[1]
    steps: Steps = []
    for place, weight, factor in ((1, 2, A), (3, 0.5, 2 * A)):
        steps += [
            partial(torch.sub, d4, d2, alpha=weight, out=even),
            partial(torch.sub, d3, d1, alpha=weight, out=odd),
            partial(torch.add, even, odd, alpha=factor, out=v[place]),
            partial(torch.sub, even, odd, alpha=factor, out=v[place + 1]),
        ]
    return [
        *steps,
        partial(torch.add, first[:2], last, out=ends),
        partial(torch.sub, ends, first[2:], alpha=2.5, out=ends),
    ]


def _output_4_3(m: Tensor, y: Tensor, scratch: Tensor) -> Steps:
    """y0 = m0 + 2 (m1 + m2) + (m3 + m4)      y1 = 2 a ((m1 - m2) + (m3 - m4))
    y2 = (m1 + m2) + 2 (m3 + m4)              y3 = a (m1 - m2) + 4 a (m3 - m4) + m5
    """
    y0, y1, y2, y3 = y.unbind()
    sums, differences = scratch[:2], scratch[2:]
    (s12, s34), (d12, d34) = sums.unbind(), differences.unbind()
    return [
        partial(torch.add, m[1:5:2], m[2:5:2], out=sums),
        partial(torch.sub, m[1:5:2], m[2:5:2], out=differences),
        partial(torch.add, m[0], s12, alpha=2, out=y0),
        partial(torch.add, y0, s34, out=y0),
        partial(torch.add, d12, d34, out=y1),
        partial(torch.mul, y1, 2 * A, out=y1),
        partial(torch.add, s12, s34, alpha=2, out=y2),
        partial(torch.add, m[5], d12, alpha=A, out=y3),
        partial(torch.add, y3, d34, alpha=4 * A, out=y3),
    ]


def _output_adjoint_4_3(dy: Tensor, dm: Tensor, scratch: Tensor) -> Steps:
    """dm0 = y0                               dm5 = y3
    dm1, dm2 = (y2 + 2 y0) +- a (y3 + 2 y1)   dm3, dm4 = (y0 + 2 y2) +- 2 a (y1 + 2 y3)
    """
    near, far = scratch[:2], scratch[2:]
    return [
        partial(torch.add, dy[2:], dy[:2], alpha=2, out=near),
        partial(torch.add, dy[:2], dy[2:], alpha=2, out=far),
        partial(torch.add, near[0], near[1], alpha=A, out=dm[1]),
        partial(torch.sub, near[0], near[1], alpha=A, out=dm[2]),
        partial(torch.add, far[0], far[1], alpha=2 * A, out=dm[3]),
        partial(torch.sub, far[0], far[1], alpha=2 * A, out=dm[4]),
        partial(dm[::5].copy_, dy[::3]),
    ]


def _input_3_2(first: Tensor, last: Tensor, v: Tensor, scratch: Tensor) -> Steps:
    """v0 = d0 - d2    v1 = d1 + d2    v2 = d2 - d1    v3 = d1 - d3"""
    (d0, d1, d2), d3 = first.unbind(), last[0]
    return [
        partial(torch.sub, d0, d2, out=v[0]),
        partial(torch.add, d1, d2, out=v[1]),
        partial(torch.sub, d2, d1, out=v[2]),
        partial(torch.sub, d1, d3, out=v[3]),
    ]


def _output_3_2(m: Tensor, y: Tensor, scratch: Tensor) -> Steps:
    """y0 = m0 + (m1 + m2)    y1 = m1 - m2    y2 = (m1 + m2) - m3"""
    (m0, m1, m2, m3), total = m.unbind(), scratch[0]
    return [
        partial(torch.add, m1, m2, out=total),
        partial(torch.add, m0, total, out=y[0]),
        partial(torch.sub, m1, m2, out=y[1]),
        partial(torch.sub, total, m3, out=y[2]),
    ]


def _output_adjoint_3_2(dy: Tensor, dm: Tensor, scratch: Tensor) -> Steps:
    """dm0 = y0    dm1, dm2 = (y0 + y2) +- y1    dm3 = -y2"""
    (y0, y1, y2), total = dy.unbind(), scratch[0]
    return [
        partial(torch.add, y0, y2, out=total),
        partial(torch.add, total, y1, out=dm[1]),
        partial(torch.sub, total, y1, out=dm[2]),
        partial(dm[0].copy_, y0),
        partial(torch.neg, y2, out=dm[3]),
    ]


F_4_3 = MinimalFilter(
    outputs=4,
    taps=3,
    filter_matrix=(
        (1, 0, 0),
        (-1 / 3, -A / 3, -1 / 6),
        (-1 / 3, A / 3, -1 / 6),
        (1 / 6, A / 3, 1 / 3),
        (1 / 6, -A / 3, 1 / 3),
        (0, 0, 1),
    ),
    input=_input_4_3,
    output=_output_4_3,
    output_adjoint=_output_adjoint_4_3,
    scratch=4,
)
"""Points 0, a, -a, 2 a, -2 a, infinity with a = 1 / sqrt 2: half the products of a direct sum.

The usual points 0, 1, -1, 2, -2 lose four times as much accuracy.
"""

F_3_2 = MinimalFilter(
    outputs=3,
    taps=2,
    filter_matrix=((1, 0), (1 / 2, 1 / 2), (1 / 2, -1 / 2), (0, 1)),
    input=_input_3_2,
    output=_output_3_2,
    output_adjoint=_output_adjoint_3_2,
    scratch=1,
)
"""Points 0, 1, -1, infinity: two thirds of the products of a direct sum."""
