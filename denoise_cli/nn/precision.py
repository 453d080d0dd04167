"""How precisely products are computed. Tensors, sums and weights are float32 either way.

A training goes further where it can, see `mixed_precision`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def matmul_precision() -> str | None:
    """How torch's float32 products may round; None where that is set by `torch.backends...fp32_precision`.

    torch allows one of its two sets of names for it, and the newer one is the choice of whoever uses it.
    """
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Inside, float32 matrix products round their factors to bfloat16 where the processor is faster at it.

    A factor is then off by up to 0.2 %, and sums are kept in float32; `kernels.products` tells how that
    is done, and which factors stay as they are. On a processor without bfloat16 nothing changes, nor where
    `matmul_precision` is None.
    """
    before = matmul_precision()
    if before is None:
        yield
        return
    torch.set_float32_matmul_precision("medium" if precision == "bf16" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
