"""Filters and their transforms, in scratch memory: what Winograd's kernel multiplies tiles by.

U = G g G^T of all filters is one product of a small matrix with planes, those of all filters at one tap, and
so is the gradient dg = G^T dU G, which adds up the sums dU of all parts. The scratch memory has "filters" for
U and "sums" for dU; "products", which tiles use in between, has the taps.
"""

from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace
from denoise_cli.nn.kernels.geometry import View, stencil
from denoise_cli.nn.kernels.minimal_filters import MinimalFilter, matrices
from denoise_cli.nn.kernels.products import multiply_planes
from denoise_cli.nn.kernels.tiles import Phased


class FilterTransforms:
    """U = G g G^T of the filters of a weight (O, C, kh, kw), once for each part of a chunk, and the gradient
    dU, summed over all chunks, once for each share of a part.

    `turned`: of filters turned by 180 degrees, C and O exchanged.
    """

    def __init__(
        self,
        workspace: Workspace,
        like: Tensor,
        f: MinimalFilter,
        stride: int,
        inputs: Phased,
        outputs: Phased,
        parts: int,
        shares: int,
        *,
        turned: bool,
    ) -> None:
        r, s, places, self._parts, self.turned = f.taps, stride, f.inputs**2, parts, turned
        ins, outs = inputs.channels, outputs.channels
        O, C = (inputs.shape[3], outputs.shape[3]) if turned else (outputs.shape[3], inputs.shape[3])
        m, weight, self._phases = matrices(f, like), stencil((O, C, r * s, r * s)), s > 1
        transform = m.turned_filters if turned else m.filters
        # (O, s, s, C) or (s, s, C, O), inputs of a product and its outputs, and the taps: these first where
        # there are phases, as torch is slow to copy runs of two
        channels, taps = ((0, 3, 5, 1) if turned else (3, 5, 1, 0)), (2, 4)
        order = (*taps, *channels) if self._phases else (*channels, *taps)
        filters = weight.view(O, C, r, s, r, s).permute(*order)
        self._filters = View(filters, weight)
        self._taps = workspace.empty("products", tuple(filters.shape), like)
        u = workspace.empty("filters", (parts, places, ins * outs), like)
        self._matrix, self._first, self._others = transform, u[0], u[1:]
        self._u = u.view(-1, ins, outs)
        # G^T (x) G^T once for each sum: transforms them and adds them up
        adjoint, size = transform.T.repeat_interleave(shares, 1).repeat(1, parts), O * s * s * C
        sums = workspace.empty("sums", (adjoint.shape[1], size), like)
        d_taps = workspace.empty("products", (r * r, size), like)
        self._adjoint, self._d_u = (adjoint, sums, d_taps), sums.view(-1, O, s * s * C)
        # (row, column of the tap, O, row, column of the phase, C) -> (O, r, s, r, s, C) -> (O, C, taps)
        self._d_filters = d_taps.view(r, r, O, s, s, C).permute(2, 0, 3, 1, 4, 5)
        self._by_tap = workspace.empty("sums", tuple(self._d_filters.shape), like)  # which have been added up
        self._d_weight = (self._by_tap if self._phases else self._d_filters).view(O, -1, C).transpose(1, 2)

    def transform(self, weight: Tensor) -> None:
        """Makes U of the filters of a weight, where they lie if that is the order of the product."""
        filters, taps = self._filters.of(weight.contiguous()), self._matrix.shape[1]
        if not filters.is_contiguous():
            filters = self._taps.copy_(filters)
        planes = filters.view(taps, -1) if self._phases else filters.view(-1, taps).T
        multiply_planes(self._matrix, planes, self._first)
        if self._parts > 1:
            self._others.copy_(self._first.expand_as(self._others))

    def add_gradient(self, d_weight: Tensor) -> None:
        """Adds G^T dU G of every filter to dL/dweight."""
        multiply_planes(*self._adjoint)
        if self._phases:
            self._by_tap.copy_(self._d_filters)
        d_weight.view(self._d_weight.shape).add_(self._d_weight)

    def of(self, parts: int) -> tuple[Tensor, Tensor]:
        """U (parts places, inputs, outputs) and dU (parts places shares, O, s s C) of the first parts."""
        u, d_u = (t.view(self._parts, -1, *t.shape[1:])[:parts].flatten(0, 1) for t in (self._u, self._d_u))
        return u, d_u
