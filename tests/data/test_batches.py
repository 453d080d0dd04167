"""Batches: pure functions of (seed, step), whoever prepares them and in whatever order."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from denoise_cli.data.batch import Batch
from denoise_cli.data.batches import (
    Batches,
    NoisyPairs,
    NoisyPatches,
    Samples,
    turned,
    validation_pairs,
)
from denoise_cli.data.noise import NOISES
from denoise_cli.data.noise_models import Gaussian, Noise, Noisy, Subsample
from denoise_cli.data.opening import make_noise, open_batches, open_source, open_validation
from denoise_cli.data.pickles import PickleSource
from denoise_cli.data.prefetching import sent_ahead
from denoise_cli.data.synthetic import SyntheticSource
from denoise_cli.errors import DenoiseError
from denoise_cli.estimation import ESTIMATORS
from denoise_cli.images import to_pixels, to_tensor

in_processes = pytest.mark.skipif(sys.platform != "linux", reason="several workers are threads here")

TASKS = Path("/proc/self/task")


class Ramps:
    """Pictures that are all different and say where a crop comes from."""

    def __init__(self, count: int, size: int = 24) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def picture(self, index: int) -> Tensor:
        plane = torch.arange(float(self.size**2)).reshape(self.size, self.size) / self.size**2
        return torch.stack([torch.full_like(plane, index / self.count), plane, plane.T])

    def crop(self, index: int, size: int, generator: np.random.Generator) -> Tensor:
        top, left = generator.integers(self.size - size + 1, size=2)
        return self.picture(index)[:, top : top + size, left : left + size]


def patches(count: int = 10, noise: Noise | None = None, **options: Any) -> NoisyPatches:
    return NoisyPatches(Ramps(count), noise or Gaussian(sigma=(5, 50)), **{"patch": 8, **options})


def course_file(folder: Path, count: int = 20) -> Path:
    path = folder / "data.pkl"
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8) for _ in "12"
    )
    torch.save((first, second), path)
    return path


def same(a: Batch, b: Batch) -> bool:
    values = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(Batch)]
    return all(v is w if v is None or w is None else torch.equal(v, w) for v, w in values)


def seen(batches: Batches, steps: range) -> list[int]:
    """The numbers of the pictures in these steps; `Ramps` have them in their first channel."""
    count = len(batches.samples)
    return [round(float(value) * count) for step in steps for value in batches.batch(step).target[:, 0, 0, 0]]


class TestPurity:
    def test_order_of_asking_does_not_matter(self) -> None:
        forward = [Batches(patches(), batch=4, seed=3).batch(step) for step in range(6)]
        again = Batches(patches(), batch=4, seed=3)
        assert all(same(again.batch(step), forward[step]) for step in (5, 0, 3, 3, 1))

    @pytest.mark.parametrize("workers", [0, 1, 2, 7])
    def test_workers_do_not_matter(self, workers: int) -> None:
        batches = Batches(patches(), batch=4, workers=workers)
        alike = [same(batch, batches.batch(step)) for step, batch in enumerate(batches.prefetch(2, 17), 2)]
        assert alike == 15 * [True]

    def test_synthetic_pictures_do_not_depend_on_who_makes_them(self) -> None:
        def made(workers: int) -> Iterator[Batch]:
            samples = NoisyPatches(SyntheticSource(count=6, size=16), Gaussian(sigma=5), patch=8)
            return Batches(samples, batch=3, workers=workers).prefetch(0, 6)

        assert all(same(a, b) for a, b in zip(made(0), made(4), strict=True))

    def test_seeds_and_steps_differ(self) -> None:
        batches = Batches(patches(), batch=4, seed=0)
        assert not same(batches.batch(0), batches.batch(1))
        assert not same(batches.batch(0), Batches(patches(), batch=4, seed=1).batch(0))

    @pytest.mark.parametrize("name", NOISES)
    def test_every_noise(self, name: str) -> None:
        noise = NOISES[name](**({"factor": 2} if name == "subsample" else {}))
        batches = Batches(patches(noise=noise), batch=2, workers=2)
        first = batches.batch(7)
        assert same(first, batches.batch(7))
        assert first.x.shape == first.target.shape == (2, 3, 8, 8)


class TestEpochs:
    def test_every_picture_once_an_epoch_in_a_new_order(self) -> None:
        batches = Batches(patches(12), batch=4)
        assert batches.steps_per_epoch == 3
        epochs = [seen(batches, range(3 * e, 3 * e + 3)) for e in range(4)]
        assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
        assert len(set(map(tuple, epochs))) == 4

    def test_batches_are_full_across_epochs(self) -> None:
        batches = Batches(patches(10), batch=4)
        assert batches.steps_per_epoch == 3
        pictures = seen(batches, range(5))
        assert sorted(pictures[:10]) == sorted(pictures[10:]) == list(range(10))

    def test_batch_larger_than_the_source(self) -> None:
        batches = Batches(patches(3), batch=8)
        assert batches.steps_per_epoch == 1
        assert sorted(seen(batches, range(3))) == sorted(list(range(3)) * 8)


class TestPrefetch:
    @pytest.mark.parametrize("workers", [1, 3])
    def test_error_reaches_its_step(self, workers: int) -> None:
        class Broken(NoisyPatches):
            def draw(self, indices: Any, generator: np.random.Generator) -> Batch:
                if broken == generator.bit_generator.seed_seq.entropy[-1]:  # type: ignore[attr-defined]
                    raise RuntimeError("no such patch")
                return super().draw(indices, generator)

        broken = 5
        batches = Batches(Broken(Ramps(9), Gaussian(), patch=8), batch=2, workers=workers)
        row = batches.prefetch(0, 10)
        assert len(list(islice(row, broken))) == broken
        with pytest.raises(RuntimeError, match="no such patch"):
            next(row)
        assert not running()

    @pytest.mark.parametrize("workers", [1, 3])
    def test_leaving_early_ends_the_workers(self, workers: int) -> None:
        row = Batches(patches(), batch=2, workers=workers).prefetch(0, 10**9)
        assert len(list(islice(row, 4))) == 4
        assert len(running()) == workers
        row.close()
        assert not running()

    @pytest.mark.parametrize("workers", [0, 1, 3])
    def test_batches_go_to_a_device_ahead(self, workers: int) -> None:
        """Tensors of the device "meta" have shapes alone."""
        batches = Batches(patches(), batch=2, workers=workers)
        there = list(sent_ahead(batches.prefetch(0, 5), torch.device("meta")))
        assert [batch.x.shape for batch in there] == [batches.batch(step).x.shape for step in range(5)]
        assert all(tensor.is_meta for batch in there for tensor in (batch.x, batch.target, batch.sigma))
        assert not running()

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_leaving_early_ends_the_workers_of_what_is_sent(self, workers: int, device: str) -> None:
        row = sent_ahead(
            Batches(patches(), batch=2, workers=workers).prefetch(0, 10**9), torch.device(device)
        )
        assert len(list(islice(row, 4))) == 4
        assert len(running()) >= workers
        row.close()
        assert not running()

    def test_looks_ahead_only_so_far(self) -> None:
        class Counting(NoisyPatches):
            drawn = 0

            def draw(self, indices: Any, generator: np.random.Generator) -> Batch:
                Counting.drawn += 1
                return super().draw(indices, generator)

        row = Batches(Counting(Ramps(5), Gaussian(), patch=8), batch=1, workers=1).prefetch(0, 1000)
        next(row)
        row.close()
        assert Counting.drawn <= 2

    @in_processes
    def test_ctrl_c_is_for_the_training_to_answer(self) -> None:
        batches = Batches(patches(), batch=2, workers=2)
        with closing(batches.prefetch(0, 100)) as row:
            next(row)
            for process in running():
                os.kill(process.pid, signal.SIGINT)
            assert all(
                same(batch, batches.batch(step)) for step, batch in zip(range(1, 9), row, strict=False)
            )

    @in_processes
    def test_processes_beside_a_training_of_several_threads(self) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            torch.ones(2**20).add_(1)  # a team of threads has begun to work
            batches = Batches(patches(patch=24), batch=64, workers=2)  # copied by a team, if there is one
            assert all(same(batch, batches.batch(step)) for step, batch in enumerate(batches.prefetch(0, 4)))
        finally:
            torch.set_num_threads(before)

    @in_processes
    def test_a_worker_that_was_killed_ends_the_rest(self) -> None:
        row = Batches(patches(), batch=2, workers=2).prefetch(0, 10**9)
        next(row)
        os.kill(running()[0].pid, signal.SIGKILL)
        with pytest.raises(DenoiseError, match=r"data\.workers"):
            deque(row, maxlen=0)
        assert not running()

    def test_nothing_to_do(self) -> None:
        assert list(Batches(patches(), batch=2).prefetch(3, 3)) == []


def running() -> list[Any]:
    """The workers that there are: threads and processes."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    return [*threads, *multiprocessing.active_children()]


class TestPatches:
    def test_layout(self) -> None:
        batch = Batches(patches(), batch=4).batch(0)
        for tensor in (batch.x, batch.target):
            assert tensor.shape == (4, 3, 8, 8)
            assert tensor.dtype == torch.float32
            assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert batch.sigma.shape == (4,)
        assert batch.sigma.dtype == torch.float32

    def test_clean_pairing(self) -> None:
        batch = Batches(patches(noise=Gaussian(sigma=20)), batch=64).batch(0)
        assert batch.clean is not None
        assert torch.equal(batch.target, batch.clean)
        e = 255 * (batch.x - batch.target)
        assert float(e.std()) == pytest.approx(20, rel=0.03)
        assert batch.sigma.tolist() == [20] * 64

    def test_sigma_is_that_of_each_patch(self) -> None:
        batch = Batches(patches(patch=16), batch=40).batch(0)
        measured = 255 * (batch.x - batch.target).square().mean((1, 2, 3)).sqrt()
        assert torch.allclose(measured, batch.sigma, rtol=0.15)
        assert batch.sigma.max() - batch.sigma.min() > 20

    def test_noise2noise_is_independent(self) -> None:
        batch = Batches(patches(noise=Gaussian(sigma=20), pairing="noise2noise"), batch=128).batch(0)
        assert batch.clean is not None
        first, second = batch.x - batch.clean, batch.target - batch.clean
        assert float(first.std()) == pytest.approx(20 / 255, rel=0.03)
        assert float(second.std()) == pytest.approx(20 / 255, rel=0.03)
        assert abs(float((first * second).mean() / first.var())) < 0.03

    def test_augmentation_uses_all_eight_ways(self) -> None:
        asymmetric = torch.arange(64.0).reshape(1, 8, 8) / 64

        class One(Ramps):
            def crop(self, index: int, size: int, generator: np.random.Generator) -> Tensor:
                return asymmetric

        samples = NoisyPatches(One(1), Gaussian(sigma=0), patch=8)
        batch = Batches(samples, batch=200).batch(0)
        ways = [to_tensor(turned(to_pixels(asymmetric), way)) for way in range(8)]
        counts = [sum(torch.equal(x, way) for x in batch.x) for way in ways]
        assert sum(counts) == 200
        assert min(counts) > 8
        plain = NoisyPatches(One(1), Gaussian(sigma=0), patch=8, augment=False)
        assert all(torch.equal(x, asymmetric) for x in Batches(plain, batch=10).batch(0).x)

    def test_turned_are_the_symmetries_of_the_square(self) -> None:
        square = np.arange(9).reshape(3, 3)
        ways = {tuple(turned(square[:, :, None], way).flatten().tolist()) for way in range(8)}
        turns = [np.rot90(square, k) for k in range(4)]
        assert ways == {tuple(s.flatten().tolist()) for t in turns for s in (t, t.T)}

    def test_a_noise_that_reduces_gets_larger_crops(self) -> None:
        batch = Batches(patches(noise=Subsample(factor=3)), batch=4).batch(0)
        assert batch.clean is not None
        assert batch.x.shape == batch.clean.shape == (4, 3, 8, 8)
        # the first channel of a ramp is flat, so its cells' means are its value
        assert torch.allclose(batch.clean[:, 0], batch.x[:, 0], atol=1e-6)


class TestPairs:
    def test_pairs_stay_together(self, tmp_path: Path) -> None:
        path = course_file(tmp_path)
        first, second = (t.float() / 255 for t in torch.load(path, weights_only=True))
        batch = Batches(NoisyPairs(PickleSource(path=path), augment=False), batch=20).batch(0)
        for x, target in zip(batch.x, batch.target, strict=True):
            n = int((first - x).abs().sum((1, 2, 3)).argmin())
            assert torch.allclose(first[n], x)
            assert torch.allclose(second[n], target)

    def test_augmentation_turns_both_alike(self, tmp_path: Path) -> None:
        pixels = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
        torch.save((pixels, 255 - pixels), tmp_path / "data.pkl")
        samples = NoisyPairs(PickleSource(path=tmp_path / "data.pkl"), pairing="noise2noise")
        batch = Batches(samples, batch=40).batch(0)
        assert torch.allclose(batch.x + batch.target, torch.ones(()), atol=1e-6)

    def test_noise2noise_may_swap(self, tmp_path: Path) -> None:
        dark, bright = (torch.full((8, 3, 4, 4), v, dtype=torch.uint8) for v in (0, 255))
        torch.save((dark, bright), tmp_path / "data.pkl")
        source = PickleSource(path=tmp_path / "data.pkl")
        swapped = Batches(NoisyPairs(source, pairing="noise2noise"), batch=100).batch(0).x.mean((1, 2, 3))
        assert 30 < int(swapped.sum()) < 70
        assert Batches(NoisyPairs(source, pairing="clean"), batch=100).batch(0).x.sum() == 0

    @pytest.mark.parametrize(("pairing", "sigma"), [("clean", 20), ("noise2noise", 20 / 2**0.5)])
    def test_sigma_and_clean(self, tmp_path: Path, pairing: Any, sigma: float) -> None:
        flat = torch.full((8, 3, 32, 32), 100, dtype=torch.uint8)
        torch.save((flat, flat + 20), tmp_path / "data.pkl")
        batch = Batches(NoisyPairs(PickleSource(path=tmp_path / "data.pkl"), pairing=pairing), batch=4).batch(
            0
        )
        assert batch.sigma.tolist() == pytest.approx([sigma] * 4)
        assert (batch.clean is None) == (pairing == "noise2noise")
        assert batch.x.is_contiguous(memory_format=torch.channels_last)


class TestValidation:
    def test_always_the_same(self) -> None:
        first, second = (validation_pairs(Ramps(5), Gaussian(sigma=(0, 50))) for _ in "12")
        assert len(first) == 5
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a.noisy, b.noisy)
            assert torch.equal(a.clean, b.clean)
            assert a.sigma == b.sigma

    def test_middle_of_large_pictures(self) -> None:
        pair = validation_pairs(Ramps(1, size=24), Gaussian(sigma=0), size=10)[0]
        assert torch.equal(pair.clean, Ramps(1, size=24).picture(0)[:, 7:17, 7:17])
        assert torch.equal(pair.noisy, pair.clean)

    def test_spread_over_large_sources(self) -> None:
        pairs = validation_pairs(Ramps(101), Gaussian(sigma=0), count=3)
        assert [round(101 * float(pair.clean[0, 0, 0])) for pair in pairs] == [0, 50, 100]

    def test_reducing_noise(self) -> None:
        pair = validation_pairs(Ramps(1, size=25), Subsample(factor=4), size=5)[0]
        assert pair.noisy.shape == pair.clean.shape == (3, 5, 5)

    def test_course_file(self, tmp_path: Path) -> None:
        path = course_file(tmp_path)
        first, second = torch.load(path, weights_only=True)
        pairs = validation_pairs(PickleSource(path=path), Gaussian())
        assert len(pairs) == 20
        assert torch.allclose(255 * pairs[3].noisy, first[3].float(), atol=1e-4)
        assert torch.allclose(255 * pairs[3].clean, second[3].float(), atol=1e-4)
        expected = (first[3].float() - second[3].float()).square().mean().sqrt()
        assert pairs[3].sigma == pytest.approx(float(expected), rel=1e-4)


def test_gray_patches_have_equal_channels_and_say_how_strong_their_noise_is() -> None:
    source = SyntheticSource(count=4, size=32)
    gray = NoisyPatches(source, Gaussian(sigma=20), patch=32, gray=1.0)
    batch = gray.draw(np.arange(4), np.random.default_rng(0))
    assert batch.clean is not None
    for pictures in (batch.x, batch.clean):
        assert torch.equal(pictures, pictures[:, :1].expand(-1, 3, -1, -1))
    assert batch.sigma.tolist() == pytest.approx([20 * 3**0.5] * 4)
    assert float((batch.x - batch.clean).std()) * 255 == pytest.approx(20, rel=0.05)


def test_soft_patches_are_enlarged() -> None:
    """Less detail in a pixel: neighbours differ less. The noise comes afterwards, as sharp as ever."""
    source = SyntheticSource(count=16, size=96)

    def draw(soft: float) -> Batch:
        patches = NoisyPatches(source, Gaussian(sigma=10), patch=32, soft=soft)
        return patches.draw(np.arange(16), np.random.default_rng(0))

    def detail(x: Tensor) -> float:
        return float((x[..., 1:] - x[..., :-1]).square().mean())

    soft, sharp = draw(1.0), draw(0.0)
    assert soft.clean is not None
    assert sharp.clean is not None
    assert soft.clean.shape == (16, 3, 32, 32)
    assert 0 <= float(soft.clean.min()) <= float(soft.clean.max()) <= 1
    assert detail(soft.clean) < 0.8 * detail(sharp.clean)
    assert detail(soft.x - soft.clean) == pytest.approx(detail(sharp.x - sharp.clean), rel=0.1)


def test_a_misjudged_sigma_is_off_by_random_factors_around_one() -> None:
    source, crops = SyntheticSource(count=8, size=16), np.arange(400) % 8
    misjudging = NoisyPatches(source, Gaussian(sigma=20), patch=8, misjudged=0.3)
    factors = (misjudging.draw(crops, np.random.default_rng(0)).sigma / 20).log()
    assert float(factors.mean()) == pytest.approx(0, abs=0.05)
    assert float(factors.std()) == pytest.approx(0.3, rel=0.15)


def test_validation_is_told_what_the_estimator_finds() -> None:
    source, noise = SyntheticSource(count=3, size=64), Gaussian(sigma=20)
    for pair in validation_pairs(source, noise, estimate=ESTIMATORS["white"]):
        assert pair.sigma == ESTIMATORS["white"](to_pixels(pair.noisy))
        assert pair.sigma == pytest.approx(20, rel=0.2)


@pytest.mark.skipif(not TASKS.exists(), reason="counts threads as Linux lists them")
def test_preparing_a_batch_in_a_thread_starts_no_team_of_workers(tmp_path: Path) -> None:
    """They would be more than there are cores, and slow every step of the training beside them down."""
    samples: dict[str, Samples] = {
        "patches": NoisyPatches(SyntheticSource(count=4, size=300), Gaussian(sigma=5), patch=256, gray=0.5),
        "pairs": NoisyPairs(PickleSource(path=course_file(tmp_path, 200)), pairing="noise2noise"),
    }

    def threads_after_a_batch(kind: str) -> tuple[int, int]:
        before = len(list(TASKS.iterdir()))
        samples[kind].draw(np.arange(len(samples[kind])), np.random.default_rng(0))
        return before, len(list(TASKS.iterdir()))

    cores = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for kind in samples:
            with ThreadPoolExecutor(1) as pool:
                before, after = pool.submit(threads_after_a_batch, kind).result()
            assert after <= before
    finally:
        torch.set_num_threads(cores)


class TestOpening:
    def section(self, **changes: Any) -> SimpleNamespace:
        section = {
            "train": {"source": "synthetic", "count": 4, "size": 16},
            "validation": {"source": "synthetic", "count": 3, "size": 16},
            "noise": {"name": "gaussian", "sigma": [0, 50]},
            "pairing": "clean",
            "patch": 8,
            "batch": 2,
            "gray": 0.0,
            "soft": 0.0,
            "misjudged": 0.0,
            "augment": True,
            "workers": 1,
        }
        return SimpleNamespace(**{**section, **changes})

    def test_synthetic(self) -> None:
        batches = open_batches(self.section(), channels=3, seed=5)
        assert isinstance(batches.samples, NoisyPatches)
        assert batches.steps_per_epoch == 2
        assert batches.batch(0).x.shape == (2, 3, 8, 8)

    def test_grey(self) -> None:
        assert open_batches(self.section(), channels=1, seed=0).batch(0).x.shape == (2, 1, 8, 8)
        assert open_validation(self.section(), channels=1, estimate=ESTIMATORS["white"])[0].clean.shape == (
            1,
            16,
            16,
        )

    def test_synthetic_validation_is_never_seen_in_training(self) -> None:
        section = self.section()
        train = open_source(section.train, channels=3)
        assert not isinstance(train, PickleSource)
        for pair in open_validation(section, channels=3, estimate=ESTIMATORS["white"]):
            assert not any(torch.equal(pair.clean, train.picture(n)) for n in range(3))

    def test_course_file(self, tmp_path: Path) -> None:
        spec = {"source": "pickle", "path": str(course_file(tmp_path)), "limit": 7}
        section = self.section(train=spec, validation=spec, pairing="noise2noise")
        batches = open_batches(section, channels=3, seed=0)
        assert isinstance(batches.samples, NoisyPairs)
        assert len(batches.samples) == 7
        assert len(open_validation(section, channels=3, estimate=ESTIMATORS["white"])) == 7

    def test_no_validation(self) -> None:
        assert open_validation(self.section(validation=None), channels=3, estimate=ESTIMATORS["white"]) == []

    def test_make_noise(self) -> None:
        noisy = make_noise({"name": "gaussian", "sigma": 10})(torch.zeros(3, 4, 4), np.random.default_rng(0))
        assert isinstance(noisy, Noisy)
        assert noisy.sigma == 10
