"""Convolution of few channels as one product with a matrix of columns.

Where C kh kw is small, as in the first layer of a network, a window's pixels gathered into one row cost little,
and a single product

    y (rows, O) = columns (rows, kh kw C) @ W (kh kw C, O)

beats a sum of thin ones. Backward: dW = columns^T dy, and dx folds the columns' gradients dy W^T back, adding
each tap's to the pixels it came from.

Where O is small, as in the last layer, the same is done from the other end: one product gives every pixel's
contribution to every tap, with the taps as rows, so that the shifted sums run along contiguous memory:

    P (kh kw O, pixels) = W' (kh kw O, C) @ x^T,    y = sum over taps of P shifted by the tap's offset.

Its gradients are the first form with dy for x: the columns of the padded dy against turned filters.

Error: that of a direct sum, about 1e-6 of the largest output in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from denoise_cli.nn.kernels.geometry import Chunk, Geometry, Pair, chunks_of_rows, copy_window
from denoise_cli.nn.kernels.memory import empty
from denoise_cli.nn.kernels.parallel import CHUNK, Workspace, share_out

FEW = 64
"""Columns up to which gathering them is worth it."""


def fits(geometry: Geometry) -> bool:
    """Whether this kernel computes such a convolution: stride 1, and padding short of the kernel."""
    kernel, padding = geometry.kernel, geometry.padding
    return geometry.is_plain and padding[0] < kernel[0] and padding[1] < kernel[1]


def is_worth_it(geometry: Geometry, channels: int, out_channels: int) -> bool:
    """Whether one side is narrow, and the kernel larger than a point."""
    taps = geometry.kernel[0] * geometry.kernel[1]
    return taps > 1 and taps * min(channels, out_channels) <= FEW


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, kh, kw) + bias (O,)."""
    O, C = weight.shape[:2]
    return (_gather if C <= O else _spread)(x, weight, bias, geometry)


def input_gradient(dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, size: Pair) -> Tensor:
    """dx (N, H, W, C): the convolution of dy with the turned, exchanged filters."""
    turned, flipped = _turned(geometry), weight.flip(2, 3).transpose(0, 1)
    return forward(dy, flipped, bias, turned)


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    O, C = d_weight.shape[:2]
    if C <= O:
        d_weight.add_(_column_products(x, dy, geometry).permute(3, 2, 0, 1))
    else:
        d_weight.add_(_column_products(dy, x, _turned(geometry)).flip(0, 1).permute(2, 3, 0, 1))
    if d_bias is not None:
        d_bias.add_(dy.sum((0, 1, 2)))


def _turned(geometry: Geometry) -> Geometry:
    """The geometry of the adjoint: what was cut off is padded, what was padded is cut off."""
    (kh, kw), (ph, pw) = geometry.kernel, geometry.padding
    return Geometry((kh, kw), padding=(kh - 1 - ph, kw - 1 - pw))


def _gather(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Few input channels: columns of x, one product."""
    O = weight.shape[0]
    N, OH, OW = x.shape[0], *geometry.output_size((x.shape[1], x.shape[2]))
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, O)
    y = empty((N, OH, OW, O), x)
    chunks = chunks_of_rows(N, OH, OW * max(matrix.shape[0], O), CHUNK)

    def work(share: Sequence[Chunk], workspace: Workspace) -> None:
        for pictures, first, last in share:
            columns = _columns(x, pictures, first, last, OW, geometry, workspace)
            out = y[pictures, first:last].view(-1, O)
            if bias is None:
                torch.mm(columns, matrix, out=out)
            else:
                torch.addmm(bias, columns, matrix, out=out)

    share_out(chunks, work, x.device)
    return y


def _spread(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Few output channels: every pixel's contribution to every tap, then shifted sums."""
    O, C, kh, kw = weight.shape
    N, OH, OW = x.shape[0], *geometry.output_size((x.shape[1], x.shape[2]))
    matrix = weight.permute(2, 3, 0, 1).reshape(kh * kw * O, C)
    y = empty((N, OH, OW, O), x)
    width = OW + kw - 1
    chunks = chunks_of_rows(N, OH, width * C, CHUNK)

    def work(share: Sequence[Chunk], workspace: Workspace) -> None:
        for pictures, first, last in share:
            part = x[pictures]
            n, height = part.shape[0], last - first + kh - 1
            window = workspace.empty("window", (n, height, width, C), x)
            copy_window(part, first - geometry.padding[0], -geometry.padding[1], window)
            pixels = n * height * width
            taps = workspace.empty("taps", (kh * kw, O, pixels), x)
            torch.mm(matrix, window.view(pixels, C).T, out=taps.view(-1, pixels))
            # the last rows see beyond the window: what they would add is cut off below
            count = pixels - (kh - 1) * width - (kw - 1)
            out = workspace.empty("sums", (O, pixels), x)
            out[:, :count].copy_(taps[0, :, :count])
            for t in range(1, kh * kw):
                offset = t // kw * width + t % kw
                out[:, :count].add_(taps[t, :, offset : offset + count])
            if bias is not None:
                out[:, :count].add_(bias[:, None])
            planes = out.view(O, n, height, width)[:, :, : last - first, :OW]
            y[pictures, first:last].copy_(planes.permute(1, 2, 3, 0))

    share_out(chunks, work, x.device)
    return y


def _column_products(x: Tensor, dy: Tensor, geometry: Geometry) -> Tensor:
    """columns(x)^T dy, (kh, kw, C, O)."""
    N, OH, OW, O = dy.shape
    (kh, kw), C = geometry.kernel, x.shape[3]
    chunks = chunks_of_rows(N, OH, OW * max(kh * kw * C, O), CHUNK)

    def work(share: Sequence[Chunk], workspace: Workspace) -> Tensor:
        total = x.new_zeros(kh * kw * C, O)
        for pictures, first, last in share:
            columns = _columns(x, pictures, first, last, OW, geometry, workspace)
            total.addmm_(columns.T, dy[pictures, first:last].reshape(-1, O))
        return total

    first, *others = share_out(chunks, work, x.device)
    for other in others:
        first.add_(other)
    return first.view(kh, kw, C, O)


def _columns(
    x: Tensor, pictures: slice, first: int, last: int, OW: int, geometry: Geometry, workspace: Workspace
) -> Tensor:
    """One row for each output pixel: its window's pixels, (n rows OW, kh kw C)."""
    x = x[pictures]
    n, C = x.shape[0], x.shape[3]
    kh, kw = geometry.kernel
    height, width = last - first + kh - 1, OW + kw - 1
    window = workspace.empty("window", (n, height, width, C), x)
    copy_window(x, first - geometry.padding[0], -geometry.padding[1], window)
    row = width * C
    # kw neighbouring pixels of C channels are contiguous
    windows = window.as_strided((n, last - first, OW, kh, kw * C), (height * row, row, C, row, 1))
    columns = workspace.empty("columns", (n, last - first, OW, kh, kw * C), x)
    return columns.copy_(windows).view(-1, kh * kw * C)
