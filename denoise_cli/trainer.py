"""One training: its network, optimizer and data, a step at a time, and all that a resumed one must know."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from denoise_cli.checkpoint import TrainingState
from denoise_cli.config import Experiment
from denoise_cli.data.batch import Batch
from denoise_cli.data.opening import open_batches
from denoise_cli.denoiser import Denoiser
from denoise_cli.errors import UsageError
from denoise_cli.evaluation import Denoised, evaluate, validation_pairs
from denoise_cli.metrics import decibels, mse, psnr
from denoise_cli.nn.mixed_precision import computing_in
from denoise_cli.nn.module import Module
from denoise_cli.nn.precision import products_in
from denoise_cli.nn.replay import Replayed
from denoise_cli.runs import Row

ROWS = 200
"""How many rows of metrics a run has, apart from those of its validations."""

PERFECT = 60.0
"""The most that a picture counts in a mean of PSNRs; one without noise has an infinite one."""


@dataclass(frozen=True)
class StepRecord:
    """One training step: its number (from 1) of how many, the epochs done, and how long it took."""

    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    pictures: int
    seconds: float


@dataclass(frozen=True)
class ValidationRecord:
    """Mean figures over the validation pictures after a step; `best` where no earlier PSNR was as high."""

    step: int
    steps: int
    loss: float
    psnr: float
    noisy_psnr: float
    best: bool


class NotFiniteError(Exception):
    """A loss or a weight that is infinite or not a number."""


class Trainer:
    """The parts of a training, and what it has come to.

    `net` has the float32 weights that the optimizer moves; `model` the ones that are validated and saved: the
    same, or their moving average.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        device: str | torch.device = "cpu",
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.experiment, self.device, self.decay = experiment, torch.device(device), experiment.train.ema
        self.net = experiment.build_model().to(device=device)
        if start is not None:
            self.net.load_state(start)
        self.model = self.net
        if self.decay:
            self.model = experiment.build_model().to(device=device)
            self.model.load_state(self.net.state())
        self.net.skip_input_gradient()
        self.computing = computing_in(experiment.train.precision, self.net)
        self.tensors = list(self.net.state().values())
        self.good = [tensor.clone() for tensor in self.tensors]  # those that gave the last finite loss
        self.good_step = 0
        self.judged = [tensor.clone() for tensor in self.tensors]  # those whose loss is being computed

        self.loss = experiment.build_loss()
        self.optimizer = experiment.build_optimizer(self.net.param())
        self.loss_and_gradients = Replayed(self._loss_and_gradients)
        self.schedule, self.base_lr = experiment.build_schedule(), self.optimizer.lr
        self.batches = open_batches(experiment.data, channels=experiment.input.channels, seed=experiment.seed)
        self.steps = experiment.train.steps or (experiment.train.epochs or 1) * self.batches.steps_per_epoch
        self.denoiser = Denoiser(
            self.model, channels=experiment.input.channels, noise_level=experiment.input.noise_level
        )
        self.pairs = validation_pairs(experiment)

        self.step = 0
        self.seconds = 0.0
        self.validated = 0  # the step of the last validation
        self.best: float | None = None
        self.scores: dict[str, float] = {}
        self.losses: list[float] = []  # since the last row of metrics

    # One step ----------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> StepRecord:
        """Forward, loss, backward, update. Raises NotFiniteError, with the last good weights put back."""
        begin = time.perf_counter()
        x, sigma, target = (
            t.to(self.device, non_blocking=True) for t in (batch.x, batch.sigma, batch.target)
        )
        with seeded(self.experiment.seed, self.step, self.device):
            result = self.loss_and_gradients(x, sigma, target)
        copy_all(self.tensors, self.judged)
        self.step += 1
        self.optimizer.lr = self.lr
        self.optimizer.step()
        if self.decay:
            move_average(self.model, self.net, min(self.decay, (1 + self.step) / (10 + self.step)))
        loss = float(result)  # only now: a GPU has been told of the whole step
        if not math.isfinite(loss):
            raise self._put_back(f"step {self.step}: the loss is {loss}")
        self.good, self.judged, self.good_step = self.judged, self.good, self.step - 1
        self.losses.append(loss)
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        return StepRecord(self.step, self.steps, self.epoch, loss, self.lr, len(x), seconds)

    def _loss_and_gradients(self, x: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch; its gradients, clipped, go to those of the parameters."""
        self.optimizer.zero_grad()
        with products_in(self.experiment.train.precision):
            y = self.computing.forward(self.denoiser.inputs(x, sigma))
            loss = self.loss.forward(y, target)
            self.computing.backward(self.loss.backward())
        if clip := self.experiment.train.clip:
            clip_gradients([grad for _, grad in self.net.param()], clip)
        return loss

    def check_weights(self) -> None:
        """Raises NotFiniteError, with the last good weights put back, where a step has spoilt them."""
        if not all(bool(tensor.isfinite().all()) for tensor in self.tensors):
            raise self._put_back(f"step {self.step}: a weight is no longer finite")

    def _put_back(self, problem: str) -> NotFiniteError:
        copy_all(self.good, self.tensors)
        self.step = self.good_step
        return NotFiniteError(problem)

    # Validation --------------------------------------------------------------------------------------------

    def validate(self) -> tuple[ValidationRecord, list[Denoised]]:
        """Measures `model` on the validation pictures; some of the results come along."""
        shown = set(np.linspace(0, len(self.pairs) - 1, 4).round().astype(int).tolist())
        pictures, losses, psnrs, noisy = [], [], [], []
        loss = self.experiment.build_loss()
        for index, denoised in enumerate(evaluate(self.denoiser, self.pairs)):
            clean = denoised.pair.clean
            one = (torch.from_numpy(pixels)[None] for pixels in (denoised.pixels, clean))
            losses.append(float(loss.forward(*one)))
            psnrs.append(min(psnr(denoised.pixels, clean), PERFECT))
            noisy.append(min(decibels(mse(denoised.pair.noisy, clean)), PERFECT))
            if index in shown:
                pictures.append(denoised)
        mean_psnr = float(np.mean(psnrs))
        best = self.best is None or mean_psnr > self.best
        record = ValidationRecord(
            self.step, self.steps, float(np.mean(losses)), mean_psnr, float(np.mean(noisy)), best
        )
        if best:
            self.best = mean_psnr
        self.validated = self.step
        self.scores = {"psnr": record.psnr, "noisy_psnr": record.noisy_psnr, "images": len(self.pairs)}
        return record, pictures

    # When --------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> float:
        return self.step / self.batches.steps_per_epoch

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.base_lr * self.schedule(max(0, self.step - 1), self.steps)

    @property
    def validation_due(self) -> bool:
        every = self.experiment.train.validate_every or self.batches.steps_per_epoch
        due = self.step % every == 0 or self.step == self.steps
        return due and bool(self.pairs) and self.validated != self.step

    @property
    def row_due(self) -> bool:
        every = max(1, self.steps // ROWS)
        return bool(self.losses) and (self.step % every == 0 or self.step == self.steps)

    @property
    def save_due(self) -> bool:
        return self.step % self.experiment.train.save_every == 0

    # What is kept ------------------------------------------------------------------------------------------

    def row(self, validation: ValidationRecord | None = None) -> Row:
        """A row of metrics; its loss is the mean since the row before."""
        row: Row = {"step": self.step, "epoch": self.epoch, "loss": float(np.mean(self.losses or [math.nan]))}
        if validation:
            row |= {
                "validation_loss": validation.loss,
                "psnr": validation.psnr,
                "noisy_psnr": validation.noisy_psnr,
            }
        self.losses = []
        return row | {"lr": self.lr, "seconds": self.seconds}

    @property
    def about(self) -> dict[str, Any]:
        """What a model file says of its training."""
        validation = {"step": self.validated, **self.scores} if self.scores else None
        return {"step": self.step, "seconds": round(self.seconds, 1), "validation": validation}

    def state(self) -> TrainingState:
        """All that a training needs to go on as if it had never stopped."""
        parts = {"net": self.net.state(), "optimizer": self.optimizer.state()}
        if self.decay:
            parts["average"] = self.model.state()
        tensors = {
            f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()
        }
        return TrainingState(self.experiment, tensors, {name: getattr(self, name) for name in PROGRESS})

    def load_state(self, state: TrainingState) -> None:
        """Goes on from `state`. Raises UsageError where it is that of another experiment."""
        check_same(state.experiment, self.experiment)
        self.net.load_state(state.part("net"))
        if self.decay:
            self.model.load_state(state.part("average"))
        self.optimizer.load_state(state.part("optimizer"))
        for name in PROGRESS:
            setattr(self, name, state.progress[name])
        copy_all(self.tensors, self.good)
        self.good_step = self.step


PROGRESS = ("step", "seconds", "validated", "best", "scores", "losses")
"""The attributes of a Trainer that change, apart from tensors."""

FREE = ("train.steps", "train.epochs", "train.validate_every", "train.save_every", "data.workers")
"""The keys that may change when a training is resumed, besides the paths of data."""


def check_same(old: Experiment, new: Experiment) -> None:
    """Raises UsageError where a training of `old` cannot go on as one of `new`."""
    before, after = flat(old.dump()), flat(new.dump())
    for key in sorted(before.keys() | after.keys()):
        free = key in FREE or (key.startswith("data.") and key.endswith(".path"))
        if not free and before.get(key) != after.get(key):
            raise UsageError(
                f"{key}: is {after.get(key)} now, the interrupted training had {before.get(key)}: resume with"
                " that, or start another training with --init-from"
            )


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay whole."""
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {
        k: v for key, value in tree.items() for k, v in flat(value, f"{path}.{key}" if path else key).items()
    }


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's random numbers follow from seed and step; outside, nothing has changed."""
    number = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    put_back: Callable[[Tensor], object]
    if device.type == "mps":
        before, put_back = torch.mps.get_rng_state(), torch.mps.set_rng_state
        torch.mps.manual_seed(number)
    else:
        # torch.manual_seed would do as well, were it not for the stack trace that it takes for CUDA's sake
        on_cuda = device.type == "cuda"
        generator = torch.cuda.default_generators[device.index or 0] if on_cuda else torch.default_generator
        before, put_back = generator.get_state(), generator.set_state
        generator.manual_seed(number)
    try:
        yield
    finally:
        put_back(before)


def copy_all(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for tensor, copy in zip(source, target, strict=True):
        copy.copy_(tensor)


def clip_gradients(gradients: Sequence[Tensor], limit: float) -> None:
    """Scales all gradients by one factor, so that their common Euclidean norm is at most `limit`."""
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    factor = (limit / (norm + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor)


def move_average(average: Module, net: Module, decay: float) -> None:
    """a <- decay a + (1 - decay) w for the parameters; running statistics, averages already, are copied."""
    for (mean, _), (value, _) in zip(average.param(), net.param(), strict=True):
        mean.lerp_(value, 1 - decay)
    for target, source in zip(average.modules(), net.modules(), strict=True):
        copy_all(list(source.buffers.values()), list(target.buffers.values()))
