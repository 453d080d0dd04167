"""Minimal filters F(m, r) in one dimension: m outputs of an r-tap filter from m + r - 1 products.

    y = A^T [(G g) * (B^T d)]

for a filter g (r) and inputs d (m + r - 1). To correlate is the transpose of multiplying polynomials: G and A
evaluate those of the taps and of the outputs at m + r - 2 points p_i and at infinity, B interpolates the
product. With q(t) = prod (t - p_i) and q_i(t) = q(t) / (t - p_i),

    A^T[j, i] = p_i^j,    G[i, j] = p_i^j / q_i(p_i),    B^T[i] = the coefficients of q_i,

and for infinity the last unit vectors of A^T and G, and the coefficients of q.

Sources: Winograd, "Arithmetic Complexity of Computations", SIAM 1980; Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016; on the points Barabasz et al., "Error analysis and improving the
accuracy of Winograd convolution for deep neural networks", ACM TOMS 2020.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MinimalFilter:
    """F(outputs, taps) with its finite points, outputs + taps - 2 of them."""

    outputs: int
    taps: int
    points: tuple[float, ...]

    @property
    def inputs(self) -> int:
        return self.outputs + self.taps - 1


@dataclass(frozen=True)
class Matrices:
    """The three matrices of a minimal filter, for rows and columns at once: Kronecker products."""

    inputs: Tensor
    """B^T (x) B^T (inputs^2, inputs^2)."""
    filters: Tensor
    """G (x) G (inputs^2, taps^2)."""
    turned_filters: Tensor
    """That of filters turned by 180 degrees."""
    outputs: Tensor
    """A^T (x) A^T (outputs^2, inputs^2)."""


def matrices(f: MinimalFilter, like: Tensor) -> Matrices:
    """Those of `f`, of `like`'s dtype and on its device."""
    return _matrices(f, like.dtype, like.device)


@cache
def _matrices(f: MinimalFilter, dtype: torch.dtype, device: torch.device) -> Matrices:
    points = np.array(f.points, dtype=float)
    others = [np.delete(points, i) for i in range(len(points))]
    inputs = [[*np.poly(rest)[::-1], 0] for rest in others] + [np.poly(points)[::-1]]
    filters = [p ** np.arange(f.taps) / np.prod(p - rest) for p, rest in zip(points, others, strict=True)]
    outputs = [p ** np.arange(f.outputs) for p in points]
    rows = inputs, [*filters, np.eye(f.taps)[-1]], [*outputs, np.eye(f.outputs)[-1]]
    b, g, a = (np.array(some) for some in rows)
    of_both = (np.kron(b, b), np.kron(g, g), np.kron(g, g)[:, ::-1], np.kron(a.T, a.T))
    return Matrices(*(torch.tensor(some.copy(), dtype=dtype, device=device) for some in of_both))


A = math.sqrt(0.5)

F_4_3 = MinimalFilter(4, 3, (0, A, -A, 2 * A, -2 * A))
"""Half the products of a direct sum. The usual points 0, 1, -1, 2, -2 lose four times as much accuracy."""

F_3_2 = MinimalFilter(3, 2, (0, 1, -1))
"""Two thirds of the products of a direct sum."""

F_4_2 = MinimalFilter(4, 2, (0.5, -0.5, 1.25, -1.25))
"""Five eighths of the products of a direct sum."""
