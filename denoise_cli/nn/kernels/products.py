"""Float32 matrix products by the faster of the libraries that torch carries.

torch hands float32 products to MKL, which has code for AVX2 only where the processor is not Intel's. Where
factors may be rounded to bfloat16, it hands them to oneDNN. That library rounds them only where the processor
multiplies matrices of bfloat16 by itself (AMX); elsewhere it keeps float32, and with AVX-512 it is up to 2.4
times as fast as MKL. So rounding is allowed exactly where oneDNN, asked once, makes no use of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from denoise_cli.nn.precision import matmul_precision


@contextmanager
def fast_products(like: Tensor) -> Iterator[None]:
    """Inside, float32 products of tensors on `like`'s device are as fast as they can be without rounding."""
    allowed = matmul_precision()
    if like.device.type != "cpu" or allowed != "highest" or not _onednn_keeps_float32():
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)


@cache
def _onednn_keeps_float32() -> bool:
    """Whether products whose factors may be rounded to bfloat16 are not: 1 + 2^-20 would be rounded to 1."""
    before = torch.get_float32_matmul_precision()
    factor = torch.full((64, 64), 1 + 2**-20)
    torch.set_float32_matmul_precision("medium")
    try:
        return bool(((factor @ torch.eye(64)) == factor).all())
    finally:
        torch.set_float32_matmul_precision(before)
