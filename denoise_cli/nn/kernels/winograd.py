"""3x3 convolution by Winograd's minimal filtering F(4x4, 3x3): four times fewer multiplications.

One dimension, F(4, 3): four outputs of a 3-tap filter g on six inputs d cost six products instead of twelve,

    y = A^T [(G g) * (B^T d)],

where the rows of G, B^T and A^T come from evaluating polynomials at 0, 1, -1, 2, -2 and infinity. Applied to
rows and columns, a 6x6 window d and a 3x3 filter g give 4x4 outputs by

    Y = A^T [ U * V ] A,    U = G g G^T,    V = B^T d B,

with 36 products instead of 144. Summed over channels, "U * V" is a matrix product for each of the 36 places:
M[p] = V[p] U[p] with V[p] (tiles, C) and U[p] (C, O). That is one `bmm`. The transforms have few and small
coefficients, so they are written as additions on whole planes (the places come first in memory); pairs of
planes with the same coefficients share an operation.

The backward pass needs no new mathematics. The input gradient is the convolution of dy with the filters
turned by 180 degrees and with C and O exchanged. The weight gradient is the adjoint of the map U -> Y:

    dM = A dY A^T,    dU[p] = V[p]^T dM[p],    dg = G^T dU G.

The bias is added to M at place (1, 1) alone: column 1 of A^T is (1, 1, 1, 1), so that a constant there reaches
all sixteen outputs. Its gradient is the sum of dM there.

Error: coefficients up to 8 cost accuracy, about 1e-5 of the largest output in float32 (1e-6 for a direct
sum), 2e-14 in float64.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from denoise_cli.nn.kernels.geometry import Chunk, Geometry, Pair, chunks_of_rows, copy_window
from denoise_cli.nn.kernels.memory import empty
from denoise_cli.nn.kernels.parallel import CHUNK, Workspace, share_out

G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
CONSTANT = 7
"""The place (1, 1) of 6 x 6, where a constant reaches all sixteen outputs."""


def fits(geometry: Geometry) -> bool:
    """Whether this kernel computes such a convolution."""
    return geometry.kernel == (3, 3) and geometry.is_plain and max(geometry.padding) <= 2


def is_worth_it(geometry: Geometry, channels: int, out_channels: int) -> bool:
    """Whether the products that are saved outweigh the transforms."""
    return min(channels, out_channels) >= 24


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, 3, 3) + bias (O,)."""
    N, H, W, C = x.shape
    O = weight.shape[0]
    OH, OW = geometry.output_size((H, W))
    th, tw = -(-OH // 4), -(-OW // 4)
    filters = _filters_forward(weight)
    y = empty((N, OH, OW, O), x)
    chunks = chunks_of_rows(N, th, 4 * (tw * 4 + 2) * C, CHUNK)

    def work(part: Sequence[Chunk], workspace: Workspace) -> None:
        for pictures, first, last in part:
            v = _input_planes(x, pictures, first, last, tw, geometry, workspace)
            m = torch.bmm(v, filters, out=workspace.empty("m", (36, v.shape[1], O), x))
            if bias is not None:
                m[CONSTANT].add_(bias)
            rows = y[pictures, 4 * first : 4 * last]
            n, tiles = rows.shape[0], last - first
            whole = rows.shape[1] == 4 * tiles and OW == 4 * tw
            target = rows if whole else workspace.empty("tiles", (n, 4 * tiles, 4 * tw, O), x)
            _output_tiles(m.view(6, 6, n, tiles, tw, O), target, workspace)
            if not whole:
                rows.copy_(target[:, : rows.shape[1], :OW])

    share_out(chunks, work, x.device)
    return y


def input_gradient(dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, size: Pair) -> Tensor:
    """dx (N, H, W, C) from dy (N, OH, OW, O): the convolution with the turned, exchanged filters."""
    padding = (2 - geometry.padding[0], 2 - geometry.padding[1])
    return forward(dy, weight.flip(2, 3).transpose(0, 1), bias, Geometry((3, 3), padding=padding))


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, 3, 3) and dL/dbias (O,) in place."""
    C = x.shape[3]
    N, OH, OW, O = dy.shape
    th, tw = -(-OH // 4), -(-OW // 4)
    chunks = chunks_of_rows(N, th, 4 * (tw * 4 + 2) * max(C, O), CHUNK)

    def work(part: Sequence[Chunk], workspace: Workspace) -> tuple[Tensor, Tensor]:
        d_filters, d_constant = x.new_zeros(36, C, O), x.new_zeros(O)
        for pictures, first, last in part:
            v = _input_planes(x, pictures, first, last, tw, geometry, workspace)
            dm = _output_gradient_planes(dy, pictures, first, last, tw, workspace)
            d_filters.baddbmm_(v.transpose(1, 2), dm)
            if d_bias is not None:
                d_constant.add_(dm[CONSTANT].sum(0))
        return d_filters, d_constant

    g = _kron(x)
    for d_filters, d_constant in share_out(chunks, work, x.device):
        d_weight.add_((g.T @ d_filters.view(36, C * O)).view(3, 3, C, O).permute(3, 2, 1, 0))
        if d_bias is not None:
            d_bias.add_(d_constant)


def _kron(like: Tensor) -> Tensor:
    """G (x) G, (36, 9): both transforms of a filter at once. Places and taps count column first."""
    g = torch.tensor(G, dtype=like.dtype, device=like.device)
    return torch.kron(g, g)


def _filters_forward(weight: Tensor) -> Tensor:
    """U (36, C, O) = G g G^T of every filter."""
    O, C = weight.shape[:2]
    return (_kron(weight) @ weight.permute(3, 2, 1, 0).reshape(9, C * O)).view(36, C, O)


def _input_planes(
    x: Tensor, pictures: slice, first: int, last: int, tw: int, geometry: Geometry, workspace: Workspace
) -> Tensor:
    """V (36, tiles, C) = B^T d B of all 6x6 windows of tile rows [first, last)."""
    th, width = last - first, 4 * tw + 2
    top, left = 4 * first - geometry.padding[0], -geometry.padding[1]
    x = x[pictures]
    n, C = x.shape[0], x.shape[3]
    d = copy_window(x, top, left, workspace.empty("window", (n, 4 * th + 2, width, C), x))
    row = width * C
    rows = d.as_strided((6, n, th, row), (row, (4 * th + 2) * row, 4 * row, 1))
    half = workspace.empty("half", (6, n * th, row), x)
    _input_transform(rows, half.view(6, n, th, row), workspace.empty("pairs", (4, n, th, row), x))
    columns = half.as_strided((6, 6 * n * th, tw, C), (C, row, 4 * C, 1))
    v = workspace.empty("v", (6, 6 * n * th, tw, C), x)
    _input_transform(columns, v, workspace.empty("pairs", (4, 6 * n * th, tw, C), x))
    return v.view(36, n * th * tw, C)


def _output_tiles(m: Tensor, y: Tensor, workspace: Workspace) -> None:
    """y (n, 4 th, 4 tw, O) = A^T m A for m (column 6, row 6, n, th, tw, O)."""
    _, _, n, th, tw, O = m.shape
    half = workspace.empty("half", (4, 6, n, th, tw, O), m)
    _output_transform(m, half, workspace.empty("pairs", (4, 6, n, th, tw, O), m))
    s = y.stride()
    tiles = y.as_strided((4, 4, n, th, tw, O), (s[1], s[2], s[0], 4 * s[1], 4 * s[2], 1), y.storage_offset())
    _output_transform(half.transpose(0, 1), tiles, workspace.empty("pairs", (4, 4, n, th, tw, O), m))


def _output_gradient_planes(
    dy: Tensor, pictures: slice, first: int, last: int, tw: int, workspace: Workspace
) -> Tensor:
    """dM (36, tiles, O) = A dY A^T of all 4x4 tiles of tile rows [first, last)."""
    th, width = last - first, 4 * tw
    dy = dy[pictures]
    n, O = dy.shape[0], dy.shape[3]
    d = copy_window(dy, 4 * first, 0, workspace.empty("window", (n, 4 * th, width, O), dy))
    row = width * O
    rows = d.view(n, th, 4, row).permute(2, 0, 1, 3)
    half = workspace.empty("half", (6, n * th, row), dy)
    _output_adjoint(rows, half.view(6, n, th, row), workspace.empty("pairs", (4, n, th, row), dy))
    columns = half.view(6 * n * th, tw, 4, O).permute(2, 0, 1, 3)
    dm = workspace.empty("m", (6, 6 * n * th, tw, O), dy)
    _output_adjoint(columns, dm, workspace.empty("pairs", (4, 6 * n * th, tw, O), dy))
    return dm.view(36, n * th * tw, O)


def _input_transform(d: Tensor, v: Tensor, pairs: Tensor) -> None:
    """v = B^T d along the first dimension, 6 -> 6.

    v0 = 4 d0 - 5 d2 + d4                v5 = 4 d1 - 5 d3 + d5
    v1, v2 = (d4 - 4 d2) +- (d3 - 4 d1)  v3, v4 = (d4 - d2) +- 2 (d3 - d1)
    """
    four, one = pairs[:2], pairs[2:]
    torch.sub(d[3:5], d[1:3], alpha=4, out=four)
    torch.sub(d[3:5], d[1:3], out=one)
    torch.add(four[1], four[0], out=v[1])
    torch.sub(four[1], four[0], out=v[2])
    torch.add(one[1], one[0], alpha=2, out=v[3])
    torch.sub(one[1], one[0], alpha=2, out=v[4])
    ends = v[::5]
    torch.add(d[4:6], d[0:2], alpha=4, out=ends)
    ends.sub_(d[2:4], alpha=5)


def _output_transform(m: Tensor, y: Tensor, pairs: Tensor) -> None:
    """y = A^T m along the first dimension, 6 -> 4.

    y0 = m0 + (m1 + m2) + (m3 + m4)      y1 = (m1 - m2) + 2 (m3 - m4)
    y2 = (m1 + m2) + 4 (m3 + m4)         y3 = (m1 - m2) + 8 (m3 - m4) + m5
    """
    sums, differences = pairs[:2], pairs[2:]
    torch.add(m[1:5:2], m[2:5:2], out=sums)
    torch.sub(m[1:5:2], m[2:5:2], out=differences)
    torch.add(m[0], sums[0], out=y[0])
    y[0].add_(sums[1])
    torch.add(differences[0], differences[1], alpha=2, out=y[1])
    torch.add(sums[0], sums[1], alpha=4, out=y[2])
    torch.add(m[5], differences[0], out=y[3])
    y[3].add_(differences[1], alpha=8)


def _output_adjoint(dy: Tensor, dm: Tensor, pairs: Tensor) -> None:
    """dm = A dy along the first dimension, 4 -> 6.

    dm0 = y0    dm1, dm2 = (y0 + y2) +- (y1 + y3)    dm3, dm4 = (y0 + 4 y2) +- 2 (y1 + 4 y3)    dm5 = y3
    """
    one, four = pairs[:2], pairs[2:]
    torch.add(dy[:2], dy[2:], out=one)
    torch.add(dy[:2], dy[2:], alpha=4, out=four)
    torch.add(one[0], one[1], out=dm[1])
    torch.sub(one[0], one[1], out=dm[2])
    torch.add(four[0], four[1], alpha=2, out=dm[3])
    torch.sub(four[0], four[1], alpha=2, out=dm[4])
    dm[::5].copy_(dy[::3])
