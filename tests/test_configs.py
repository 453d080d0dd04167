"""Every YAML file in configs/ loads, builds and trains two steps, and what it trains can be evaluated."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoise_cli import strict_yaml
from denoise_cli.config import Experiment, load_config
from denoise_cli.nn.module import Reach
from denoise_cli.search import load_search
from denoise_cli.trainer import Trainer

ROOT = Path(__file__).parent.parent
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))


def is_search(path: Path) -> bool:
    return "base" in strict_yaml.read(ROOT / path)


EXPERIMENTS = [path for path in FILES if not is_search(path)]
SEARCHES = [path for path in FILES if is_search(path)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a tiny file or folder for each kind of source."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for index in range(12):
        pixels = generator.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    pairs = torch.from_numpy(generator.integers(0, 256, (2, 4, 3, 32, 32), dtype=np.uint8))
    torch.save((pairs[0], pairs[1]), folder / "pairs.pkl")
    return folder


def tiny(path: Path, data: Path) -> list[str]:
    """Overrides that make an experiment small: two pictures a step, two steps, the tiny data."""
    experiment = load_config(path)
    changes = ["data.batch=2", "data.workers=0", "train.epochs=null", "train.steps=2"]
    for part in ("train", "validation"):
        spec = getattr(experiment.data, part)
        if spec is None:
            continue
        if spec.source == "synthetic":
            changes.append(f"data.{part}.count=2")
        elif spec.source == "pickle":
            changes.append(f"data.{part}.path={data / 'pairs.pkl'}")
        else:
            take = "holdout" if part == "validation" else "train"
            photos = f"{{source: folder, path: {data / 'photos'}, holdout: 0.3, take: {take}}}"
            changes.append(f"data.{part}={photos}")
    return changes


def two_steps(experiment: Experiment) -> None:
    trainer = Trainer(experiment)
    before = [value.clone() for value, _ in trainer.net.param()]
    for step in range(2):
        assert math.isfinite(trainer.train_step(trainer.batches.batch(step)).loss)
    trainer.check_weights()
    moved = [not torch.equal(old, new) for old, (new, _) in zip(before, trainer.net.param(), strict=True)]
    assert any(moved)
    if trainer.pairs:
        trainer.pairs = trainer.pairs[:2]
        assert math.isfinite(trainer.validate()[0].psnr)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Paths in configs are relative to the working directory."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=str)
def test_an_experiment_trains(path, data):
    two_steps(load_config(path, tiny(path, data)))


@pytest.mark.parametrize("path", SEARCHES, ids=str)
def test_every_point_of_a_search_trains(path, data):
    base = Path(strict_yaml.read(path)["base"])
    search = load_search(path, tiny(base, data))
    networks = []
    for point in search.points():
        experiment = search.experiment(point, 1)
        networks.append(experiment.dump())
        two_steps(experiment)
    assert all(one not in networks[:index] for index, one in enumerate(networks)), "no two are the same"


def test_the_reports_networks_are_what_it_describes():
    report = {path.stem: load_config(path) for path in EXPERIMENTS if path.parent.name == "report"}
    assert set(report) == {"transpose", "upsampling", "upsampling_x4"}
    for experiment in report.values():
        assert experiment.data.batch == 100
        assert experiment.data.train.limit == 5000
        assert experiment.data.pairing == "noise2noise"
        assert not experiment.data.augment
        assert experiment.train.epochs == 25
        assert (experiment.loss, experiment.optimizer.name) == ("mse", "sgd")
        assert experiment.build_model().reach(Reach()).step == 1


def test_the_perceptron_is_linear_layers_on_overlapping_patches():
    net = load_config("configs/mlp.yaml").build_model()
    assert {module.yaml_name for module in net.modules()} == {
        "sequential",
        "residual",
        "patches",
        "linear",
        "relu",
    }
