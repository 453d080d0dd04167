"""What all tests share."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from denoise_cli.nn.kernels import products

torch.set_num_threads(1)  # tests are small: threads would cost more than they save


@pytest.fixture(params=["units", "instructions"])
def rounded_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What processors with units for matrices of bfloat16, or with instructions for it, do to products."""
    if request.param == "units":
        round_factors_in_torch(monkeypatch)
    else:
        round_factors_in_kernels(monkeypatch)


@pytest.fixture
def rounded_by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What kernels do where the processor has instructions for bfloat16, on any processor."""
    round_factors_in_kernels(monkeypatch)


def round_factors_in_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: True)
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda device: device.type == "cpu")


def round_factors_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: False)
    for name in ("mm", "bmm", "addmm", "baddbmm"):
        monkeypatch.setattr(torch, name, rounding(getattr(torch, name)))
    monkeypatch.setattr(Tensor, "addmm_", rounding(Tensor.addmm_))


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
