"""Matrix products, by the fastest way that the precision asked for allows.

Float32. torch hands products to MKL, which has code for AVX2 only where the processor is not Intel's. Where
factors may be rounded to bfloat16, it hands them to oneDNN. That library rounds them only where the
processor has units for matrices of bfloat16 (AMX); elsewhere it keeps float32, and with AVX-512 it is up to
2.4 times as fast as MKL. So rounding is allowed exactly where oneDNN, asked once, makes no use of it.

bfloat16. A processor with instructions for products of bfloat16 (AVX512-BF16, AMX) is two to six times as
fast with them. `columns` and `shifted` round the factors of wide layers as they gather them, and `multiply`
their product; Winograd's kernel does not, as the copies would cost what they save. A layer of few channels
keeps float32: it has little to gain, and in the first and the last layer the channels are the picture, of
which 8 bits would be left. Error where factors are rounded: up to 1 % of the largest output.

Accelerators. A GPU with units for matrices of bfloat16 is served in the same way, and its narrow layers by
TF32, factors of 11 bits. Rounded products are cheap beside a pass over memory, so that kernels which save
products at the price of more passes are not worth it there; those of float32 are from 64 channels on.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import Workspace
from denoise_cli.nn.precision import matmul_precision

WIDE = 32
"""Channels from which factors are rounded by the kernels."""


class _Mode(threading.local):
    dtype: torch.dtype | None = None
    rounded = on_accelerator = False


_mode = _Mode()


@contextmanager
def products_of(x: Tensor, weight: Tensor) -> Iterator[None]:
    """Inside, the products that convolve `x` with a weight (O, C, kh, kw) are as fast as they may be."""
    allowed, on_cpu = matmul_precision(), x.device.type == "cpu"
    wide = min(weight.shape[:2]) >= WIDE and x.dtype == torch.float32
    if allowed == "medium" and wide and multiplies_bfloat16(x.device):
        _mode.dtype = torch.bfloat16
    _mode.on_accelerator = not on_cpu
    _mode.rounded = torch.bfloat16 in (_mode.dtype, x.dtype) or not (on_cpu or allowed == "highest")
    wanted = allowed
    if on_cpu and allowed in ("highest", "medium"):
        wanted = "medium" if _onednn_keeps_float32() else "highest"
    if wanted and wanted != allowed:
        torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        if allowed and wanted != allowed:
            torch.set_float32_matmul_precision(allowed)
        _mode.dtype, _mode.rounded, _mode.on_accelerator = None, False, False


def products_are_cheap() -> bool:
    """Whether products cost little beside calls and sums: rounded ones, and those of an accelerator."""
    return _mode.rounded or _mode.on_accelerator


def products_are_worth_saving(channels: int) -> bool:
    """Whether products of so many channels cost more than the passes over memory that would save most of
    them: not where factors are rounded, and on an accelerator from more channels on."""
    return channels >= (64 if _mode.on_accelerator else 32) and not _mode.rounded


def sums_of(like: Tensor, *shape: int) -> Tensor:
    """Zeros to which products or values of `like`'s type are added chunk by chunk: float32 at the least."""
    return like.new_zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32))


def sum_of_pixels(dy: Tensor) -> Tensor:
    """The sum over all pixels of pictures (N, H, W, C), (C,): of each picture by itself, as threads share
    them out."""
    return dy.sum((1, 2)).sum(0, dtype=torch.promote_types(dy.dtype, torch.float32))


def factor_type(like: Tensor) -> torch.dtype:
    """What the factors of products are rounded to by the kernels: bfloat16, or `like`'s own type."""
    return _mode.dtype or like.dtype


def factor(x: Tensor, name: str, workspace: Workspace) -> Tensor:
    """`x` as a factor of products: itself, or rounded in scratch memory of that name."""
    dtype = factor_type(x)
    return x if x.dtype == dtype else workspace.empty(name, tuple(x.shape), x, dtype).copy_(x)


def multiply_planes(matrix: Tensor, planes: Tensor, out: Tensor) -> None:
    """out ([n,] b, size) = matrix ([n,] b, a) planes ([n,] a, size), without rounding: a few long planes, for
    which MKL is faster whatever the processor."""
    allowed = matmul_precision()
    if allowed == "medium":
        torch.set_float32_matmul_precision("highest")
    (torch.mm if matrix.dim() == 2 else torch.bmm)(matrix, planes, out=out)
    if allowed == "medium":
        torch.set_float32_matmul_precision("medium")


def operands(matrix: Tensor, planes: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix (b, a), planes (n, a, size) and products (n, b, size) for `multiply_planes`: without n where
    it is 1, as a batch of one takes torch 10 us more than a product by itself."""
    n = planes.shape[0]
    return (matrix, planes[0], out[0]) if n == 1 else (matrix.expand(n, -1, -1), planes, out)


def multiply(a: Tensor, b: Tensor, out: Tensor, workspace: Workspace, plus: Tensor | None = None) -> None:
    """out = a b + plus, of matrices or of batches of them, whose factors may be of a shorter type than `out`.

    With `out` itself as `plus`, the product is added to it.
    """
    product, product_and_sum = (torch.mm, torch.addmm) if a.dim() == 2 else (torch.bmm, torch.baddbmm)
    if a.dtype == out.dtype:
        if plus is None:
            product(a, b, out=out)
        else:
            product_and_sum(plus, a, b, out=out)
        return
    shorter = product(a, b, out=workspace.empty("product", tuple(out.shape), out, a.dtype))
    if plus is None:
        out.copy_(shorter)
    else:
        torch.add(shorter, plus, out=out)


@cache
def _onednn_keeps_float32() -> bool:
    """Whether products whose factors may be rounded to bfloat16 are not.

    Where torch cannot tell the processor's instructions, products of kernels' sizes are tried: 1 + 2^-20
    would be rounded to 1. With AMX oneDNN rounds those of batches, but not that of two matrices of 64 x 64.
    """
    if _cpu_has("amx_bf16"):
        return False
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return all(_keeps_float32(*shape) for shape in ((64, 64), (1024, 128), (36, 256, 64), (4, 1024, 128)))
    finally:
        torch.set_float32_matmul_precision(before)


def _keeps_float32(*shape: int) -> bool:
    probe = torch.full(shape, 1 + 2**-20)
    unit = torch.eye(shape[-1]).expand(*shape[:-2], -1, -1).contiguous()
    product = torch.mm if len(shape) == 2 else torch.bmm
    return bool((product(probe, unit) == probe).all())


@cache
def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device is known to have instructions for it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (_cpu_has("avx512_bf16") or not _onednn_keeps_float32())


def _cpu_has(instructions: str) -> bool:
    """Whether the CPU has such instructions, as far as this version of torch can tell."""
    try:
        return bool(torch.cpu.get_capabilities().get(instructions))
    except AttributeError:
        return False
