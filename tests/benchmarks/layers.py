"""The convolutions of a benchmark's network one by one against torch.nn: where the time of a step goes.

    python -m tests.benchmarks.layers [--repeats N] [WORK ...]

Each runs forward and backward alone, with both gradients, on an input of the shape it has in the network.
GMAC/s are the multiplications of its definition, three times over, by the time: a method that needs fewer of
them can exceed what the processor multiplies.
"""

import argparse
from collections import Counter
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from denoise_cli.nn import build
from denoise_cli.nn.precision import products_in
from tests.benchmarks.engine import (
    ENGINES,
    LAYOUTS,
    WORKS,
    Run,
    Setting,
    machine,
    medians,
    setting_of,
    take_setting,
)
from tests.nn.oracle import TWINS, twin

KINDS = ("conv2d", "transpose_conv2d", "upsampling")
SETTINGS = ("in_channels", "out_channels", "kernel_size", "stride", "padding")

Layer = tuple[str, tuple[int, ...], tuple[int, ...]]
"""Kind, settings, input shape."""


def layers_of(work: str) -> Counter[Layer]:
    """The convolutions of a network, and how often it has each."""
    _, spec, shape, _ = WORKS[work]
    net, found = twin(spec), Counter[Layer]()

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        settings = (getattr(module, key) for key in SETTINGS)
        sizes = tuple(value[0] if isinstance(value, tuple) else value for value in settings)
        found[kinds[type(module)], sizes, tuple(inputs[0].shape)] += 1

    kinds: dict[Any, str] = {TWINS[kind]: kind for kind in KINDS}
    for module in net.modules():
        if type(module) in kinds:
            module.register_forward_pre_hook(note)
    net(torch.zeros(shape))
    return found


def spec_of(layer: Layer) -> dict[str, Any]:
    """What `build` and `twin` make the layer from."""
    kind, sizes, _ = layer
    arguments = dict(zip(SETTINGS, sizes, strict=True))
    if kind == "upsampling":
        del arguments["stride"]
    return {kind: arguments}


def run_of(engine: str, layer: Layer, setting: Setting) -> Run:
    """One forward and backward of a layer."""
    layout = LAYOUTS.get(engine, torch.channels_last)
    x = torch.rand(layer[-1]).to(setting.device).contiguous(memory_format=layout)
    if engine == "ours":
        net = build(spec_of(layer)).to(device=setting.device)
        dy = torch.rand_like(net.forward(x))
        return products_in(setting.precision)(lambda: (net.forward(x), net.backward(dy)))
    oracle = twin(spec_of(layer)).to(setting.device, memory_format=layout)
    x.requires_grad_()
    with setting.shortened():
        dy = torch.rand_like(oracle(x))

    def both() -> None:
        with setting.shortened():
            y = oracle(x)
        y.backward(dy)

    return both


def macs(layer: Layer) -> int:
    """Multiplications of a forward, as its definition has them."""
    return build(spec_of(layer)).macs(layer[-1])


def table(work: str, repeats: int, setting: Setting) -> Table:
    """What a person reads of one network: its layers, the slowest first."""
    result = Table(title=f"{WORKS[work][0]}: forward and backward, layer by layer", title_justify="left")
    for name in ("layer", "input"):
        result.add_column(name)
    for name in ("times", "ours ms", "torch.nn ms", "ratio", "ours GMAC/s", "torch.nn GMAC/s"):
        result.add_column(name, justify="right")
    rows = []
    for layer, times in layers_of(work).items():
        runs = {engine: run_of(engine, layer, setting) for engine in ENGINES}
        measured = medians(runs, repeats, setting)
        rows.append((layer, times, measured["ours"], min(measured[engine] for engine in LAYOUTS)))
    for layer, times, ours, theirs in sorted(rows, key=lambda row: -row[1] * row[2]):
        kind, (ins, outs, kernel, stride, _), (n, _, height, width) = layer
        name = f"{kind} {ins}-{outs}, {kernel}x{kernel}, stride {stride}"
        rates = [f"{3 * macs(layer) / seconds / 1e9:.0f}" for seconds in (ours, theirs)]
        milliseconds = [f"{1e3 * seconds:.3g}" for seconds in (ours, theirs)]
        result.add_row(
            name, f"{n} x {height}x{width}", str(times), *milliseconds, f"{ours / theirs:.2f}", *rates
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.layers", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=", ".join(WORKS))
    take_setting(parser)
    arguments = parser.parse_args()
    setting = setting_of(arguments)
    console = Console(width=None)
    console.print(machine(setting))
    for work in arguments.works or WORKS:
        console.print(table(work, arguments.repeats, setting))


if __name__ == "__main__":
    main()
