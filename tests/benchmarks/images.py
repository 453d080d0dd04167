"""`denoise image` against other denoisers, side by side: time, memory, and what is left of the noise.

    python -m tests.benchmarks.images FOLDER [--model MODEL] [--sigma 25] [--count 6] [--megapixels 12]

FOLDER holds clean pictures. Some get the same Gaussian noise, are rounded to 8 bits and handed to every
method, each in a process of its own; PSNR is the mean over them. A mosaic of them is the large picture: its
time is that of the computation alone, the memory the peak of the whole process. Methods that would take
longer than --limit seconds for it are not given it. Nothing is asserted: the figures belong to the machine.

Methods whose packages are not installed (opencv-python, bm3d, PyWavelets) are named, but not run.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

Samples = NDArray[np.uint8]
Method = Callable[[Samples, float], Samples]


# The methods: 8-bit pictures (H, W, 3) and sigma in, 8-bit pictures out --------------------------------


def opencv_nlm(noisy: Samples, sigma: float) -> Samples:
    """Fast non-local means in Lab, with the filter strength that its documentation ties to sigma."""
    import cv2

    cv2.setNumThreads(_threads())
    strength = 0.6 * sigma + 1
    return np.asarray(cv2.fastNlMeansDenoisingColored(noisy, None, strength, strength, 5, 15), np.uint8)


def skimage_nlm(noisy: Samples, sigma: float) -> Samples:
    from skimage.restoration import denoise_nl_means

    s = sigma / 255
    clean = denoise_nl_means(
        noisy / 255, patch_size=5, patch_distance=6, h=0.6 * s, sigma=s, fast_mode=True, channel_axis=-1
    )
    return _samples(clean)


def skimage_wavelet(noisy: Samples, sigma: float) -> Samples:
    from skimage.restoration import denoise_wavelet

    clean = denoise_wavelet(noisy / 255, sigma=sigma / 255, convert2ycbcr=True, channel_axis=-1)
    return _samples(clean)


def skimage_tv(noisy: Samples, sigma: float) -> Samples:
    from skimage.restoration import denoise_tv_chambolle

    return _samples(denoise_tv_chambolle(noisy / 255, weight=sigma / 255, channel_axis=-1))


def bm3d(noisy: Samples, sigma: float) -> Samples:
    import bm3d as package

    return _samples(package.bm3d_rgb(noisy / 255, sigma / 255))


def dncnn(noisy: Samples, sigma: float) -> Samples:
    """The network of Zhang et al. 2017 for colour, 20 layers of 64 channels, with weights left random."""
    import torch
    from torch import nn

    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(18):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(inplace=True)]
    net = nn.Sequential(*layers, nn.Conv2d(64, 3, 3, padding=1)).eval()
    torch.set_num_threads(_threads())
    with torch.inference_mode():
        x = torch.from_numpy(noisy).permute(2, 0, 1)[None].float() / 255
        side, margin = 1024, 20  # in tiles, as any use of it on large pictures must
        y = torch.empty_like(x)
        for top in range(0, x.shape[2], side):
            for left in range(0, x.shape[3], side):
                t, l = max(0, top - margin), max(0, left - margin)
                part = x[..., t : top + side + margin, l : left + side + margin]
                part = part - net(part)
                y[..., top : top + side, left : left + side] = part[
                    ..., top - t : top - t + side, left - l : left - l + side
                ]
    return _samples(y[0].permute(1, 2, 0).numpy())


def denoise(noisy: Samples, sigma: float) -> Samples:
    """This program as a library; the noise level is estimated, as always."""
    import torch

    from denoise_cli import denoise

    torch.set_num_threads(_threads())
    return denoise(noisy, model=_options["model"] or None)


@dataclass(frozen=True)
class Entry:
    """A method, the package it needs, and whether its result says anything."""

    run: Method
    package: str = "skimage"
    trained: bool = True


METHODS = {
    "denoise": Entry(denoise, "torch"),
    "OpenCV NLM": Entry(opencv_nlm, "cv2"),
    "scikit-image NLM": Entry(skimage_nlm),
    "scikit-image wavelet": Entry(skimage_wavelet, "pywt"),
    "scikit-image TV": Entry(skimage_tv),
    "BM3D": Entry(bm3d, "bm3d"),
    "DnCNN-20 in torch.nn": Entry(dncnn, "torch", trained=False),
}

_options: dict[str, Any] = {"model": "", "threads": 2}


def _threads() -> int:
    return int(_options["threads"])


def _samples(pixels: NDArray[Any]) -> Samples:
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


# One method in a process of its own --------------------------------------------------------------------


def work(method: str, folder: Path, sigma: float) -> None:
    """Denoises the pictures in.*.png of a folder to out.*.png; prints seconds and peak memory."""
    seconds = []
    files = sorted(folder.glob("in.*.png"))
    for file in files:
        with Image.open(file) as image:
            noisy = np.asarray(image)
        if not seconds:
            METHODS[method].run(
                noisy[:64, :64].copy(), sigma
            )  # imports, thread pools, first use of everything
        start = time.perf_counter()
        clean = METHODS[method].run(noisy, sigma)
        seconds.append(time.perf_counter() - start)
        Image.fromarray(clean).save(file.with_name(file.name.replace("in.", "out.")), compress_level=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"seconds": seconds, "peak": peak}))


def measure(method: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What `work` prints, from a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.images", str(folder), "--work", method]
    command += ["--sigma", str(args.sigma), "--model", args.model, "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{method}: {done.stderr.strip().splitlines()[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# The pictures ------------------------------------------------------------------------------------------


def make_noisy(pictures: list[Samples], folder: Path, sigma: float) -> None:
    for index, picture in enumerate(pictures):
        noise = np.random.RandomState(0).normal(0, sigma, picture.shape)
        noisy = np.rint(np.clip(picture + noise, 0, 255)).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"in.{index:03}.png", compress_level=1)


def mosaic(pictures: list[Samples], megapixels: float) -> Samples:
    """A picture of 4:3 made of the others, again and again."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    rows: list[Samples] = []
    order = 0
    while sum(row.shape[0] for row in rows) < height:
        tall = min(picture.shape[0] for picture in pictures)
        line: list[Samples] = []
        while sum(part.shape[1] for part in line) < height * 4 // 3:
            line.append(pictures[order % len(pictures)][:tall])
            order += 1
        rows.append(np.concatenate(line, axis=1)[:, : height * 4 // 3])
    return np.concatenate(rows)[:height]


def psnr(pictures: list[Samples], folder: Path, name: str) -> float:
    values = []
    for index, clean in enumerate(pictures):
        with Image.open(folder / f"{name}.{index:03}.png") as image:
            error = np.asarray(image, np.float64) - clean
        values.append(10 * np.log10(255**2 / np.mean(error**2)))
    return float(np.mean(values))


# The whole command -------------------------------------------------------------------------------------


def command_figures(folder: Path, args: argparse.Namespace) -> list[str]:
    """What `denoise image` takes from start to end, for the large picture and for a small one."""
    lines = []
    model = ["--model", args.model] if args.model else []
    small = folder / "small.png"
    with Image.open(folder / "in.000.png") as large:
        large.crop((0, 0, 512, 512)).save(small)
        size = large.width * large.height / 1e6
    for name, path in ((f"{size:.1f} megapixels", folder / "in.000.png"), ("512 x 512", small)):
        command = ["-m", "denoise_cli", "image", path, folder / "out.png", "--force", "--quiet", *model]
        seconds, peak = _spent([*command, "--threads", str(args.threads)])
        lines.append(f"denoise image, {name}, start to end: {seconds:.2f} s, peak {peak:.0f} MiB")
    seconds, peak = _spent(["-c", "import torch"])
    lines.append(f"python -c 'import torch': {seconds:.2f} s, peak {peak:.0f} MiB")
    return lines


def _spent(command: list[Any]) -> tuple[float, float]:
    """Seconds, and peak memory in MiB, of a Python process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return time.perf_counter() - start, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# All of it ---------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="clean pictures in colour")
    parser.add_argument("--model", default="", help="of denoise; the usual one if not given")
    parser.add_argument("--sigma", type=float, default=25)
    parser.add_argument("--count", type=int, default=6, help="pictures from the folder")
    parser.add_argument("--megapixels", type=float, default=12, help="of the large picture")
    parser.add_argument("--limit", type=float, default=60, help="seconds a method may take for it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--work", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    _options.update(model=args.model, threads=args.threads)
    if args.work:
        work(args.work, args.folder, args.sigma)
        return
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    compare(args)


def compare(args: argparse.Namespace) -> None:
    files = sorted(path for path in args.folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    chosen = files[:: max(1, len(files) // args.count)][: args.count]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in chosen]
    if not pictures:
        raise SystemExit(f"{args.folder}: has no pictures")
    console = Console()
    table = Table("method", title=f"sigma {args.sigma:g}, {args.threads} threads")
    for column in ("PSNR (dB)", "s per megapixel", "large: s per megapixel", "large: peak MiB"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        for folder, content in ((small, pictures), (large, [mosaic(pictures, args.megapixels)])):
            folder.mkdir()
            make_noisy(content, folder, args.sigma)
        noisy = psnr(pictures, small, "in")
        table.add_row("noisy", f"{noisy:.2f}", "", "", "")
        for method in args.methods:
            table.add_row(method, *figures(method, pictures, small, large, args))
        console.print(table)
        for line in command_figures(large, args):
            console.print(line, highlight=False)


def figures(
    method: str, pictures: list[Samples], small: Path, large: Path, args: argparse.Namespace
) -> tuple[str, str, str, str]:
    """One row of the table, without the name."""
    entry = METHODS[method]
    if importlib.util.find_spec(entry.package) is None:
        return f"{entry.package} is not installed", "", "", ""
    seconds = sum(measure(method, small, args)["seconds"])
    pace = seconds / sum(picture.shape[0] * picture.shape[1] / 1e6 for picture in pictures)
    quality = f"{psnr(pictures, small, 'out'):.2f}" if entry.trained else "-"
    if pace * args.megapixels > args.limit:
        return quality, f"{pace:.2f}", "over the limit", ""
    result = measure(method, large, args)
    return quality, f"{pace:.2f}", f"{sum(result['seconds']) / args.megapixels:.2f}", f"{result['peak']:.0f}"


if __name__ == "__main__":
    main()
