"""Searches: what a file may say, who tries what, and what is written of it."""

import csv
import shutil
import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Thread

import optuna
import pytest

from denoise_cli.config import load_config
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.runs import COLUMNS
from denoise_cli.search import (
    Trials,
    draw_results,
    load_search,
    results,
    run_search,
    running,
    scores,
    write_results,
)
from denoise_cli.search.folder import TrialFolder
from denoise_cli.trainer import StepRecord
from denoise_cli.training import DivergedError, fit

ROOT = Path(__file__).parent.parent
SEARCH = """
title: A search
base:
  input: {channels: 1}
  model:
    - conv2d: {in_channels: 1, out_channels: 2, kernel_size: 3, padding: 1}
    - relu
    - conv2d: {in_channels: 2, out_channels: 1, kernel_size: 3, padding: 1}
  optimizer: {name: sgd, lr: 0.1}
  data:
    train: {source: synthetic, count: 8, size: 16}
    validation: {source: synthetic, count: 2, size: 16}
    patch: 8
    batch: 4
    workers: 0
  train: {epochs: 2, validate_every: null, save_every: 500}
values:
  optimizer.lr: [0.05, 0.1]
labels: {optimizer.lr: learning rate}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def search_of(here, text=SEARCH, **more):
    file = here / "search.yaml"
    file.write_text(text + "".join(f"{key}: {value}\n" for key, value in more.items()))
    return load_search(file)


def values(name, spec):
    """The search with other `values`."""
    return SEARCH.replace("  optimizer.lr: [0.05, 0.1]", f"  {name}: {spec}").replace("labels", "#")


def rows(folder, name="results.csv"):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def trials_of(search, folder):
    """(lr, seed, state) of every trial that was begun."""
    trials = Trials(search, folder)
    try:
        return [(each.point["optimizer.lr"], each.seed, each.state) for each in trials.known()]
    finally:
        trials.close()


@pytest.mark.parametrize("name", ["a?b", "a%20b#c", "a{b}c", "d📷é"])
def test_a_folder_of_any_name(here, name):
    with closing(Trials(search_of(here), here / name)):
        assert (here / name / "search.sqlite").is_file()
    assert {file.name for file in here.iterdir()} == {"search.yaml", name}


# The file ---------------------------------------------------------------------------------------------------


def test_a_base_is_an_experiment_or_the_path_of_one(here, monkeypatch):
    inline = search_of(here)
    (here / "base.yaml").write_text(inline.base.to_yaml())
    begin, end = SEARCH.index("base:"), SEARCH.index("values:")
    by_path = search_of(here, SEARCH[:begin] + "base: base.yaml\n" + SEARCH[end:])
    assert by_path.base == inline.base
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert load_search(here / "search.yaml").base == inline.base
    monkeypatch.chdir(here)
    changed = load_search(here / "search.yaml", ["train.epochs=1"])
    assert changed.base.train.epochs == 1


def test_a_grid_has_every_combination_and_random_as_many_as_wanted(here):
    two = "{optimizer.lr: [1, 2], model.1: [relu, {elu: {alpha: 2.0}}, selu]}"
    text = SEARCH[: SEARCH.index("values:")] + f"values: {two}\n"
    points = search_of(here, text).points()
    assert len({tuple(point.values()) for point in points}) == 6
    experiment = search_of(here, text).experiment(points[1], seed=3)
    assert (experiment.optimizer.arguments, experiment.model[1], experiment.seed) == (
        {"lr": 1},
        {"elu": {"alpha": 2.0}},
        3,
    )

    text = values("optimizer.lr", "{low: 0.01, high: 1.0, log: true}")
    drawn = search_of(here, text, sampler="random", trials=20).points()
    numbers = [point["optimizer.lr"] for point in drawn]
    assert drawn == search_of(here, text, sampler="random", trials=20).points(), "always the same draws"
    assert len(set(numbers)) == 20
    assert all(0.01 <= number <= 1 for number in numbers)
    assert 4 < sum(number < 0.1 for number in numbers) < 16, "half of them in each decade, or about so"


def test_random_draws_are_made_in_silence_and_count_once(here, caplog):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    try:
        search = search_of(here, sampler="random", trials=10)
    finally:
        optuna.logging.disable_propagation()
    assert caplog.records == []
    with closing(Trials(search, here / "out")) as trials:
        assert trials.total == 2


@pytest.mark.parametrize("trials", [6, 9])
def test_repeated_draws_are_no_points(here, trials):
    text = values("optimizer.lr", "[0.1, 0.2, 0.3]") + "  data.batch: {low: 3, high: 4}\n"
    drawn = search_of(here, text, sampler="random", trials=trials).points()
    assert len({tuple(point.items()) for point in drawn}) == len(drawn) == 6
    text = text.replace("epochs: 2", "epochs: 1")
    list(run_search(search_of(here, text, sampler="tpe", trials=trials), here / "out"))
    tried = {(row["optimizer.lr"], row["data.batch"]) for row in rows(here / "out")}
    assert len(tried) == len(rows(here / "out")) == 6


def test_alternatives_change_several_keys_at_once(here):
    wide = "{model.0.conv2d.out_channels: 5, model.2.conv2d.in_channels: 5}"
    search = search_of(here, values("width", f"{{narrow: {{}}, wide: {wide}}}"))
    narrow, wide = (search.experiment(point, 0).build_model() for point in search.points())
    assert (len(narrow.state()["0.bias"]), len(wide.state()["0.bias"])) == (2, 5)
    assert [search.describe(point) for point in search.points()] == ["narrow", "wide"]


def test_an_axis_may_change_a_part_of_what_an_earlier_one_has_set(here):
    text = values("optimizer", "[{name: adam, lr: 1}, {name: sgd, lr: 1}]") + "  optimizer.lr: [2, 3]\n"
    search = search_of(here, text)
    rules = [search.experiment(point, 0).optimizer for point in search.points()]
    assert [(rule.name, rule.arguments["lr"]) for rule in rules] == [
        ("adam", 2),
        ("adam", 3),
        ("sgd", 2),
        ("sgd", 3),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            values("optimizer.lr", "{low: 0.1, high: 0.2}") + "  model.1: [relu, elu, rleu]",
            "with optimizer.lr 0.1, model.1 rleu: model[1]: unknown layer 'rleu' - did you mean 'relu'?",
        ),
        (
            values("train.ema", "{low: 0.5, high: 3.0}"),
            "with train.ema 3: train.ema: should be less than 1, not 3.0",
        ),
    ],
)
def test_tpe_tries_its_space_out_beforehand(here, text, message):
    with pytest.raises(UsageError) as caught:
        search_of(here, text + "\nsampler: tpe\ntrials: 8\n")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should be a mapping like {key: value}, not null"),
        (SEARCH.replace("values", "vales"), "unknown key 'vales' - did you mean 'values'?"),
        (values("optimizer.lr", "[]"), "values.optimizer.lr: an empty list; give at least one value"),
        (values("optimizer.lr", "[1, 1.0]"), "values.optimizer.lr: has 1 twice"),
        (values("optimizer.lr", "4"), "values.optimizer.lr: should be a list of values, or a range"),
        (values("optimizer.lr", "{lo: 1, high: 2}"), "values.optimizer.lr: unknown key 'lo' - did you mean"),
        (values("optimizer.lr", "{low: 3, high: 2}"), "values.optimizer.lr: low must be less than high"),
        (values("optimizer.lr", "{low: 1, high: 2}"), "values.optimizer.lr: a grid needs a list of values"),
        (
            values("optimiser.lr", "[1]"),
            "values.optimiser.lr: unknown key 'optimiser' - did you mean 'optimizer'",
        ),
        (values("optimizer.lrr", "[1]"), "with optimizer.lrr 1: optimizer: unknown key 'lrr'"),
        (values("optimizer.lr", "[1, fast]"), "with optimizer.lr fast: optimizer.lr: should be a number"),
        (values("model.7", "[relu]"), "values.model.7: model is a list: name an index up to 2"),
        (values("seed", "[0, 1]"), "values.seed: a trial takes its seed from seeds"),
        (values("run", "{a: {seed: 1}, b: {}}"), "values.run: a trial takes its seed from seeds"),
        (
            values("model.1", "[relu, elu]") + "  act: {a: {}, b: {'model[1]': selu}}",
            "values.act: sets model[1], so that values.model.1 has no effect",
        ),
        (
            values("optimizer.lr", "[1, 2]") + "  rule: {a: {}, b: {optimizer: {name: adam}}}",
            "values.rule: sets optimizer, so that values.optimizer.lr has no effect",
        ),
        (SEARCH.replace("lr: learning", "lrr: learning"), "labels: unknown entry of values 'optimizer.lrr'"),
        (SEARCH + "sampler: random", "sampler: random needs trials"),
        (SEARCH + "trials: 3", "sampler: grid takes no trials"),
        (SEARCH + "sampler: best", "sampler: should be 'grid', 'random' or 'tpe', not 'best'"),
        (SEARCH + "seeds: []", "seeds: should be"),
        (SEARCH + "seeds: [1, 1]", "seeds: repeats itself"),
        (SEARCH.replace("- relu", "- rleu"), "base: model[1]: unknown layer 'rleu' - did you mean 'relu'?"),
        (SEARCH.replace("{source: synthetic, count: 2, size: 16}", "null"), "base: has no data.validation"),
    ],
)
def test_a_mistake_is_one_clear_line(here, text, message):
    with pytest.raises(UsageError) as caught:
        search_of(here, text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(here / "search.yaml"))
    assert "\n" not in str(caught.value)


# The work ---------------------------------------------------------------------------------------------------


def test_a_search_writes_its_tables_the_best_config_and_a_figure(here):
    search, folder = search_of(here, seeds=[0, 1]), here / "out"
    told = list(run_search(search, folder))
    assert [each.label for each in told] == [
        "learning rate 0.05, seed 0",
        "learning rate 0.1, seed 0",
        "learning rate 0.05, seed 1",
        "learning rate 0.1, seed 1",
    ]
    assert [(each.done, each.total) for each in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]

    table, epochs = rows(folder), rows(folder, "epochs.csv")
    assert [row["state"] for row in table] == ["complete"] * 4
    assert [row["epoch"] for row in epochs] == ["1", "2"] * 4
    assert all(float(row["seconds"]) > 0 for row in table)
    mean = {
        lr: sum(float(row["best_psnr"]) for row in table if row["optimizer.lr"] == lr) / 2
        for lr in ("0.05", "0.1")
    }
    best = load_config(folder / "best.yaml")
    assert best.optimizer.arguments["lr"] == float(max(mean, key=mean.__getitem__))

    trials = Trials(search, folder)
    found = scores(trials)
    assert found[0].psnr == pytest.approx(max(mean.values()), abs=1e-3)
    assert found[0].spread >= 0
    draw_results(trials)
    trials.close()
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")


def test_losses_by_epoch_are_those_of_the_steps(here):
    experiment = search_of(here).base
    folder = TrialFolder(here / "run")
    losses = [record.loss for record in fit(experiment, folder) if isinstance(record, StepRecord)]
    first, second = folder.epochs()
    assert first.train_loss == pytest.approx(sum(losses[:2]) / 2, rel=1e-5)
    assert second.train_loss == pytest.approx(sum(losses[2:]) / 2, rel=1e-5)
    assert (first.epoch, second.epoch) == (1, 2)


def test_a_finished_search_does_nothing_more_and_may_grow_by_seeds(here):
    folder = here / "out"
    assert len(list(run_search(search_of(here), folder))) == 2
    assert list(run_search(search_of(here), folder)) == []
    assert [each.label for each in run_search(search_of(here, seeds=[0, 7]), folder)] == [
        "learning rate 0.05, seed 7",
        "learning rate 0.1, seed 7",
    ]
    with pytest.raises(UsageError, match="holds a search of more seeds"):
        list(run_search(search_of(here), folder))


def test_another_search_does_not_go_into_the_same_folder(here):
    folder = here / "out"
    list(islice(run_search(search_of(here), folder), 1))
    other = SEARCH.replace("[0.05, 0.1]", "[0.05, 0.2]")
    with pytest.raises(UsageError, match=r"out: holds a search whose values.optimizer.lr is \[0.05, 0.1\]"):
        list(run_search(search_of(here, other), folder))
    with pytest.raises(UsageError, match="in use by something else"):
        list(run_search(search_of(here), here))


def test_a_folder_that_another_process_is_only_just_making_is_no_obstacle(here):
    folder = here / "out"
    (folder / "trials").mkdir(parents=True)
    (folder / "search.lock").touch()
    assert len(list(run_search(search_of(here), folder))) == 2


def test_a_search_that_was_begun_before_a_key_existed_goes_on(here):
    trials = Trials(search_of(here), here / "out")
    written = trials.study.user_attrs["search"]
    del written["prune"], written["base"]["train"]["clip"], written["base"]["input"]
    trials.study.set_user_attr("search", written)
    trials.close()
    with pytest.raises(UsageError, match=r"holds a search whose base\.input\.channels is 3, here it is 1"):
        Trials(search_of(here), here / "out")
    written["base"]["input"] = {"channels": 1}
    trials.study.set_user_attr("search", written)
    Trials(search_of(here), here / "out").close()
    trials.study.set_user_attr("search", {**written, "speed": 3})
    with pytest.raises(UsageError, match=r"holds a search of another version \(unknown key 'speed'"):
        Trials(search_of(here), here / "out")
    trials.close()


def test_a_damaged_folder_is_no_riddle(here):
    search, folder = search_of(here), here / "out"
    list(run_search(search, folder))
    shutil.rmtree(folder / "trials" / "0000")
    trials = Trials(search, folder)
    write_results(trials)
    draw_results(trials)
    assert [len(score.psnrs) for score in scores(trials)] == [1, 0]
    trials.close()
    (folder / "search.sqlite").write_text("junk " * 1000)
    with pytest.raises(DenoiseError, match=r"out/search\.sqlite: damaged, or not the trials of a search"):
        Trials(search, folder)


def test_a_trial_is_handed_out_once_and_again_when_it_was_dropped(here):
    one, other = (Trials(search_of(here), here / "out") for _ in range(2))
    with one.claim() as first, other.claim() as second, one.claim() as third:
        assert first.point != second.point
        assert third is None, "both are being tried"
    with other.claim() as again:
        assert again.point == first.point
        assert again.folder.path == first.folder.path, "to go on from what it saved"
    one.close()
    other.close()


def test_no_trial_ends_while_another_process_looks_for_abandoned_ones(here):
    one, other = (Trials(search_of(here), here / "out") for _ in range(2))
    with one.claim() as trial:
        finishing = Thread(target=one.finish, args=(trial, "complete", 20.0))
        with other.lock:
            finishing.start()
            finishing.join(0.2)
            assert [each.state for each in other.known()] == ["unfinished"]
        finishing.join()
        assert [each.state for each in other.known()] == ["complete"]
    one.close()
    other.close()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import denoise_cli.search.running as running
from denoise_cli.search import load_search, run_search

torch.set_num_threads(1)
steps = 0
def fit(*arguments, **more):
    global steps
    for record in training_fit(*arguments, **more):
        steps += 1
        if steps == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield record
training_fit, running.fit = running.fit, fit
for _ in run_search(load_search(Path("search.yaml")), Path(sys.argv[1])):
    pass
"""


def test_a_killed_search_goes_on_loses_nothing_and_repeats_nothing(here):
    """Killed in the middle of the second trial; what comes out is what an undisturbed search finds."""
    search = search_of(here, SEARCH.replace("save_every: 500", "save_every: 1"), seeds=[0, 1])
    environment = {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, "out", "10"]
    assert subprocess.run(command, cwd=here, env=environment, check=False).returncode == -9
    assert trials_of(search, here / "out") == [("0.05", 0, "complete"), ("0.1", 0, "unfinished")]
    finished = (here / "out" / "trials" / "0000" / "metrics.csv").stat()

    labels = [each.label for each in run_search(search, here / "out")]
    assert labels == ["learning rate 0.1, seed 0", "learning rate 0.05, seed 1", "learning rate 0.1, seed 1"]
    assert (here / "out" / "trials" / "0000" / "metrics.csv").stat() == finished
    list(run_search(search, here / "whole"))
    assert [_figures(row) for row in rows(here / "out")] == [_figures(row) for row in rows(here / "whole")]


def _figures(row):
    """What does not depend on time or on how often a search was stopped."""
    return {name: value for name, value in row.items() if name not in ("trial", "seconds", "folder")}


def test_a_diverged_trial_counts_as_tried_and_never_as_best(here):
    search = search_of(here, values("optimizer.lr", "[1.0e+30, 0.1]"))
    told = [each.outcome for each in run_search(search, here / "out")]
    assert told == ["diverged", "complete"]
    assert load_config(here / "out" / "best.yaml").optimizer.arguments["lr"] == 0.1
    assert list(run_search(search, here / "out")) == []
    trials = Trials(search, here / "out")
    write_results(trials)
    draw_results(trials)
    trials.close()


def test_a_line_ends_where_a_seed_diverged_and_the_legend_says_so(here, monkeypatch):
    text = values("lr", "{one: {}, two: {optimizer.lr: 0.05}}")
    search = search_of(here, text, seeds=[0, 1])
    fits = iter([2, 0, 1, 0])  # epochs of one, two with seed 0, then with seed 1

    def fit(experiment, folder, **_):
        epochs = next(fits)
        folder.path.mkdir(parents=True)
        lines = [f"{2 * epoch},{epoch},0.1,0.1,20,10,1,1" for epoch in range(1, epochs + 1)]
        folder.metrics.write_text("\n".join([",".join(COLUMNS), *lines, ""]))
        yield from ()
        if epochs < 2:
            raise DivergedError

    monkeypatch.setattr(running, "fit", fit)
    list(run_search(search, here / "out"))
    drawn = {}
    monkeypatch.setattr(results, "draw_bands", lambda _, panels, **__: drawn.update(panels))
    trials = Trials(search, here / "out")
    draw_results(trials)
    trials.close()
    for bands in drawn.values():
        assert [(band.label, band.remark, band.x) for band in bands] == [
            ("one", " (1 of 2 diverged)", [1]),
            ("two", " (2 of 2 diverged)", []),
        ]
    assert list(drawn) == ["train loss", "test loss"]


def test_pruning_stops_what_is_below_the_median(here):
    """After five trials (Optuna's start) a hopeless one ends at its first validation, and is not repeated."""
    lrs = "[0.1, 0.11, 0.12, 0.13, 0.14, 1.0e-9]"
    search = search_of(here, values("optimizer.lr", lrs), prune="true", seeds=[0, 1])
    told = {each.label: each.outcome for each in run_search(search, here / "out")}
    assert told["optimizer.lr 1e-09, seed 0"] == "pruned"
    assert "optimizer.lr 1e-09, seed 1" not in told
    ended = {row["seed"]: row for row in rows(here / "out") if row["state"] == "pruned"}
    assert list(ended) == ["0"], "repeats are never stopped"
    assert ended["0"]["epochs"] == "1"


def test_with_pruning_a_point_is_not_repeated_before_its_first_trial_has_ended(here):
    search = search_of(here, prune="true", seeds=[0, 1])
    one, other, third = (Trials(search, here / "out") for _ in range(3))
    with one.claim() as first, other.claim() as second:
        with third.claim() as nothing:
            assert nothing is None
        other.finish(second, "complete", 20.0)
        with third.claim() as repeat:
            assert (repeat.point, repeat.seed) == (second.point, 1)
            third.finish(repeat, "complete", 20.0)
        one.finish(first, "pruned")
    with third.claim() as nothing:
        assert nothing is None
    for each in (one, other, third):
        each.close()


def test_tpe_tries_as_many_points_as_wanted_each_with_every_seed(here):
    text = values("optimizer.lr", "{low: 0.01, high: 0.2, log: true}")
    search = search_of(here, text, sampler="tpe", trials=3, seeds=[0, 1])
    list(islice(run_search(search, here / "out"), 2))
    list(run_search(search, here / "out"))
    tried = trials_of(search, here / "out")
    points = {lr for lr, _, _ in tried}
    assert len(points) == 3
    assert {(lr, seed) for lr, seed, _ in tried} == {(lr, seed) for lr in points for seed in (0, 1)}
    assert len(tried) == 6
    list(islice(run_search(search, here / "other"), 1))
    assert trials_of(search, here / "other")[0] == tried[0], "the same storage, the same suggestion"
