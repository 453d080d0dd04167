"""bfloat16 products: what they change, and that nothing else changes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from oracle import picture

from denoise_cli.nn import build
from denoise_cli.nn.precision import products_in

NET = [
    {"conv2d": {"in_channels": 3, "out_channels": 32, "kernel_size": 3, "padding": 1}},
    "elu",
    {"conv2d": {"in_channels": 32, "out_channels": 32, "kernel_size": 3, "padding": 1}},
    "elu",
    {"conv2d": {"in_channels": 32, "out_channels": 32, "kernel_size": 2, "stride": 2}},
    {"transpose_conv2d": {"in_channels": 32, "out_channels": 3, "kernel_size": 2, "stride": 2}},
]


def test_the_setting_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with products_in("bf16"):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("rounded_products")
def test_a_network_changes_by_the_rounding_of_its_factors() -> None:
    """Off by more than nothing, and by less than 5 %, in values and in gradients; float32 throughout."""
    torch.manual_seed(0)
    net, x = build(NET), picture((2, 3, 16, 16), dtype=torch.float32)
    dy = torch.randn(x.shape)
    results = []
    for precision in ("float32", "bf16"):
        for _, grad in net.param():
            grad.zero_()
        with products_in(precision):
            y = net.forward(x)
            dx = net.backward(dy)
        results.append([y, dx, *(grad.clone() for _, grad in net.param())])
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        error = (exact - rounded).norm() / exact.norm()
        assert error < 0.05
    assert not torch.equal(results[0][0], results[1][0])


@pytest.mark.usefixtures("rounded_products")
def test_kernels_do_not_round_where_the_channels_are_the_picture() -> None:
    """Of a picture in bfloat16, 8 bits would be left."""
    net = build([NET[0], "relu", NET[-1]])
    x = picture((1, 3, 16, 16), dtype=torch.float32)
    exact = net.forward(x)
    with products_in("bf16"):
        assert torch.equal(net.forward(x), exact)


@pytest.mark.usefixtures("rounded_batches")
def test_float32_is_float32_where_only_some_products_would_be_rounded() -> None:
    torch.manual_seed(0)
    net, x = build(NET), picture((2, 3, 16, 16), dtype=torch.float32)
    y = net.forward(x)
    exact = net.to(dtype=torch.float64).forward(x.double())
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize(
    "capabilities", ["torch.cpu.get_capabilities", "dict"], ids=["as they are", "unknown"]
)
def test_torchs_newer_settings_are_left_alone(capabilities: str) -> None:
    """In a process of its own: torch has no way back from them."""
    code = f"""
import torch
from denoise_cli.nn import build
from denoise_cli.nn.precision import products_in
torch.cpu.get_capabilities = {capabilities}
net = build([{{"conv2d": {{"in_channels": 3, "out_channels": 3, "kernel_size": 3}}}}])
torch.backends.fp32_precision = "tf32"
with products_in("bf16"):
    net.backward(net.forward(torch.rand(1, 3, 8, 8)))
print(torch.backends.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["tf32", "tf32"]


def test_float64_is_left_alone() -> None:
    net = build(NET).to(dtype=torch.float64)
    x = torch.from_numpy(np.random.default_rng(0).random((1, 3, 8, 8)))
    exact = net.forward(x)
    with products_in("bf16"):
        assert torch.equal(net.forward(x), exact)
