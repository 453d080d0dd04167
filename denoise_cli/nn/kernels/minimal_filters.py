"""Minimal filters F(m, r) in one dimension: m outputs of an r-tap filter from m + r - 1 products.

    y = A^T [(G g) * (B^T d)]

for a filter g (r) and inputs d (m + r - 1). The rows of G and B^T evaluate polynomials at a few points, A^T
interpolates. The coefficients are few and small, so the transforms are written as additions of whole planes
along the first dimension of a tensor; planes with the same coefficients share an operation.

Sources: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; on the points
Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution for deep neural networks",
ACM TOMS 2020.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

A = math.sqrt(0.5)

Transform = Callable[[Tensor, Tensor, Tensor], None]
"""(from, to, scratch), each with the planes first."""


@dataclass(frozen=True)
class MinimalFilter:
    """F(outputs, taps)."""

    outputs: int
    taps: int
    filter_matrix: tuple[tuple[float, ...], ...]
    """G, (inputs, taps)."""
    input: Transform
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


def _input_4_3(d: Tensor, v: Tensor, scratch: Tensor) -> None:
    """v0 = d0 - 5/2 d2 + d4                  v5 = d1 - 5/2 d3 + d5
    v1, v2 = (d4 - 2 d2) +- a (d3 - 2 d1)     v3, v4 = (d4 - d2 / 2) +- 2 a (d3 - d1 / 2)
    """
    two, half = scratch[:2], scratch[2:]
    torch.sub(d[3:5], d[1:3], alpha=2, out=two)
    torch.sub(d[3:5], d[1:3], alpha=0.5, out=half)
    torch.add(two[1], two[0], alpha=A, out=v[1])
    torch.sub(two[1], two[0], alpha=A, out=v[2])
    torch.add(half[1], half[0], alpha=2 * A, out=v[3])
    torch.sub(half[1], half[0], alpha=2 * A, out=v[4])
    ends = v[::5]
    torch.add(d[4:6], d[0:2], out=ends)
    ends.sub_(d[2:4], alpha=2.5)


def _output_4_3(m: Tensor, y: Tensor, scratch: Tensor) -> None:
    """y0 = m0 + 2 (m1 + m2) + (m3 + m4)      y1 = 2 a ((m1 - m2) + (m3 - m4))
    y2 = (m1 + m2) + 2 (m3 + m4)              y3 = a (m1 - m2) + 4 a (m3 - m4) + m5
    """
    sums, differences = scratch[:2], scratch[2:]
    torch.add(m[1:5:2], m[2:5:2], out=sums)
    torch.sub(m[1:5:2], m[2:5:2], out=differences)
    torch.add(m[0], sums[0], alpha=2, out=y[0])
    y[0].add_(sums[1])
    torch.add(differences[0], differences[1], out=y[1])
    y[1].mul_(2 * A)
    torch.add(sums[0], sums[1], alpha=2, out=y[2])
    torch.add(m[5], differences[0], alpha=A, out=y[3])
    y[3].add_(differences[1], alpha=4 * A)


def _output_adjoint_4_3(dy: Tensor, dm: Tensor, scratch: Tensor) -> None:
    """dm0 = y0                               dm5 = y3
    dm1, dm2 = (y2 + 2 y0) +- a (y3 + 2 y1)   dm3, dm4 = (y0 + 2 y2) +- 2 a (y1 + 2 y3)
    """
    near, far = scratch[:2], scratch[2:]
    torch.add(dy[2:], dy[:2], alpha=2, out=near)
    torch.add(dy[:2], dy[2:], alpha=2, out=far)
    torch.add(near[0], near[1], alpha=A, out=dm[1])
    torch.sub(near[0], near[1], alpha=A, out=dm[2])
    torch.add(far[0], far[1], alpha=2 * A, out=dm[3])
    torch.sub(far[0], far[1], alpha=2 * A, out=dm[4])
    dm[::5].copy_(dy[::3])


def _input_3_2(d: Tensor, v: Tensor, scratch: Tensor) -> None:
    """v0 = d0 - d2    v1 = d1 + d2    v2 = d2 - d1    v3 = d1 - d3"""
    torch.sub(d[0:2], d[2:4], out=v[::3])
    torch.add(d[1], d[2], out=v[1])
    torch.sub(d[2], d[1], out=v[2])


def _output_3_2(m: Tensor, y: Tensor, scratch: Tensor) -> None:
    """y0 = m0 + (m1 + m2)    y1 = m1 - m2    y2 = (m1 + m2) - m3"""
    total = torch.add(m[1], m[2], out=scratch[0])
    torch.add(m[0], total, out=y[0])
    torch.sub(m[1], m[2], out=y[1])
    torch.sub(total, m[3], out=y[2])


def _output_adjoint_3_2(dy: Tensor, dm: Tensor, scratch: Tensor) -> None:
    """dm0 = y0    dm1, dm2 = (y0 + y2) +- y1    dm3 = -y2"""
    total = torch.add(dy[0], dy[2], out=scratch[0])
    torch.add(total, dy[1], out=dm[1])
    torch.sub(total, dy[1], out=dm[2])
    dm[0].copy_(dy[0])
    torch.neg(dy[2], out=dm[3])


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
