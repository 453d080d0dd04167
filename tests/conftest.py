"""What all tests share."""

import pytest
import torch
from torch import Tensor

from denoise_cli.nn.kernels import products

torch.set_num_threads(1)  # tests are small: threads would cost more than they save


@pytest.fixture
def rounded_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a processor with bfloat16 does to products, on any processor: factors rounded, sums in float32."""

    def rounding(product):
        def rounded(*tensors: Tensor, **rest):
            *sums, a, b = tensors
            if torch.get_float32_matmul_precision() == "medium":
                a, b = a.bfloat16().float(), b.bfloat16().float()
            return product(*sums, a, b, **rest)

        return rounded

    monkeypatch.setattr(products, "_onednn_keeps_float32", lambda: False)
    for name in ("mm", "bmm", "addmm"):
        monkeypatch.setattr(torch, name, rounding(getattr(torch, name)))
    for name in ("addmm_", "baddbmm_"):
        monkeypatch.setattr(Tensor, name, rounding(getattr(Tensor, name)))
