"""What all tests share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from denoise_cli.nn.kernels import products

torch.set_num_threads(1)  # tests are small: threads would cost more than they save


@pytest.fixture
def rounded_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kernels do where the processor has products of bfloat16, on any processor."""
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda device: device.type == "cpu")


@pytest.fixture
def rounded_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor that rounds, where allowed, the factors of batches alone; torch cannot tell."""
    monkeypatch.setattr(torch, "bmm", rounding(torch.bmm))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    products._onednn_keeps_float32.cache_clear()
    yield
    products._onednn_keeps_float32.cache_clear()


def rounding(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A product of torch whose factors are rounded, where that is allowed; sums in float32."""

    def rounded(*tensors: Tensor, **rest: Any) -> Tensor:
        *sums, a, b = tensors
        if torch.get_float32_matmul_precision() == "medium" and a.dtype == torch.float32:
            a, b = a.bfloat16().float(), b.bfloat16().float()
        return product(*sums, a, b, **rest)

    return rounded
