"""One YAML file is one experiment: strict, typed, and checked to the last layer before anything is trained.

    experiment = load_config("configs/quickstart.yaml", ["optimizer.lr=0.5"])
    net = experiment.build_model()

Every mistake is a UsageError of one line that names the file and the key:
`configs/x.yaml: optimizer.lr: should be a number, not 'fast'`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.types import Strict as StrictType
from torch import Tensor

from denoise_cli import strict_yaml
from denoise_cli.data.noise import NOISES, Noise
from denoise_cli.errors import UsageError
from denoise_cli.nn.arguments import SpecError, Strict, problem, unknown
from denoise_cli.nn.build import build, choose, construct, summary
from denoise_cli.nn.losses import LOSSES, Loss
from denoise_cli.nn.module import Module, Reach, Shape, ShapeError
from denoise_cli.nn.optim import OPTIMIZERS, Optimizer
from denoise_cli.nn.precision import Precision
from denoise_cli.nn.schedules import SCHEDULES, Schedule

T = TypeVar("T")
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
FilePath = Annotated[Path, StrictType(False)]
Part = Literal["train", "holdout"]


class Section(Strict):
    """A part of the file. The text below a key describes it in the JSON Schema too."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Input(Section):
    """What the network sees."""

    channels: Literal[1, 3] = 3
    """3: red, green, blue. 1: gray."""
    noise_level: bool = False
    """Whether one more plane tells the network the noise: sigma / 255 at every pixel."""
    estimator: Literal["white", "level"] = "white"
    """What measures the noise where nobody gives it: for white noise by a formula, or for any as learned."""

    @property
    def planes(self) -> int:
        return self.channels + self.noise_level


class Choice(Section):
    """A class by its `name`, and its keyword arguments beside the name; `{name: {arguments}}` does too."""

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _name_first(cls, data: Any) -> Any:
        match list(data.items()) if isinstance(data, Mapping) else []:
            case [(name, Mapping() as arguments)] if "name" not in (name, *arguments):
                return {"name": name, **arguments}
        return data

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class OptimizerChoice(Choice):
    name: str = "sgd"


class ScheduleChoice(Choice):
    name: str = "constant"


class NoiseChoice(Choice):
    name: str = "gaussian"


class SyntheticData(Section):
    """Dead-leaves pictures, made as they are asked for: no dataset is needed."""

    source: Literal["synthetic"]
    count: Positive = 1000
    """How many pictures."""
    size: Annotated[int, Field(ge=8)] = 96
    """Their side, in pixels."""
    take: Part = "train"
    """`holdout` makes other pictures than `train`; validation always takes those."""


class FolderData(Section):
    """The photographs of a folder and of the folders in it."""

    source: Literal["folder"]
    path: FilePath
    holdout: Fraction = 0.0
    """The fraction of the photographs that is kept apart for validation."""
    take: Part = "train"
    """`holdout` takes the part that is kept apart, `train` the rest."""


class PickleData(Section):
    """Pairs in the format of the course: one torch file, pictures that are noisy already."""

    source: Literal["pickle"]
    path: FilePath
    limit: Positive | None = None
    """Keep the first so many pairs."""


def source(data: Any) -> Any:
    """What tells the kinds of data apart: their key `source`."""
    return data.get("source") if isinstance(data, Mapping) else getattr(data, "source", None)


Source = Annotated[
    Annotated[SyntheticData, Tag("synthetic")]
    | Annotated[FolderData, Tag("folder")]
    | Annotated[PickleData, Tag("pickle")],
    Discriminator(source),
]


class Data(Section):
    """Where batches come from: pictures, the noise that is added, how input and target are paired."""

    train: Source = SyntheticData(source="synthetic")
    validation: Source | None = SyntheticData(source="synthetic", count=32, take="holdout")
    """Pictures to measure on while training; null: none."""
    noise: NoiseChoice = NoiseChoice.model_validate({"name": "gaussian", "sigma": [0, 50]})
    """What is added to clean pictures; pairs of a `pickle` are noisy already."""
    pairing: Literal["clean", "noise2noise"] = "clean"
    """The target: the clean picture, or a second noisy version of it."""
    patch: Positive = 64
    """The side of the squares that are cut from pictures, in pixels."""
    batch: Positive = 16
    """Patches in a step."""
    gray: Fraction = 0.0
    """The fraction of patches of a colour experiment that are gray, noise and all: one network for both."""
    soft: Fraction = 0.0
    """The fraction of patches that are enlarged: photographs in full size have less detail in a pixel."""
    misjudged: NotNegative = 0.0
    """How far off the noise levels are that the network is told: by factors e^(misjudged n), n ~ N(0, 1).
    Above 0, validation tells it what the estimator finds."""
    augment: bool = True
    """Whether patches are flipped and turned in the eight possible ways."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Who prepares batches beside the training: 0: nobody, 1: a thread, more: so many processes."""

    @model_validator(mode="before")
    @classmethod
    def _keep_validation_apart(cls, data: Any) -> Any:
        """Validation takes what training leaves: other synthetic pictures, the held-out part of a folder."""
        if not (isinstance(data, Mapping) and isinstance(data.get("validation"), Mapping)):
            return data
        validation, train = data["validation"], data.get("train")
        implied: dict[str, Any] = {}
        if validation.get("source") == "synthetic":
            implied = {"take": "holdout"}
        elif validation.get("take") == "holdout" and isinstance(train, Mapping) and "holdout" in train:
            implied = {"holdout": train["holdout"]}
        return {**data, "validation": {**implied, **validation}}


class Training(Section):
    """How long to train, for `steps` or for `epochs`, and what to do on the way."""

    steps: Positive | None = None
    """How many batches; 2000 where `epochs` is not given either."""
    epochs: Positive | None = None
    """How many times every picture."""
    validate_every: Positive | None = 500
    """Steps between two validations; null: every epoch."""
    save_every: Positive = 500
    """Steps between two saves of the state that a run resumes from."""
    ema: Fraction | None = None
    """Save averaged weights, an exponential average of this decay, like 0.999; null: the last ones."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """The largest norm of the whole gradient; null: any."""
    precision: Precision = "float32"
    """What the factors of matrix products are rounded to, and on a GPU activations; weights stay float32."""

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        steps, epochs = data.get("steps"), data.get("epochs")
        if steps is not None and epochs is not None:
            raise problem("give steps or epochs, not both (set the other one to null)")
        return {**data, "steps": 2000} if steps is None and epochs is None else data


class Experiment(Section):
    """A whole experiment. The `build_...` methods make its parts; `load` has made sure that they can."""

    seed: Seed = 0
    """Where all randomness starts: weights, crops, noise."""
    input: Input = Input()
    model: Any
    """The network: a list of layers; `denoise layers` shows them."""
    loss: Any = "mse"
    """What training makes small."""
    optimizer: OptimizerChoice = OptimizerChoice.model_validate({"name": "sgd", "lr": 4.0})
    """The rule by which weights move: its name, and its arguments beside it."""
    schedule: ScheduleChoice = ScheduleChoice()
    """How the learning rate changes over a run: its name, and its arguments beside it."""
    data: Data = Data()
    train: Training = Training(steps=2000)

    @classmethod
    def load(cls, data: Any, source: str = "config") -> "Experiment":
        """The experiment that plain data describe. Raises UsageError that starts with `source`."""
        if data is None:
            raise UsageError(f"{source}: is empty; an experiment needs at least a model")
        try:
            experiment = cls.check(data)
            experiment._try_out()
        except (SpecError, ShapeError) as error:
            raise UsageError(f"{source}: {error}") from error
        return experiment

    def dump(self) -> dict[str, Any]:
        """Plain data with every default written out; `load` makes the same experiment of it."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """`dump` as the text of a config file."""
        return strict_yaml.write(self.dump())

    def build_model(self) -> Module:
        """The network with its starting weights, which follow from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return build(self.model)

    def build_loss(self) -> Loss:
        name, arguments = choose(LOSSES, self.loss, "loss", kind="loss")
        return construct(LOSSES[name], arguments, f"loss.{name}")

    def build_optimizer(self, parameters: list[tuple[Tensor, Tensor]]) -> Optimizer:
        """The optimizer of what `net.param()` gives."""
        return _construct(OPTIMIZERS, self.optimizer, "optimizer", parameters)

    def build_schedule(self) -> Schedule:
        return _construct(SCHEDULES, self.schedule, "schedule")

    def build_noise(self) -> Noise:
        return _construct(NOISES, self.data.noise, "data.noise")

    @property
    def input_shape(self) -> Shape:
        """The shape of one training patch as the network sees it."""
        return (1, self.input.planes, self.data.patch, self.data.patch)

    def _try_out(self) -> None:
        """Makes every part once, and walks a patch's shape through the net. Raises SpecError, ShapeError."""
        net = self.build_model()
        self.build_loss()
        self.build_optimizer([])
        self.build_schedule()
        self.build_noise()
        if self.data.misjudged and not self.input.noise_level:
            raise SpecError("data.misjudged", "the network is told no noise level: input.noise_level is off")
        if not net.param():
            raise SpecError("model", "has nothing to learn: none of its layers has parameters")
        summary(net, self.input_shape)  # names the first layer that does not fit
        output, wanted = net.output_shape(self.input_shape), (1, self.input.channels, *self.input_shape[2:])
        if output != wanted:
            period = net.reach(Reach()).period
            hint = f"; make data.patch a multiple of {period}" if self.data.patch % period else ""
            made, seen = _size(output), _size(self.input_shape)
            raise SpecError("model", f"makes {made} of {seen}; it should make {_size(wanted)}{hint}")


SECTIONS: Mapping[str, Any] = {
    "input": {},
    "optimizer": {},
    "schedule": {},
    "data": {"train": {}, "validation": {}, "noise": {}},
    "train": {},
}
"""The mappings that a file may leave out, nested as in the file; `--set` may enter them all the same."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a YAML file, with `key.to.change=value` overrides applied in order.

    Raises UsageError, one line, for a file that cannot be read and for anything in it that cannot be trained.
    """
    data = strict_yaml.read(Path(path))
    if isinstance(data, Mapping) and {"base", "values"} <= data.keys():
        raise UsageError(f"{path}: is a search, not an experiment: denoise search --config {path} --out DIR")
    source = str(path)
    for assignment in overrides:
        data = strict_yaml.override(data, assignment, SECTIONS)
        source += f" with --set {assignment}"
    return Experiment.load(data, source)


def _construct(known: Mapping[str, type[T]], choice: Choice, path: str, *supplied: Any) -> T:
    if choice.name not in known:
        raise SpecError(f"{path}.name", unknown(path.split(".")[-1], choice.name, known))
    return construct(known[choice.name], choice.arguments, path, *supplied)


def _size(shape: Shape) -> str:
    """(1, 3, 64, 64) as 3 x 64 x 64."""
    return " x ".join(map(str, shape[1:]))
