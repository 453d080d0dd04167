"""From the `data:` section of an experiment to what training and validation read."""

from typing import Any, Protocol

from denoise_cli.data.batches import (
    Batches,
    Estimate,
    NoisyPairs,
    NoisyPatches,
    Pair,
    Pairing,
    Samples,
    validation_pairs,
)
from denoise_cli.data.noise import NOISES, Noise
from denoise_cli.data.pickles import PickleSource
from denoise_cli.data.sources import FolderSource, Source
from denoise_cli.data.synthetic import SyntheticSource

SOURCES: dict[str, type[FolderSource | PickleSource | SyntheticSource]] = {
    "folder": FolderSource,
    "pickle": PickleSource,
    "synthetic": SyntheticSource,
}


class DataSection(Protocol):
    """The `data:` section. A source is {source: NAME, its arguments}, a noise {name: NAME, its arguments}:
    a mapping or anything else that `dict` takes."""

    @property
    def train(self) -> Any: ...
    @property
    def validation(self) -> Any: ...
    @property
    def noise(self) -> Any: ...
    @property
    def pairing(self) -> Pairing: ...
    @property
    def patch(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def gray(self) -> float: ...
    @property
    def soft(self) -> float: ...
    @property
    def misjudged(self) -> float: ...
    @property
    def augment(self) -> bool: ...
    @property
    def workers(self) -> int: ...


def open_batches(data: DataSection, *, channels: int, seed: int) -> Batches:
    """The training batches of an experiment; pictures are read here. Raises DenoiseError where that fails."""
    source = open_source(data.train, channels=channels)
    samples: Samples
    if isinstance(source, PickleSource):
        samples = NoisyPairs(source, pairing=data.pairing, augment=data.augment)
    else:
        samples = NoisyPatches(
            source,
            make_noise(data.noise),
            patch=data.patch,
            pairing=data.pairing,
            augment=data.augment,
            gray=data.gray,
            soft=data.soft,
            misjudged=data.misjudged,
        )
    return Batches(samples, batch=data.batch, seed=seed, workers=data.workers)


def open_validation(data: DataSection, *, channels: int, estimate: Estimate) -> list[Pair]:
    """The validation pictures of an experiment, the same for every seed; none for `validation: null`.

    Where training misjudges the noise, its level is what `estimate` finds. Synthetic pictures are always
    others than those that training sees.
    """
    if data.validation is None:
        return []
    spec = dict(data.validation)
    if spec["source"] == "synthetic":
        spec["take"] = "holdout"
    source = open_source(spec, channels=channels)
    return validation_pairs(source, make_noise(data.noise), estimate=estimate if data.misjudged else None)


def open_source(spec: Any, *, channels: int) -> Source | PickleSource:
    """The source that {source: NAME, its arguments} describes."""
    arguments = dict(spec)
    return SOURCES[arguments.pop("source")](channels=channels, **arguments)


def make_noise(spec: Any) -> Noise:
    """The noise that {name: NAME, its arguments} describes."""
    arguments = dict(spec)
    return NOISES[arguments.pop("name")](**arguments)
