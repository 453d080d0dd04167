"""The engine against torch.nn with autograd, side by side: time and memory.

    python -m tests.benchmarks.engine [--json FILE] [--repeats N] [--precision P] [--device D] [WORK ...]

Every work is run by three engines in turn - ours, torch.nn in its default layout, torch.nn in channels-last -
and the medians are compared with the better of the latter two. In bf16, torch.nn runs under autocast, which
keeps activations in bfloat16, too. On a GPU, float32 is float32 for both, without TF32, cuDNN chooses its
algorithms by trial, and the training steps of both are recorded and asked for by one call. Memory is the peak
of a fresh process above what it held before the first run, the median of three processes; on a GPU, that of
the tensors on it. Nothing is asserted: the figures belong to the machine.
"""

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from denoise_cli.nn import MSE, SGD, build
from denoise_cli.nn.mixed_precision import computing_in
from denoise_cli.nn.precision import PRECISIONS, Precision, products_in
from denoise_cli.nn.replay import Replayed
from tests.nn.oracle import twin

LAYOUTS = {"nn": torch.contiguous_format, "nn channels-last": torch.channels_last}
ENGINES = ("ours", *LAYOUTS)
Run = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """How a work is run: in which precision, and on which device."""

    precision: Precision
    device: torch.device

    def shortened(self) -> torch.autocast:
        """Where torch.nn computes in this precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def wait(self) -> None:
        """Until the device has done what it was asked to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def conv(ins: int, outs: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> dict[str, Any]:
    return {
        "conv2d": {
            "in_channels": ins,
            "out_channels": outs,
            "kernel_size": kernel,
            "stride": stride,
            "padding": padding,
        }
    }


def up(name: str, ins: int, outs: int, **rest: int) -> dict[str, Any]:
    return {name: {"in_channels": ins, "out_channels": outs, **rest}}


def residuals(width: int, times: int) -> dict[str, Any]:
    body = [{"residual": {"body": [conv(width, width), "relu", conv(width, width)]}}]
    return {"repeat": {"times": times, "body": body}}


def dncnn(width: int) -> list[Any]:
    """Eight convolutions, as in DnCNN (arXiv:1608.03981)."""
    return [conv(3, width), "relu", *[conv(width, width), "relu"] * 6, conv(width, 3)]


def reference(layer: str) -> list[Any]:
    """The report's network with 96 channels."""
    rest = {"kernel_size": 4, "stride": 2, "padding": 1} if layer == "transpose_conv2d" else {}
    ends = [up(layer, 96, 96, **rest), "relu", up(layer, 96, 3, **rest), "sigmoid"]
    return [conv(3, 96, 4, 2), "relu", conv(96, 96, 4, 2), "relu", *ends]


def unet() -> list[Any]:
    """Residual blocks of 64, 96 and 160 channels at 1/2, 1/4 and 1/8 of the resolution."""
    bottom = [
        conv(96, 160, 2, 2, 0),
        residuals(160, 2),
        up("transpose_conv2d", 160, 96, kernel_size=2, stride=2),
    ]
    middle = [
        conv(64, 96, 2, 2, 0),
        residuals(96, 2),
        {"residual": {"body": bottom}},
        residuals(96, 2),
        up("transpose_conv2d", 96, 64, kernel_size=2, stride=2),
    ]
    return [
        {"pixel_unshuffle": {"downscale_factor": 2}},
        conv(12, 64),
        residuals(64, 2),
        {"residual": {"body": middle}},
        residuals(64, 2),
        conv(64, 12),
        {"pixel_shuffle": {"upscale_factor": 2}},
    ]


WORKS: dict[str, tuple[str, list[Any], tuple[int, ...], bool]] = {
    "dncnn64": ("8 layers of 64 channels, 16 x 64x64, training", dncnn(64), (16, 3, 64, 64), True),
    "transpose": (
        "report's network, 96 channels, transposed, 100 x 32x32, training",
        reference("transpose_conv2d"),
        (100, 3, 32, 32),
        True,
    ),
    "upsampling": (
        "report's network, 96 channels, upsampling, 100 x 32x32, training",
        reference("upsampling"),
        (100, 3, 32, 32),
        True,
    ),
    "unet": ("U-Net 64-96-160, 16 x 64x64, training", unet(), (16, 3, 64, 64), True),
    "dncnn32": ("8 layers of 32 channels, 16 x 64x64, training", dncnn(32), (16, 3, 64, 64), True),
    "unet-inference": ("U-Net 64-96-160, one of 1632x1224, inference", unet(), (1, 3, 1224, 1632), False),
}
"""name -> (what it is, spec, input shape, whether it trains)."""


def run_of(engine: str, work: str, setting: Setting) -> Run:
    """One repetition of a work by an engine: a training step, or a forward."""
    _, spec, shape, trains = WORKS[work]
    torch.manual_seed(0)
    if engine == "ours":
        return ours(spec, shape, trains, setting)
    return theirs(spec, shape, trains, setting, LAYOUTS[engine])


def ours(spec: list[Any], shape: tuple[int, ...], trains: bool, setting: Setting) -> Run:
    net = build(copy.deepcopy(spec)).to(device=setting.device).train(trains)
    x, target = pictures(shape, setting, torch.channels_last)
    if not trains:
        return products_in(setting.precision)(lambda: net.forward(x))
    net.skip_input_gradient()
    optimizer, loss = SGD(net.param(), lr=1e-3), MSE()
    computing = computing_in(setting.precision, net)

    @products_in(setting.precision)
    def step(x: Tensor, target: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = loss.forward(computing.forward(x), target)
        computing.backward(loss.backward())
        optimizer.step()
        return value

    replayed = Replayed(step)
    return lambda: replayed(x, target)


def theirs(
    spec: list[Any], shape: tuple[int, ...], trains: bool, setting: Setting, layout: torch.memory_format
) -> Run:
    net = twin(spec).to(setting.device, memory_format=layout)
    x, target = pictures(shape, setting, layout)
    if not trains:

        def infer() -> Tensor:
            with torch.inference_mode(), setting.shortened():
                return net(x)

        return infer
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        with setting.shortened():
            y = net(x)
        nn.functional.mse_loss(y.float(), target).backward()
        optimizer.step()

    return recorded(step) if setting.device.type == "cuda" else step


def recorded(step: Run) -> Run:
    """A step of torch.nn as one call, as `Replayed` makes ours: recorded when it is first asked for."""
    graph = cache(lambda: _recording(step))

    def replay() -> Run:
        graph().replay()
        return step  # whose tensors must live as long

    return replay


def _recording(step: Run) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def pictures(shape: tuple[int, ...], setting: Setting, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Input and target."""
    x, target = (torch.rand(shape).to(setting.device).contiguous(memory_format=layout) for _ in range(2))
    return x, target


def medians(runs: dict[str, Run], repeats: int, setting: Setting) -> dict[str, float]:
    """The median seconds of each engine, the engines taking turns."""
    warm_ups = 1 if setting.device.type == "cpu" else 3
    times: dict[str, list[float]] = {engine: [] for engine in runs}
    for repeat in range(warm_ups + repeats):
        for engine, run in runs.items():
            setting.wait()
            begin = time.perf_counter()
            run()
            setting.wait()
            if repeat >= warm_ups:
                times[engine].append(time.perf_counter() - begin)
    return {engine: statistics.median(values) for engine, values in times.items()}


def peak_memory(work: str, engine: str, setting: Setting) -> float:
    """Megabytes that a fresh process takes at most, above what it held before the first repetition."""
    command = [sys.executable, "-m", "tests.benchmarks.engine", work, "--peak", engine]
    command += ["--precision", setting.precision, "--device", setting.device.type]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peaks(works: list[str], setting: Setting) -> dict[tuple[str, str], float]:
    """The median `peak_memory` of every work by every engine; on a GPU several processes run at once."""
    cases = [(work, engine) for work in works for engine in ENGINES]
    with ThreadPoolExecutor(1 if setting.device.type == "cpu" else 9) as pool:
        rounds = [pool.map(lambda case: peak_memory(*case, setting), cases) for _ in range(3)]
        return {case: statistics.median(of) for case, *of in zip(cases, *rounds, strict=True)}


def measure_peak(work: str, engine: str, setting: Setting) -> float:
    """`peak_memory` of this process; on the CPU, Linux only."""
    run = run_of(engine, work, setting)
    if setting.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        for _ in range(3):
            run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # begin the high-water mark anew
    resident = _status("VmRSS")
    for _ in range(3):
        run()
    return (_status("VmHWM") - resident) / 1024


def _status(key: str) -> int:
    """Kilobytes that the system reports of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def measure(
    work: str, repeats: int, setting: Setting, megabytes: dict[tuple[str, str], float]
) -> dict[str, Any]:
    """One row of the table. Ratios are against the better of torch.nn's two layouts."""
    times = medians({engine: run_of(engine, work, setting) for engine in ENGINES}, repeats, setting)
    memory = {engine: megabytes[work, engine] for engine in ENGINES}
    row: dict[str, Any] = {"work": WORKS[work][0]}
    row["milliseconds"] = {engine: round(1e3 * value, 2) for engine, value in times.items()}
    row["megabytes"] = {engine: round(value, 1) for engine, value in memory.items()}
    for name, values in (("time_ratio", times), ("memory_ratio", memory)):
        row[name] = round(values["ours"] / min(values[engine] for engine in LAYOUTS), 2)
    return row


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """What a person reads."""
    result = Table(title=title, title_justify="left")
    result.add_column("work")
    for name in ("ours ms", "nn ms", "nn channels-last ms", "ratio", "ours MB", "nn MB", "ratio"):
        result.add_column(name, justify="right")
    for row in rows:
        ms, mb = row["milliseconds"], row["megabytes"]
        result.add_row(
            row["work"],
            *(f"{ms[engine]:.3g}" for engine in ENGINES),
            f"{row['time_ratio']:.2f}",
            f"{mb['ours']:.0f}",
            f"{min(mb[engine] for engine in LAYOUTS):.0f}",
            f"{row['memory_ratio']:.2f}",
        )
    return result


def machine(setting: Setting) -> str:
    """Processor or GPU, threads, versions and precision."""
    if setting.device.type == "cuda":
        cudnn = torch.backends.cudnn.version()
        name = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    else:
        names = [line.split(":")[1] for line in _cpuinfo() if line.startswith("model name")]
        name = names[0].strip() if names else platform.processor()
        name += f", {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}, {setting.precision}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def take_setting(parser: argparse.ArgumentParser) -> None:
    """The options that are common to the benchmarks of the engine."""
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of products; bf16: torch.nn under autocast",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")


def setting_of(arguments: argparse.Namespace) -> Setting:
    """What those options say."""
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True
    return Setting(arguments.precision, torch.device(arguments.device))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.engine", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    take_setting(parser)
    parser.add_argument("--peak", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    setting = setting_of(arguments)
    if arguments.peak:
        print(measure_peak(arguments.works[0], arguments.peak, setting))
        return
    works = arguments.works or list(WORKS)
    rows, title, megabytes = [], machine(setting), peaks(works, setting)
    for work in works:
        rows.append(measure(work, arguments.repeats, setting, megabytes))
        print(json.dumps(rows[-1]), file=sys.stderr)
    Console(width=None if sys.stdout.isatty() else 160).print(table(rows, title))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": title, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
