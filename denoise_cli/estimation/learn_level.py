"""Makes the weights of `level`: photographs, the noise of the model `photo`, and its true strength.

    python -m denoise_cli.estimation.learn_level PHOTOGRAPHS [--samples N]

prints how far the estimates are off on photographs that were held out, and writes the weights beside this
file.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import save
from torch import Tensor

from denoise_cli.data.batches import NoisyPatches
from denoise_cli.data.photo_noise import Photo
from denoise_cli.data.sources import FolderSource, Part
from denoise_cli.estimation.level import OFFSET, WEIGHTS, network, statistics
from denoise_cli.files import replacing
from denoise_cli.images import to_pixels
from denoise_cli.nn.losses import L1
from denoise_cli.nn.module import Module
from denoise_cli.nn.optim import AdamW
from denoise_cli.nn.schedules import Cosine
from denoise_cli.windows import ArraySource

HOLDOUT = 0.05
"""The same photographs as those that the models are validated on."""

SIDES = (96, 512)
GRAY, SOFT = 0.1, 0.5
MOST_SIGMA = 75.0
EPOCHS, BATCH, RATE = 50, 64, 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description="Learns to tell the noise level of photographs.")
    parser.add_argument("photographs", type=Path, help="a folder of clean photographs")
    parser.add_argument("--samples", type=int, default=32_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seen, levels = samples(arguments.photographs, "train", arguments.samples)
    others, true = samples(arguments.photographs, "holdout", arguments.samples // 8)
    net = learn(seen, levels)
    report((net.forward(others).exp() - OFFSET).clamp_min(0)[:, 0].numpy(), true[:, 0].numpy())
    with replacing(Path(__file__).with_name(WEIGHTS)) as file:
        file.write_bytes(save(net.state()))


def samples(folder: Path, take: Part, count: int) -> tuple[Tensor, Tensor]:
    """Statistics (count, STATISTICS) and levels (count, 1) of noisy patches of many sizes."""
    source, noise = FolderSource(path=folder, holdout=HOLDOUT, take=take), Photo(sigma=(0.0, MOST_SIGMA))
    generator = np.random.default_rng([0, take == "holdout"])
    seen, levels = [], []
    for _ in track(range(count), description=take):
        side = round(float(np.exp(generator.uniform(*np.log(SIDES)))))
        gray = bool(generator.random() < GRAY)
        patches = NoisyPatches(source, noise, patch=side, gray=float(gray), soft=SOFT)
        batch = patches.draw(generator.integers(len(source), size=1), generator)
        numbers = statistics(ArraySource(to_pixels(batch.x[0])))
        assert numbers is not None
        seen.append(numbers)
        levels.append(
            float(batch.sigma[0]) / 3 ** (gray / 2)
        )  # `NoisyPatches` tells gray noise thrice as strong
    return torch.tensor(np.stack(seen)), torch.tensor(levels)[:, None]


def learn(seen: Tensor, levels: Tensor) -> Module:
    """The network, trained; in its first layer, the scales of the statistics."""
    net, loss, schedule = network(), L1(), Cosine()
    optimizer = AdamW(net.param(), lr=RATE, weight_decay=0.1)
    mean, spread = seen.mean(0), seen.std(0) + 1e-3
    scaled, wanted = (seen - mean) / spread, (levels + OFFSET).log()
    steps = EPOCHS * len(seen) // BATCH
    for step in track(range(steps), description="learning"):
        chosen = torch.randint(len(seen), (BATCH,))
        optimizer.lr = RATE * schedule(step, steps)
        optimizer.zero_grad()
        loss.forward(net.forward(scaled[chosen]), wanted[chosen])
        net.backward(loss.backward())
        optimizer.step()
    (weight, _), (bias, _) = net.param()[:2]
    weight /= spread
    bias -= weight @ mean
    return net.train(False)


def report(estimated: np.ndarray, true: np.ndarray) -> None:
    """Prints how far off the estimates are."""
    clean = true == 0
    print(
        "of clean pictures, 50, 90 and 99 in 100 are told below",
        np.percentile(estimated[clean], (50, 90, 99)).round(2),
    )
    for low, high in ((1, 3), (3, 8), (8, 20), (20, 80)):
        inside = (low <= true) & (true < high)
        ratio = np.percentile((estimated / true.clip(1e-6))[inside], (5, 50, 95)).round(2)
        print(f"level {low} to {high}: estimated / true at 5, 50, 95 in 100: {ratio}")


if __name__ == "__main__":
    main()
