"""YAML without its traps: words, repeated keys, files that are none, and `--set`."""

import math

import pytest

from denoise_cli import strict_yaml
from denoise_cli.errors import UsageError
from denoise_cli.strict_yaml import override, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2E3", 2000.0),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("-3", -3),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("0o7", "0o7"),
        ("e5", "e5"),
        ("'1e-4'", "1e-4"),
        ("1.2.3", "1.2.3"),
        ("<<", "<<"),
        ("[1e-3, .nan]", [1e-3, math.nan]),
    ],
)
def test_words_mean_what_yaml_1_2_says(text, value):
    read = parse(text, "x")
    assert type(read) is type(value)
    assert read == pytest.approx(value, nan_ok=True) if isinstance(value, float | list) else read == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml: line 3: the key 'a' is repeated (line 1 has it already)"),
        (
            "m:\n  - conv2d: {lr: 1, lr: 2}\n",
            "x.yaml: line 2: the key 'lr' is repeated (line 2 has it already)",
        ),
        ("1: a\n", "x.yaml: line 1: a key must be a word, not 1"),
        ("a: {b: 1\n", "x.yaml: line 2: expected ',' or '}', but got '<stream end>'"),
        ("a: b: c\n", "x.yaml: line 1: mapping values are not allowed here"),
        ("a:\n\t- b\n", r"x.yaml: line 2: found character '\t' that cannot start any token"),
        ("a: 1\n---\nb: 1\n", "x.yaml: line 2: but found another document"),
        (
            "a: !!python/object:os.system {}\n",
            "x.yaml: line 1: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'",
        ),
        ("&a [*a]\n", "x.yaml: line 1: found unconstructable recursive node"),
        ("[" * 5000, "x.yaml: nested too deeply"),
        ("a: *b\n", "x.yaml: line 1: found undefined alias 'b'"),
        ("a: \x00", "x.yaml: not YAML: unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_what_is_not_a_config_is_refused_with_its_line(text, message):
    with pytest.raises(UsageError) as error:
        parse(text, "x.yaml")
    assert str(error.value) == message


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path):
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    for path, problem in [
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "a folder; name the YAML file in it"),
        (tmp_path / "picture.yaml", "not a text file"),
        (tmp_path / "picture.yaml" / "below.yaml", "cannot be read (Not a directory)"),
    ]:
        with pytest.raises(UsageError) as error:
            strict_yaml.read(path)
        assert str(error.value) == f"{path}: {problem}"


def test_what_is_written_reads_back_the_same():
    data = {
        "numbers": [1, 1.0, 1e-5, 1e22, -0.5, math.inf],
        "words": [
            "on",
            "1e-4",
            "010",
            "null",
            "true",
            "~",
            "",
            "1:30",
            "é",
            "a: b",
            "- x",
            "#",
            "2024-01-01",
        ],
        "others": {"none": None, "yes": True, "no": False, "empty": [], "nothing": {}},
    }
    shared = [1]
    data["twice"] = [shared, shared]
    text = strict_yaml.write(data)
    assert parse(text, "x") == data
    assert "&" not in text  # aliases would be hard to read


# --set ----------------------------------------------------------------------------------------------------

DATA = {
    "model": [{"conv2d": {"in_channels": 3}}, "relu", {"residual": {"body": [{"elu": None}]}}],
    "optimizer": {"name": "sgd", "lr": 4.0},
    "seed": 0,
}
SECTIONS = {"optimizer": {}, "data": {"noise": {}}}


@pytest.mark.parametrize(
    ("assignment", "changed"),
    [
        ("seed=7", {"seed": 7}),
        ("optimizer.lr=1e-4", {"optimizer": {"name": "sgd", "lr": 1e-4}}),
        ("optimizer.momentum=0.9", {"optimizer": {"name": "sgd", "lr": 4.0, "momentum": 0.9}}),
        ("optimizer={name: adam}", {"optimizer": {"name": "adam"}}),
        ("data.noise.sigma=[5, 50]", {"data": {"noise": {"sigma": [5, 50]}}}),
        ("seed=", {"seed": None}),
        ("loss=a=b", {"loss": "a=b"}),
        ("model.0.conv2d.in_channels=64", {"model": [{"conv2d": {"in_channels": 64}}, *DATA["model"][1:]]}),
        ("model[1]=elu", {"model": [DATA["model"][0], "elu", DATA["model"][2]]}),
        (
            "model[2].residual.body[0].elu.alpha=2",
            {"model": [*DATA["model"][:2], {"residual": {"body": [{"elu": {"alpha": 2}}]}}]},
        ),
    ],
)
def test_an_override_changes_one_value_of_a_copy(assignment, changed):
    before = strict_yaml.write(DATA)
    assert override(DATA, assignment, SECTIONS) == DATA | changed
    assert strict_yaml.write(DATA) == before


def test_an_alias_is_changed_in_one_place_only():
    data = parse("a: &x {lr: 1}\nb: *x\n", "x")
    assert override(data, "a.lr=2", {}) == {"a": {"lr": 2}, "b": {"lr": 1}}


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("optimizer.lr", "should be KEY=VALUE, like optimizer.lr=0.5"),
        ("=3", "should be KEY=VALUE, like optimizer.lr=0.5"),
        ("model[one]=3", "should be KEY=VALUE, like optimizer.lr=0.5"),
        ("optimiser.lr=3", "unknown key 'optimiser' - did you mean 'optimizer'?"),
        ("data.nois.sigma=3", "data: unknown key 'nois' - did you mean 'noise'?"),
        ("model.0.conv2.in_channels=3", "model.0: unknown key 'conv2' - did you mean 'conv2d'?"),
        ("model.3=relu", "model is a list: name an index up to 2, not '3'"),
        ("model.first=relu", "model is a list: name an index up to 2, not 'first'"),
        ("model.1.relu.slope=3", "model.1 is 'relu', which has no 'relu' in it"),
        ("seed.x=3", "seed is 0, which has no 'x' in it"),
        ("seed=[1", "line 1: expected ',' or ']', but got '<stream end>'"),
        ("optimizer={lr: 1, lr: 2}", "line 1: the key 'lr' is repeated (line 1 has it already)"),
    ],
)
def test_an_override_that_hits_nothing_is_refused(assignment, problem):
    with pytest.raises(UsageError) as error:
        override(DATA, assignment, SECTIONS)
    assert str(error.value) == f"--set {assignment}: {problem}"
