"""Convolution as a sum of shifted matrix products: any kernel, stride and dilation, no column matrix.

Stride 1. Pad a picture once and flatten it to rows of channels, (padded pixels, C). The pixel that tap (i, j)
needs for output row r is row r + i Wp + j: a constant offset. So the output is a sum over the taps of
products of *slices of rows* with a (C, O) matrix, accumulated in place; what a slice reads across the right
edge lands in a few columns that are cut off at the end.

Stride s. Split the padded picture into its s x s phases (every s-th row and column) and lay them side by side
as channels. Tap t reads phase t mod s at the offset t // s, so it is the stride-1 case again; taps of one
offset whose phases are neighbours share one product. A kernel that equals its stride is a single product.

Input gradient. Phase u of the padded dx collects dy shifted back by every tap of that phase: the same sum
with offsets and matrices turned around, one column block a phase, written back through the phases. It is also
the forward pass of the transposed convolution.

Weight gradient. Tap (i, j) receives rows^T dy for the rows it has read.

Error: that of a direct sum, about 1e-6 of the largest output in float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace, chunks_of_rows, local_workspace
from denoise_cli.nn.kernels.geometry import (
    Geometry,
    Map,
    Pair,
    copy_window,
    phase_pairs,
    phase_range,
    phase_readings,
    windows_of_phases,
)
from denoise_cli.nn.kernels.joining import WRITE, Join
from denoise_cli.nn.kernels.products import factor, factor_type, multiply, sum_of_pixels, sums_of


@dataclass(frozen=True)
class Group:
    """Taps that share an offset and whose phases are neighbours: one matrix product."""

    offset: Pair
    first_phase: int
    taps: tuple[Pair, ...]

    def channels(self, C: int) -> slice:
        """The channels of its phases."""
        return slice(self.first_phase * C, (self.first_phase + len(self.taps)) * C)

    def matrix(self, weight: Tensor) -> Tensor:
        """(taps C, O) of a weight (O, C, kh, kw)."""
        return torch.cat([weight[:, :, i, j].T for i, j in self.taps])

    def turned_matrix(self, weight: Tensor) -> Tensor:
        """(O, taps C), the transpose."""
        return torch.cat([weight[:, :, i, j] for i, j in self.taps], dim=1)


@dataclass(frozen=True)
class Plan:
    """How a geometry splits into phases and groups of taps."""

    geometry: Geometry
    phases: tuple[Pair, ...]
    groups: tuple[Group, ...]

    @property
    def halo(self) -> Pair:
        """The largest offset: rows and columns that a window has beyond its outputs."""
        return max(g.offset[0] for g in self.groups), max(g.offset[1] for g in self.groups)


@cache
def plan(geometry: Geometry) -> Plan:
    """Phases in use, and taps grouped by offset and runs of neighbouring phases."""
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    places = {
        (i, j): ((i * dh % sh, j * dw % sw), (i * dh // sh, j * dw // sw))
        for i in range(geometry.kernel[0])
        for j in range(geometry.kernel[1])
    }
    phases = sorted({phase for phase, _ in places.values()})
    groups: list[Group] = []
    for offset in sorted({offset for _, offset in places.values()}):
        members = sorted(
            (phases.index(phase), tap) for tap, (phase, other) in places.items() if other == offset
        )
        run = [members[0]]
        for member in [*members[1:], (-1, (0, 0))]:
            if member[0] == run[-1][0] + 1:
                run.append(member)
                continue
            groups.append(Group(offset, run[0][0], tuple(tap for _, tap in run)))
            run = [member]
    return Plan(geometry, tuple(phases), tuple(groups))


def fits(geometry: Geometry) -> bool:
    """Any geometry."""
    return True


def is_worth_it(which: Map, geometry: Geometry, channels: int, out_channels: int) -> bool:
    """Wherever nothing else is."""
    return True


def shares_gradients(which: Map, geometry: Geometry, channels: int, out_channels: int, dy: Tensor) -> bool:
    """Nothing is shared."""
    return False


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, y: Tensor, join: Join
) -> None:
    """y (N, OH, OW, O) = x (N, H, W, C) * weight (O, C, kh, kw) + bias (O,)."""
    (N, OH, OW, O), C = y.shape, x.shape[3]
    steps, workspace = plan(geometry), local_workspace(__name__)
    weight = factor(weight, "weight", workspace)
    matrices = [group.matrix(weight) for group in steps.groups]
    chunks = chunks_of_rows(N, OH, (OW + steps.halo[1]) * max(C * len(steps.phases), O), x)
    for pictures, first, last in chunks:
        rows, (n, height, width) = _input_rows(x, pictures, first, last, OW, steps, workspace)
        target = y[pictures, first:last]
        fitting = (height, width) == target.shape[1:3] and target.is_contiguous()
        direct = fitting and join.finish is not None
        out = target.view(-1, O) if direct else workspace.empty("sums", (n * height * width, O), x)
        for k, (group, matrix) in enumerate(zip(steps.groups, matrices, strict=True)):
            begin, end = _span(group, steps, height, width, n)
            part = rows[begin:end, group.channels(C)]
            some = out[: end - begin]
            multiply(part, matrix, some, workspace, plus=some if k > 0 else None)
        sums = target if direct else out.view(n, height, width, O)[:, : last - first, :OW]
        if bias is not None:
            sums.add_(bias)
        join.end(target, sums)


def input_gradient(
    dy: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, dx: Tensor, join: Join
) -> None:
    """dx (N, H, W, C) from dy (N, OH, OW, O), plus a bias (C,)."""
    (N, _, _, O), C = dy.shape, weight.shape[1]
    steps, workspace = plan(geometry), local_workspace(__name__)
    if len(steps.phases) < len(geometry.all_phases):
        # a stride larger than the kernel leaves pixels that nothing looks at
        if join is not WRITE:
            whole = torch.empty_like(dx)
            input_gradient(dy, weight, bias, geometry, whole, WRITE)
            join.put(dx, whole)
            return
        dx.zero_()
        if bias is not None:
            dx.add_(bias)
    (hy, hx), size = steps.halo, (dx.shape[1], dx.shape[2])
    (q0, q1), (c0, c1) = phase_range(geometry, size, 0), phase_range(geometry, size, 1)
    weight = factor(weight, "weight", workspace)
    matrices = [group.turned_matrix(weight) for group in steps.groups]
    channels = len(steps.phases) * C
    chunks = chunks_of_rows(N, q1 - q0, (c1 - c0 + hx) * max(channels, O), dy)
    for pictures, first, last in chunks:
        part = dy[pictures]
        n, height, width = part.shape[0], last - first + hy, c1 - c0 + hx
        top = q0 + first - hy
        window = workspace.empty("window", (n, height, width, O), dy, factor_type(dy))
        rows = copy_window(part, top, c0 - hx, window).view(-1, O)
        out = workspace.empty("sums", (n * height * width, channels), dy)
        started: set[int] = set()
        for group, matrix in zip(steps.groups, matrices, strict=True):
            # a window row is (hy - offset) rows before the output row it adds to
            begin = (hy - group.offset[0]) * width + hx - group.offset[1]
            count = n * height * width - hy * width - hx
            _add_columns(rows[begin : begin + count], matrix, out[:count], group, C, started, workspace)
        sums = out.view(n, height, width, len(steps.phases), C)[:, : last - first, : c1 - c0]
        if bias is not None:
            sums.add_(bias)
        for target, some in phase_pairs(sums, q0 + first, c0, geometry, steps.phases, dx[pictures]):
            join.put(target, some)


def weight_gradient(
    x: Tensor, dy: Tensor, d_weight: Tensor, d_bias: Tensor | None, geometry: Geometry
) -> None:
    """Adds dL/dweight (O, C, kh, kw) and dL/dbias (O,) in place."""
    N, OH, OW, O = dy.shape
    C = x.shape[3]
    steps = plan(geometry)
    chunks = chunks_of_rows(N, OH, (OW + steps.halo[1]) * max(C * len(steps.phases), O), x)
    workspace = local_workspace(__name__)
    d_matrices = [sums_of(x, len(group.taps) * C, O) for group in steps.groups]
    bias_sums = sums_of(dy, O)
    for pictures, first, last in chunks:
        rows, (n, height, width) = _input_rows(x, pictures, first, last, OW, steps, workspace)
        part = dy[pictures, first:last]
        if (height, width) != part.shape[1:3] or not part.is_contiguous():
            part = copy_window(part, 0, 0, workspace.empty("dy", (n, height, width, O), dy))
        if d_bias is not None:
            bias_sums.add_(sum_of_pixels(part))
        d_rows = factor(part, "factor", workspace).view(-1, O)
        for group, d_matrix in zip(steps.groups, d_matrices, strict=True):
            begin, end = _span(group, steps, height, width, n)
            columns = rows[begin:end, group.channels(C)].T
            multiply(columns, d_rows[: end - begin], d_matrix, workspace, plus=d_matrix)
    if d_bias is not None:
        d_bias.add_(bias_sums)
    for group, d_matrix in zip(steps.groups, d_matrices, strict=True):
        for (i, j), block in zip(group.taps, torch.split(d_matrix, C), strict=True):
            d_weight[:, :, i, j].add_(block.T)


def _input_rows(
    x: Tensor, pictures: slice, first: int, last: int, OW: int, steps: Plan, workspace: Workspace
) -> tuple[Tensor, tuple[int, int, int]]:
    """The phases of a window as rows (n height width, phases C), with a halo below and to the right."""
    x = x[pictures]
    n, C = x.shape[0], x.shape[3]
    height, width = last - first + steps.halo[0], OW + steps.halo[1]
    phases = len(steps.phases)
    if steps.geometry.is_plain and steps.geometry.padding == (0, 0) and steps.halo == (0, 0):
        whole = x[:, first:last]
        if whole.is_contiguous():
            return factor(whole, "window", workspace).view(-1, C), (n, height, width)
    window = workspace.empty("window", (n, height, width, phases * C), x, factor_type(x))
    windows = windows_of_phases(window, phases)
    for reading in phase_readings(x, first, 0, steps.geometry, steps.phases, windows, x):
        reading.read(x)
    return window.view(-1, phases * C), (n, height, width)


def _span(group: Group, steps: Plan, height: int, width: int, n: int) -> Pair:
    """The rows of a flattened window that a group reads; output row 0 meets the first of them."""
    begin = group.offset[0] * width + group.offset[1]
    return begin, begin + n * height * width - steps.halo[0] * width - steps.halo[1]


def _add_columns(
    rows: Tensor,
    matrix: Tensor,
    out: Tensor,
    group: Group,
    C: int,
    started: set[int],
    workspace: Workspace,
) -> None:
    """out[:, phases of the group] += rows @ matrix; the first product into a phase overwrites."""
    for begin, end, fresh in _runs(group, started):
        k = group.first_phase
        columns = out[:, begin * C : end * C]
        part = matrix[:, (begin - k) * C : (end - k) * C]
        multiply(rows, part, columns, workspace, plus=None if fresh else columns)
    started.update(range(group.first_phase, group.first_phase + len(group.taps)))


def _runs(group: Group, started: set[int]) -> Iterator[tuple[int, int, bool]]:
    """The phases of a group in runs that are all begun, or all not."""
    begin = group.first_phase
    stop = begin + len(group.taps)
    while begin < stop:
        fresh = begin not in started
        end = begin + 1
        while end < stop and (end not in started) == fresh:
            end += 1
        yield begin, end, fresh
        begin = end
