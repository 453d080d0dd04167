"""Depthwise convolution: every channel has a window of its own, and channels never meet.

    y[p, c] = sum over taps k of w[c, k] x[s p + d k, c] + b[c]

With no sum over channels there is no matrix product. The sum over taps is one of shifted pictures, each times
one weight a channel: a multiply-add for each tap, done on a chunk that stays in cache. The weight gradient of
a tap is the sum over all pixels of dy times the same shifted picture.

Error: that of a direct sum over the taps, about 1e-6 of the largest output in float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import chunks_of_rows, local_workspace
from denoise_cli.nn.kernels.geometry import Geometry, Pair, copy_window
from denoise_cli.nn.kernels.joining import WRITE, Join
from denoise_cli.nn.kernels.products import sum_of_pixels, sums_of


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, join: Join = WRITE
) -> None:
    """y (N, OH, OW, C) of x (N, H, W, C), weight (C, 1, kh, kw) and bias (C,)."""
    _sum_of_taps(x, _taps(weight), bias, geometry, y, join)


def input_gradient(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, dx: Tensor, join: Join = WRITE
) -> None:
    """dx (N, H, W, C) from dy (N, OH, OW, C), plus a bias (C,) if there is one."""
    (eh, ew), (ph, pw) = geometry.extent, geometry.padding
    if geometry.stride == (1, 1):  # the convolution of dy with the window turned around
        turned = Geometry(geometry.kernel, padding=(eh - 1 - ph, ew - 1 - pw), dilation=geometry.dilation)
        _sum_of_taps(dy, _taps(weight.flip(2, 3)), bias, turned, dx, join)
        return
    (N, OH, OW, C), size, taps = dy.shape, (dx.shape[1], dx.shape[2]), _taps(weight)
    rows, columns = max(size[0] + 2 * ph, eh), max(size[1] + 2 * pw, ew)
    padded = local_workspace(__name__).empty("padded", (1, rows, columns, C), dy)
    for n in range(N):
        padded.zero_()
        for tap, seen in zip(taps, _seen(padded, geometry, (OH, OW)), strict=True):
            seen.addcmul_(dy[n : n + 1], tap)
        if bias is not None:
            padded.add_(bias)
        join.put(dx[n : n + 1], padded[:, ph : ph + size[0], pw : pw + size[1]])


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (C, 1, kh, kw) and dL/dbias (C,) in place."""
    N, OH, OW, C = dy.shape
    workspace, d_taps = local_workspace(__name__), [sums_of(dy, C) for _ in range(d_weight[0].numel())]
    bias_sums = sums_of(dy, C)
    for pictures, first, last in chunks_of_rows(N, OH, 4 * OW * C, x):
        window, part = _window(x[pictures], first, last, OW, geometry), dy[pictures, first:last]
        products = workspace.empty("products", tuple(part.shape), dy)
        for d_tap, seen in zip(d_taps, _seen(window, geometry, (last - first, OW)), strict=True):
            torch.mul(seen, part, out=products)
            d_tap.add_(products.view(-1, C).sum(0))
        if d_bias is not None:
            bias_sums.add_(sum_of_pixels(part))
    if d_bias is not None:
        d_bias.add_(bias_sums)
    d_weight.add_(torch.stack(d_taps, dim=1).view_as(d_weight))


def _taps(weight: Tensor) -> Tensor:
    """(C, 1, kh, kw) -> (kh kw, C)"""
    return weight.flatten(1).T.contiguous()


def _sum_of_taps(
    x: Tensor, taps: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, join: Join
) -> None:
    (N, OH, OW, C), workspace = y.shape, local_workspace(__name__)
    for pictures, first, last in chunks_of_rows(N, OH, 4 * OW * C, x):
        window, target = _window(x[pictures], first, last, OW, geometry), y[pictures, first:last]
        part = target if join.finish else workspace.empty("sums", tuple(target.shape), x)
        for k, seen in enumerate(_seen(window, geometry, (last - first, OW))):
            if k:
                part.addcmul_(seen, taps[k])
            else:
                torch.mul(seen, taps[k], out=part)
        if bias is not None:
            part.add_(bias)
        join.end(target, part)


def _window(x: Tensor, first: int, last: int, OW: int, geometry: Geometry) -> Tensor:
    """The padded pictures that output rows first..last see, (n, height, width, C)."""
    (sh, sw), (eh, ew), (ph, pw) = geometry.stride, geometry.extent, geometry.padding
    shape = (x.shape[0], sh * (last - first - 1) + eh, sw * (OW - 1) + ew, x.shape[3])
    return copy_window(x, sh * first - ph, -pw, local_workspace(__name__).empty("window", shape, x))


def _seen(window: Tensor, geometry: Geometry, size: Pair) -> Iterator[Tensor]:
    """What each tap sees of a window, for `size` outputs: (n, OH, OW, C), views."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    for i in range(kh):
        for j in range(kw):
            y0, x0 = i * dh, j * dw
            yield window[:, y0 : y0 + sh * (size[0] - 1) + 1 : sh, x0 : x0 + sw * (size[1] - 1) + 1 : sw]
