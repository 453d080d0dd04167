"""Training: it learns, it goes on where it stopped, and it never leaves anything broken."""

import csv
import math

import pytest
import torch

from denoise_cli.checkpoint import load_model, load_training_state
from denoise_cli.config import Experiment
from denoise_cli.data.batch import Batch
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.runs import COLUMNS, RunFolder
from denoise_cli.trainer import Trainer, clip_gradients, seeded
from denoise_cli.training import StepRecord, ValidationRecord, fit


def conv(inputs, outputs):
    return {"conv2d": {"in_channels": inputs, "out_channels": outputs, "kernel_size": 3, "padding": 1}}


def tiny(**changes):
    """A small experiment; `train__steps=3` sets train.steps."""
    plain = {
        "input": {"channels": 1},
        "model": [
            {"residual": {"body": [conv(1, 4), {"batch_norm2d": {"num_features": 4}}, "relu", conv(4, 1)]}}
        ],
        "optimizer": {"name": "adam", "lr": 0.01},
        "schedule": {"name": "cosine", "warmup": 2},
        "data": {
            "train": {"source": "synthetic", "count": 10, "size": 24},
            "validation": {"source": "synthetic", "count": 3, "size": 24},
            "patch": 16,
            "batch": 4,
            "workers": 0,
        },
        "train": {"steps": 8, "validate_every": 3, "save_every": 4},
    }
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = plain
        for section in sections:
            place = place[section]
        place[key] = value
    return Experiment.load(plain)


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    monkeypatch.setattr(RunFolder, "draw", lambda *_: None)


def train(experiment, path, **arguments):
    return list(fit(experiment, RunFolder(path), **arguments))


def interrupt(experiment, path, after, **arguments):
    """Trains until step `after` and stops there, as Ctrl-C does."""
    records = fit(experiment, RunFolder(path), **arguments)
    for record in records:
        if isinstance(record, StepRecord) and record.step == after:
            break
    records.close()


def rows(path):
    with (path / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


# It learns -----------------------------------------------------------------------------------------------


def test_one_batch_can_be_overfitted():
    experiment = tiny(model=[conv(1, 16), "relu", conv(16, 1)], schedule={"name": "constant"})
    trainer = Trainer(experiment)
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 1, 6, 6, generator=generator)
    batch = Batch(torch.rand(1, 1, 6, 6, generator=generator), target, None, torch.zeros(1))
    losses = [trainer.train_step(batch).loss for _ in range(250)]
    assert losses[-1] < 1e-3 * losses[0]


def test_training_gains_on_the_noisy_picture(tmp_path):
    experiment = tiny(
        train__steps=60, train__validate_every=60, data__noise={"name": "gaussian", "sigma": 50}
    )
    *_, last = train(experiment, tmp_path / "run")
    assert last.noisy_psnr == pytest.approx(14.15, abs=0.3)
    assert last.psnr > last.noisy_psnr + 3


def test_the_records_tell_of_every_step_and_validation(tmp_path):
    records = train(tiny(), tmp_path / "run")
    steps = [r for r in records if isinstance(r, StepRecord)]
    assert [r.step for r in steps] == list(range(1, 9))
    assert [r.step for r in records if isinstance(r, ValidationRecord)] == [3, 6, 8]
    assert all((r.steps, r.pictures) == (8, 4) for r in steps)
    assert steps[-1].epoch == pytest.approx(8 / 3)
    assert [r.lr for r in steps[:3]] == pytest.approx([0.005, 0.01, 0.01])
    assert steps[-1].lr < 0.001


def test_pictures_without_noise_do_not_spoil_the_mean(tmp_path):
    experiment = tiny(data__noise={"name": "photo", "camera": 0, "gaussian": 1, "correlated": 0})
    found = [r for r in train(experiment, tmp_path / "run") if isinstance(r, ValidationRecord)]
    assert found
    assert all(math.isfinite(record.psnr + record.noisy_psnr) for record in found)
    clean = tiny(data__noise={"name": "gaussian", "sigma": 0}, model=[conv(1, 1)])
    record = next(r for r in train(clean, tmp_path / "clean") if isinstance(r, ValidationRecord))
    assert record.noisy_psnr == 60


def test_epochs_are_counted_in_steps(tmp_path):
    experiment = tiny(train={"epochs": 2, "validate_every": None})
    records = train(experiment, tmp_path / "run")
    assert [r.step for r in records if isinstance(r, ValidationRecord)] == [3, 6]


def test_without_validation_the_last_model_is_the_model(tmp_path):
    run = RunFolder(tmp_path / "run")
    records = list(fit(tiny(data__validation=None), run))
    assert all(isinstance(record, StepRecord) for record in records)
    assert run.model == run.last
    assert not run.best.exists()


# What it leaves ------------------------------------------------------------------------------------------


def test_a_run_folder_holds_all_of_the_run(tmp_path):
    run = RunFolder(tmp_path / "deep" / "run")
    records = list(fit(tiny(), run))
    validations = [r for r in records if isinstance(r, ValidationRecord)]
    best = max(validations, key=lambda r: r.psnr)
    model = load_model(run.path)
    assert model.meta["step"] == best.step
    assert model.meta["validation"]["psnr"] == best.psnr
    assert load_model(run.last).meta["step"] == 8
    assert [row["step"] for row in rows(run.path) if row["psnr"]] == ["3", "6", "8"]
    assert [int(row["step"]) for row in rows(run.path)] == list(range(1, 9))
    assert [float(row["loss"]) for row in rows(run.path)] == pytest.approx(
        [r.loss for r in records if isinstance(r, StepRecord)], rel=1e-6
    )
    with run.metrics.open() as file:
        assert tuple(next(csv.reader(file))) == COLUMNS


def test_the_moving_average_is_what_is_validated_and_saved(tmp_path):
    experiment = tiny(train__ema=0.5)
    trainer = Trainer(experiment)
    expected = [value.clone() for value, _ in trainer.net.param()]
    for step in range(6):
        trainer.train_step(trainer.batches.batch(step))
        decay = min(0.5, (2 + step) / (11 + step))
        expected = [
            decay * e + (1 - decay) * v for e, (v, _) in zip(expected, trainer.net.param(), strict=True)
        ]
    for e, (value, _) in zip(expected, trainer.model.param(), strict=True):
        torch.testing.assert_close(value, e)
    mean, average = (n.state()["0.body.1.running_mean"] for n in (trainer.net, trainer.model))
    assert torch.equal(mean, average)
    train(experiment, tmp_path / "run")
    state = load_training_state(tmp_path / "run" / "state.safetensors")
    assert_same_tensors(load_model(tmp_path / "run" / "last.safetensors").net.state(), state.part("average"))
    assert not torch.equal(state.part("average")["0.body.0.weight"], state.part("net")["0.body.0.weight"])


# It goes on where it stopped -----------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"train__ema": 0.9, "train__clip": 0.05, "data__workers": 2}])
@pytest.mark.parametrize("after", [2, 3, 5])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, after, changes):
    body = [conv(1, 4), {"batch_norm2d": {"num_features": 4}}, "relu", {"dropout": {"p": 0.2}}, conv(4, 1)]
    experiment = tiny(model=body, **changes)
    whole, parts = tmp_path / "whole", RunFolder(tmp_path / "parts")
    train(experiment, whole)
    interrupt(experiment, parts.path, after)
    assert parts.interrupted().progress["step"] == after
    torch.rand(5)  # the state of torch's own generator must not matter
    records = train(experiment, parts.path, state=parts.interrupted())
    assert records[0].step == after + (after != 3), "a validation that was due is made up for"

    expected, found = load_training_state(whole / "state.safetensors"), parts.interrupted()
    assert_same_tensors(expected.tensors, found.tensors)
    assert {**expected.progress, "seconds": 0} == {**found.progress, "seconds": 0}
    assert rows(whole) == rows(parts.path)
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_tensors(load_model(whole / name).net.state(), load_model(parts.path / name).net.state())


def test_a_killed_run_goes_on_from_its_last_save(tmp_path):
    experiment = tiny()
    whole, killed = tmp_path / "whole", RunFolder(tmp_path / "killed")
    train(experiment, whole)
    records = fit(experiment, killed)
    saved = None
    for record in records:
        if isinstance(record, StepRecord) and record.step == 7:
            saved = killed.state.read_bytes()
            break
    records.close()
    killed.state.write_bytes(saved)  # as if it had never been told to stop
    assert killed.interrupted().progress["step"] == 4
    train(experiment, killed.path, state=killed.interrupted())
    assert rows(whole) == rows(killed.path)
    assert_same_tensors(
        load_training_state(whole / "state.safetensors").tensors, load_training_state(killed.state).tensors
    )


def test_a_finished_run_can_be_made_longer(tmp_path):
    run = RunFolder(tmp_path / "run")
    train(tiny(schedule={"name": "constant"}), run.path)
    longer = tiny(schedule={"name": "constant"}, train__steps=10)
    train(longer, run.path, state=run.interrupted())
    train(longer, tmp_path / "whole")
    assert_same_tensors(
        run.interrupted().part("net"),
        load_training_state(tmp_path / "whole" / "state.safetensors").part("net"),
    )


def test_resuming_another_experiment_is_refused(tmp_path):
    run = RunFolder(tmp_path / "run")
    train(tiny(), run.path)
    with pytest.raises(UsageError, match=r"optimizer\.lr: is 0\.5 now, the interrupted training had 0\.01"):
        train(tiny(optimizer__lr=0.5), run.path, state=run.interrupted())


def test_training_does_not_touch_torchs_own_random_numbers(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny(), tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


def test_a_run_of_many_steps_can_be_resumed(tmp_path):
    run, step = RunFolder(tmp_path / "run"), 12_345_678
    run.begin(tiny(), step=0)
    run.log({"step": step, "loss": 0.1})
    again = RunFolder(run.path)
    again.begin(tiny(), step=step)
    assert [row["step"] for row in again.rows] == [str(step)]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_random_numbers_follow_from_seed_and_step_on_the_device_in_use(device, monkeypatch):
    generators = {"cpu": torch.default_generator, "mps": torch.Generator()}
    monkeypatch.setattr(torch.mps, "get_rng_state", generators["mps"].get_state)
    monkeypatch.setattr(torch.mps, "manual_seed", generators["mps"].manual_seed)
    monkeypatch.setattr(torch.mps, "set_rng_state", generators["mps"].set_state)
    used, before = generators[device], {name: each.get_state() for name, each in generators.items()}
    draws = []
    for step in (3, 3, 4):
        with seeded(1, step, torch.device(device)):
            draws.append(torch.rand(5, generator=used).tolist())
    assert draws[0] == draws[1] != draws[2]
    assert all(torch.equal(each.get_state(), before[name]) for name, each in generators.items())


def test_a_used_folder_is_refused(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.refuse_if_used()
    with pytest.raises(UsageError, match="no run to resume here"):
        run.interrupted()
    train(tiny(), run.path)
    with pytest.raises(UsageError, match=r"is in use; --resume carries it on, --force starts it anew, --out"):
        RunFolder(run.path).refuse_if_used()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UsageError, match="is in use; --out names another folder"):
        RunFolder(tmp_path / "photos").refuse_if_used()


def test_starting_anew_removes_what_the_old_run_wrote_and_nothing_else(tmp_path):
    run = RunFolder(tmp_path / "run")
    train(tiny(), run.path)
    (run.path / "notes.txt").touch()
    train(tiny(data__validation=None), run.path)
    assert not run.best.exists()
    assert (run.path / "notes.txt").exists()
    assert all(row["psnr"] == "" for row in rows(run.path))


def test_weights_to_start_from(tmp_path):
    weights = tiny(seed=9).build_model().state()
    trainer = Trainer(tiny(), start=weights)
    assert_same_tensors(trainer.net.state(), weights)
    assert not torch.equal(Trainer(tiny()).net.state()["0.body.0.weight"], weights["0.body.0.weight"])


# It never leaves anything broken -------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(tmp_path):
    run = RunFolder(tmp_path / "run")
    experiment = tiny(
        model=[conv(1, 1), {"batch_norm2d": {"num_features": 1}}, conv(1, 1)],
        optimizer={"name": "sgd", "lr": 1e30},
        data__validation=None,
    )
    losses = []
    with pytest.raises(
        DenoiseError, match=r"step \d+: the loss is (nan|inf); the last good weights are in"
    ) as caught:
        losses.extend(record.loss for record in fit(experiment, run))
    assert all(math.isfinite(loss) for loss in losses)
    assert load_model(run.last).meta["step"] == len(losses) - 1, "that of the weights that gave the last one"
    assert "\n" not in str(caught.value)
    for file in (run.last, run.state):
        tensors = load_model(file).net.state() if file == run.last else load_training_state(file).tensors
        assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    run = RunFolder(tmp_path / "run")
    experiment = tiny(model=[conv(1, 1)], optimizer={"name": "sgd", "lr": 1e38, "weight_decay": 1e38})
    records = fit(experiment, run)
    next(records)  # finite loss, then an update that overflows
    with pytest.raises(DenoiseError, match="step 1: a weight is no longer finite"):
        records.close()
    assert run.interrupted().progress["step"] == 0
    model = load_model(run.last)
    assert model.net.state()["0.weight"].isfinite().all()
    assert model.meta["step"] == 0


def test_clipping_scales_all_gradients_by_one_factor():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    clip_gradients(gradients, 10.0)
    assert gradients[1].item() == 4.0
    clip_gradients(gradients, 1.0)
    torch.testing.assert_close(torch.cat([g.flatten() for g in gradients]), torch.tensor([0.6, 0.0, 0.8]))


def test_bfloat16_trains_almost_like_float32(tmp_path):
    data = {"train__steps": 40, "train__validate_every": 40, "data__noise": {"name": "gaussian", "sigma": 50}}
    *_, full = train(tiny(**data), tmp_path / "full")
    *_, half = train(tiny(**data, train__precision="bf16"), tmp_path / "half")
    assert half.psnr == pytest.approx(full.psnr, abs=0.3)
    state = load_model(tmp_path / "half").net.state()
    assert all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
    assert state["0.body.1.running_mean"].abs().sum() > 0
