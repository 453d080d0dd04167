"""Every kernel against torch.nn.functional and autograd: values, gradients, error bounds, chunks, threads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from denoise_cli.nn import kernels
from denoise_cli.nn.kernels import KERNELS, chunks, columns, depthwise, memory, shifted, winograd
from denoise_cli.nn.kernels.chunks import Scratch
from denoise_cli.nn.kernels.geometry import Geometry
from denoise_cli.nn.kernels.joining import ADD, WRITE, Join, adding
from denoise_cli.nn.kernels.minimal_filters import F_3_2, F_4_2, F_4_3, MinimalFilter, matrices
from denoise_cli.nn.kernels.products import products_of
from denoise_cli.nn.precision import products_in

GEOMETRIES = [
    Geometry((3, 3), padding=(1, 1)),
    Geometry((3, 3), padding=(0, 2)),
    Geometry((1, 1)),
    Geometry((5, 2), padding=(2, 1)),
    Geometry((2, 2), padding=(1, 0)),
    Geometry((2, 2), stride=(2, 2)),
    Geometry((4, 4), stride=(2, 2), padding=(1, 1)),
    Geometry((6, 6), stride=(3, 3), padding=(2, 3)),
    Geometry((3, 3), stride=(2, 2), padding=(1, 1)),
    Geometry((3, 3), padding=(2, 2), dilation=(2, 2)),
    Geometry((2, 3), stride=(3, 2), padding=(0, 1), dilation=(1, 2)),
]
CASES = [
    pytest.param(
        kernel, geometry, id=f"{name}-{'x'.join(map(str, geometry.kernel))}s{geometry.stride[0]}-{i}"
    )
    for name, kernel in KERNELS.items()
    for i, geometry in enumerate(GEOMETRIES)
    if kernel.fits(geometry)
]


def pictures(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def ours(kernel: ModuleType, x: Tensor, w: Tensor, b: Tensor, dy: Tensor, g: Geometry) -> list[Tensor]:
    """y, dx, dw, db; the two sums start from ones, so that overwriting them shows."""
    xs, dys, dw, db = pictures(x), pictures(dy), torch.ones_like(w), torch.ones_like(b)
    y, dx = torch.full_like(dys, torch.nan), torch.full_like(xs, torch.nan)
    kernel.forward(xs, w, b, g, y, WRITE)
    kernel.input_gradient(dys, w, None, g, dx, WRITE)
    kernel.weight_gradient(xs, dys, dw, db, g)
    return [y.permute(0, 3, 1, 2), dx.permute(0, 3, 1, 2), dw - 1, db - 1]


def theirs(x: Tensor, w: Tensor, b: Tensor, dy: Tensor, g: Geometry, groups: int = 1) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    y = functional.conv2d(*leaves, stride=g.stride, padding=g.padding, dilation=g.dilation, groups=groups)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def random_case(
    g: Geometry, N: int, C: int, O: int, size: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = torch.randn(N, C, *size, dtype=dtype)
    w, b = torch.randn(O, C, *g.kernel, dtype=dtype), torch.randn(O, dtype=dtype)
    return x, w, b, torch.randn(N, O, *g.output_size(size), dtype=dtype)


def errors(one: list[Tensor], other: list[Tensor]) -> list[float]:
    """The largest error as a part of the largest value, or of 1, the size of each term, where all cancel."""
    for a, b in zip(one, other, strict=True):
        assert a.shape == b.shape
    pairs = zip(one, other, strict=True)
    return [((a - b).abs().max() / b.abs().max().clamp_min(1)).item() for a, b in pairs]


@contextmanager
def chunks_of(size: int) -> Iterator[None]:
    """Chunks of about `size` values of float64."""
    before, chunks.CHUNK = chunks.CHUNK, 8 * size
    try:
        yield
    finally:
        chunks.CHUNK = before


@pytest.mark.parametrize(("kernel", "g"), CASES)
@settings(max_examples=12, deadline=None)
@given(
    N=st.integers(1, 3),
    C=st.integers(1, 5),
    O=st.integers(1, 5),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    chunk=st.sampled_from([1, 300, 2**18]),
)
def test_parity_in_float64(
    kernel: ModuleType, g: Geometry, N: int, C: int, O: int, extra: tuple[int, int], chunk: int
) -> None:
    size = tuple(max(1, e - 2 * p) + n for e, p, n in zip(g.extent, g.padding, extra, strict=True))
    case = random_case(g, N, C, O, (size[0], size[1]), torch.float64)
    with chunks_of(chunk):
        assert max(errors(ours(kernel, *case, g), theirs(*case, g))) < 1e-12


@pytest.mark.parametrize(("kernel", "g"), CASES)
def test_stated_error_in_float32(kernel: ModuleType, g: Geometry) -> None:
    """All kernels promise 2e-6 of the largest value or better, against exact sums."""
    torch.manual_seed(0)
    case = random_case(g, 2, 64, 48, (21, 18), torch.float32)
    exact = theirs(*(t.double() for t in case), g)
    assert max(errors([t.double() for t in ours(kernel, *case, g)], exact)) < 4e-6


@pytest.mark.parametrize(("kernel", "g"), CASES)
@pytest.mark.usefixtures("rounded_products")
def test_stated_error_in_bfloat16(kernel: ModuleType, g: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kernel rounds its factors, it is off by up to 1 % of the largest value."""
    torch.manual_seed(0)
    case = random_case(g, 2, 64, 48, (21, 18), torch.float32)
    exact = theirs(*(t.double() for t in case), g)
    monkeypatch.setattr(kernels, "choose", lambda *_: kernel)
    with products_in("bf16"):
        worst = max(errors([t.double() for t in ours(kernels, *case, g)], exact))
    assert worst < 1e-2
    assert (worst > 1e-4) == (kernel is not winograd)


@pytest.mark.parametrize(("kernel", "g"), CASES)
@pytest.mark.parametrize(
    ("N", "size", "threads", "chunk"),
    [(5, (14, 13), 3, 500), (1, (70, 9), 2, 3000), (4, (30, 21), 2, 2000), (1, (45, 17), 4, 4000)],
)
def test_chunks_and_threads_change_nothing_but_rounding(
    kernel: ModuleType,
    g: Geometry,
    N: int,
    size: tuple[int, int],
    threads: int,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pictures are shared out between threads, or the rows of one, in bands of odd heights too."""
    monkeypatch.setattr(kernels, "choose", lambda *_: kernel)
    case = random_case(g, N, 6, 7, size, torch.float64)
    whole = ours(kernel, *case, g)
    torch.set_num_threads(threads)
    try:
        with chunks_of(chunk):
            parts = ours(kernel, *case, g)
            again = ours(kernel, *case, g)
            added = torch.ones_like(pictures(whole[0]))
            kernels.forward(pictures(case[0]), case[1], case[2], g, added, ADD)
    finally:
        torch.set_num_threads(1)
    assert max(errors(parts, whole)) < 1e-13
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    torch.testing.assert_close(added - 1, pictures(whole[0]))


def halve(memory: Tensor) -> None:
    memory.mul_(0.5)


JOINS = {
    "add": ADD,
    "multiply": Join(lambda memory, result: memory.mul_(result)),
    "halve": Join(lambda memory, result: memory.copy_(result).mul_(0.5), finish=halve),
    "halve anywhere": Join(lambda memory, result: memory.copy_(result).mul_(0.5), halve, pointwise=True),
}


@pytest.mark.parametrize(("kernel", "g"), [*CASES, *(pytest.param(depthwise, g) for g in GEOMETRIES)])
@pytest.mark.parametrize("size", [(12, 16), (13, 9)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_results_are_joined_with_what_is_in_memory(
    kernel: ModuleType, g: Geometry, size: tuple[int, int], with_bias: bool, join: Join
) -> None:
    """What a kernel would write, once at every place, whatever its chunks."""
    O = 1 if kernel is depthwise else 5
    x, w, b, dy = random_case(g, 2, 1 if kernel is depthwise else 3, O, size, torch.float32)
    if kernel is depthwise:
        x, w, b, dy = x.repeat(1, 3, 1, 1), w.repeat(3, 1, 1, 1), b.repeat(3), dy.repeat(1, 3, 1, 1)
    for map_, taken, bias, like in (
        (kernel.forward, pictures(x), b, pictures(dy)),
        (kernel.input_gradient, pictures(dy), torch.randn(3), pictures(x)),
    ):
        result, memory = torch.empty_like(like), torch.randn_like(like)
        before, some_bias = memory.clone(), bias if with_bias else None
        with chunks_of(2000):
            map_(taken, w, some_bias, g, result, WRITE)
            map_(taken, w, some_bias, g, memory, join)
        join.put(before, result)
        torch.testing.assert_close(memory, before)


@pytest.mark.parametrize(("kernel", "g"), [*CASES, *(pytest.param(depthwise, g) for g in GEOMETRIES)])
@pytest.mark.parametrize("size", [(12, 16), (13, 9)])
def test_pictures_may_lie_anywhere_and_others_may_be_added(
    kernel: ModuleType, g: Geometry, size: tuple[int, int]
) -> None:
    """One and two further pictures before what is read, what is added and what is written."""
    C, O = (1, 3) if kernel is depthwise else (3, 5)
    x, w, b, dy = random_case(g, 2, C, O, size, torch.float32)
    x = x.expand(-1, 3, -1, -1)

    def behind(count: int, t: Tensor) -> Tensor:
        return torch.cat([torch.full_like(t[:1], torch.nan)] * count + [t])[count:]

    for map_, taken, bias, like in (
        (kernel.forward, pictures(x), b, pictures(dy)),
        (kernel.input_gradient, pictures(dy), torch.randn(3), pictures(x)),
    ):
        result, other = torch.empty_like(like), torch.randn_like(like)
        memory = behind(2, torch.full_like(like, torch.nan))
        with chunks_of(2000):
            map_(taken, w, bias, g, result, WRITE)
            map_(behind(1, taken), w, bias, g, memory, adding(behind(1, other), memory))
        torch.testing.assert_close(memory, result + other)


@pytest.mark.parametrize(("kernel", "g"), CASES)
@pytest.mark.parametrize("widths", [(3, 5), (5, 3), (16, 16), (33, 14)])
@pytest.mark.parametrize("chunk", [1000, 2**18])
@pytest.mark.parametrize("join", [WRITE, JOINS["multiply"]])
def test_both_gradients_at_once(
    kernel: ModuleType,
    g: Geometry,
    widths: tuple[int, int],
    chunk: int,
    join: Join,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one after the other has them, also where one lies in the memory of what the other is made from."""
    monkeypatch.setattr(kernels, "choose", lambda *_: kernel)
    x, w, b, dy = random_case(g, 2, *widths, (9, 8), torch.float64)
    y, dx, dw, db = ours(kernel, x, w, b, dy, g)

    def joined(memory: Tensor, result: Tensor) -> Tensor:
        expected = memory.clone()
        join.put(expected, result)
        return expected

    xs, dys, d_weight, d_bias = pictures(x), pictures(dy), torch.ones_like(w), torch.ones_like(b)
    expected = [joined(xs, pictures(dx)), joined(dys, pictures(y) - b), dw, db, dw]
    torch.set_num_threads(2)
    try:
        with chunks_of(chunk):
            memory, transposed = xs.clone(), dys.clone()
            kernels.gradients(memory, dys, w, d_weight, d_bias, g, memory, join)
            d_weight_2 = torch.ones_like(w)
            kernels.transposed_gradients(transposed, xs, w, d_weight_2, g, transposed, join)
    finally:
        torch.set_num_threads(1)
    found = [memory, transposed, d_weight - 1, d_bias - 1, d_weight_2 - 1]
    assert max(errors(found, expected)) < 1e-12


@pytest.mark.parametrize(("kernel", "g"), CASES)
def test_stated_error_of_both_gradients_at_once(
    kernel: ModuleType, g: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(kernels, "choose", lambda *_: kernel)
    case = random_case(g, 2, 64, 48, (21, 18), torch.float32)
    y, dx, dw, db = theirs(*(t.double() for t in case), g)
    x, w, b, dy = case
    d_weight, d_bias, d_weight_2 = torch.zeros_like(w), torch.zeros_like(b), torch.zeros_like(w)
    xs, dys = torch.empty_like(pictures(x)), torch.empty_like(pictures(dy))
    kernels.gradients(pictures(x), pictures(dy), w, d_weight, d_bias, g, xs)
    kernels.transposed_gradients(pictures(dy), pictures(x), w, d_weight_2, g, dys)
    found = [t.double() for t in (xs, d_weight, d_bias, dys, d_weight_2)]
    expected = [pictures(dx), dw, db, pictures(y - b.double()[:, None, None]), dw]
    assert max(errors(found, expected)) < 4e-6


@pytest.mark.parametrize("g", [g for g in GEOMETRIES if winograd.fits(g)])
@pytest.mark.parametrize("threads", [1, 2])
def test_shares_of_tiles_change_nothing_but_rounding(
    g: Geometry, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU sums the gradients of filters over shares of the tiles; here a processor does."""
    case = random_case(g, 4, 6, 7, (21, 18), torch.float64)
    monkeypatch.setattr(winograd, "_shares", lambda *_: 2)
    torch.set_num_threads(threads)
    try:
        with chunks.fresh_scratch():
            assert max(errors(ours(winograd, *case, g), theirs(*case, g))) < 1e-12
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("kernel", "groups"), [(columns, 1), (shifted, 1), (depthwise, 8)])
def test_sums_over_many_chunks_of_bfloat16_are_exact(kernel: ModuleType, groups: int) -> None:
    """In bfloat16 itself, what one more chunk adds to 256 others would be lost."""
    torch.manual_seed(0)
    g, pixels = Geometry((3, 3), padding=(1, 1)), (512, 8, 6, 6)
    x, dy = torch.rand(pixels).bfloat16(), torch.rand(pixels).bfloat16()
    d_weight, d_bias = torch.zeros(8, 8 // groups, 3, 3).bfloat16(), torch.zeros(8).bfloat16()
    with chunks_of(1):
        kernel.weight_gradient(pictures(x), pictures(dy), d_weight, d_bias, g)
    exact = theirs(x.double(), d_weight.double(), d_bias.double(), dy.double(), g, groups)[2:]
    assert max(errors([d_weight.double(), d_bias.double()], exact)) < 2**-8


@pytest.mark.usefixtures("rounded_products")
def test_both_gradients_at_once_in_bfloat16() -> None:
    torch.manual_seed(0)
    g = Geometry((3, 3), padding=(1, 1))
    x, w, b, dy = random_case(g, 2, 64, 48, (21, 18), torch.float32)
    exact = theirs(*(t.double() for t in (x, w, b, dy)), g)[1:]
    dx, d_weight, d_bias = torch.empty_like(pictures(x)), torch.zeros_like(w), torch.zeros_like(b)
    with products_in("bf16"):
        kernels.gradients(pictures(x), pictures(dy), w, d_weight, d_bias, g, dx)
    worst = max(errors([t.double() for t in (dx.permute(0, 3, 1, 2), d_weight, d_bias)], exact))
    assert 1e-4 < worst < 1e-2


@pytest.mark.parametrize("g", GEOMETRIES)
@pytest.mark.parametrize("chunk", [1, 300, 2**18])
def test_depthwise_convolutions(g: Geometry, chunk: int) -> None:
    """One window for each channel: as the oracle has it with as many groups as channels."""
    C = 5
    _, w, b, dy = random_case(g, 2, 1, C, (14, 13), torch.float64)
    x = torch.randn(2, C, 14, 13, dtype=torch.float64)
    with chunks_of(chunk):
        mine = ours(depthwise, x, w, b, dy, g)
    assert max(errors(mine, theirs(x, w, b, dy, g, groups=C))) < 1e-12


@pytest.mark.parametrize("widths", [(3, 64), (64, 3), (16, 64), (64, 32), (48, 64), (96, 48)])
@pytest.mark.parametrize(
    "g",
    [
        Geometry((3, 3), padding=(1, 1)),
        Geometry((5, 5), padding=(2, 2)),
        Geometry((2, 2), stride=(2, 2)),
        Geometry((4, 4), stride=(2, 2), padding=(1, 1)),
    ],
    ids=["3x3", "5x5", "2x2s2", "4x4s2"],
)
def test_whatever_is_chosen_is_right(g: Geometry, widths: tuple[int, int]) -> None:
    """The three maps of a layer may each be another kernel's."""
    torch.manual_seed(0)
    case = random_case(g, 2, *widths, (16, 18), torch.float32)
    exact = theirs(*(t.double() for t in case), g)
    assert max(errors([t.double() for t in ours(kernels, *case, g)], exact)) < 4e-6


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_can_be_forced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_KERNEL", name)
    assert kernels.choose("forward", Geometry((3, 3), padding=(1, 1)), 8, 8) is KERNELS[name]


def test_forcing_a_kernel_where_it_does_not_fit_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_KERNEL", "winograd")
    chosen = kernels.choose("forward", Geometry((5, 5), dilation=(2, 2)), 64, 64)
    assert chosen.fits(Geometry((5, 5), dilation=(2, 2)))


@pytest.mark.parametrize("f", [F_4_3, F_4_2, F_3_2], ids=["F(4,3)", "F(4,2)", "F(3,2)"])
def test_minimal_filters_are_convolutions(f: MinimalFilter) -> None:
    """Y = A^T [(G g G^T) * (B^T d B)] A is the correlation of d with g."""
    d, g = (torch.randn(side, side, dtype=torch.float64) for side in (f.inputs, f.taps))
    m = matrices(f, d)
    y = m.outputs @ ((m.filters @ g.flatten()) * (m.inputs @ d.flatten()))
    expected = functional.conv2d(d[None, None], g[None, None]).flatten()
    torch.testing.assert_close(y, expected)


def test_memory_is_used_again_but_never_shared() -> None:
    like = torch.empty(0)
    size = memory.SMALL
    first = memory.empty((size,), like).fill_(1)
    view = first[10:20]
    place = first.data_ptr()
    del first
    other = memory.empty((size,), like)  # a view still lives on the first block
    assert other.data_ptr() != place
    assert torch.equal(view, torch.ones(10))
    del view
    assert memory.empty((size,), like).data_ptr() == place


def test_memory_in_use_survives_letting_go() -> None:
    like = torch.empty(0)
    held, gone = memory.empty((memory.SMALL,), like).fill_(1), memory.empty((memory.SMALL,), like)
    del gone
    memory.let_go()
    memory.empty((memory.SMALL,), like).fill_(2)
    assert (held == 1).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_write_into_our_memory() -> None:
    held = memory.empty((memory.SMALL,), torch.empty(0)).fill_(1)
    child = os.fork()
    if child == 0:
        held.numpy()[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (held == 1).all()


def test_workspaces_share_memory_and_their_names_do_not() -> None:
    scratch, like = Scratch(), torch.empty(0)
    names = ("a", "b", "c")
    for user in ("one", "other", "one"):
        workspace = scratch.workspace(user)
        for size in (10, 1000):  # the second moves everything, and what was given out stays whole
            tensors = [workspace.empty(name, (size,), like).fill_(i) for i, name in enumerate(names)]
            assert [t.mean().item() for t in tensors] == [0, 1, 2]
    one, other = (scratch.workspace(user).empty("a", (1000,), like) for user in ("one", "other"))
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    assert scratch.blocks[like.device].numel() < 1.1 * 3 * 1000 * 4


def test_scratch_memory_may_be_asked_for_nothing() -> None:
    assert Scratch().workspace("user").empty("a", (2, 0), torch.empty(0)).shape == (2, 0)


@pytest.mark.parametrize(("kernel", "g"), CASES)
def test_a_weight_gradient_may_come_first(kernel: ModuleType, g: Geometry) -> None:
    """Before any other map has asked for scratch memory."""
    torch.manual_seed(0)
    case = random_case(g, 2, 5, 6, (12, 11), torch.float64)
    x, w, b, dy = case
    d_weight, d_bias = torch.zeros_like(w), torch.zeros_like(b)
    with chunks.fresh_scratch():
        kernel.weight_gradient(pictures(x), pictures(dy), d_weight, d_bias, g)
    assert max(errors([d_weight, d_bias], theirs(*case, g)[2:])) < 1e-12


def test_products_in_float32_do_not_round_their_factors() -> None:
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    with products_of(a, torch.empty(64, 64, 3, 3)):
        product = a @ b
    assert torch.get_float32_matmul_precision() == "highest"
    exact = a.double() @ b.double()
    assert (product - exact).abs().max() < 1e-6 * exact.abs().max()
