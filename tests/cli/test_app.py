"""The command line as a whole: exit codes, one-line errors, help for everything, and a quick start."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from denoise_cli.cli.app import Commands, app, denoise
from denoise_cli.errors import DenoiseError, UsageError

ROOT = Path(__file__).parent.parent.parent


def run_app(*arguments, app=app, **more):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


def start(*arguments, **more):
    """Python in a process of its own."""
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True, **more)


def failing(error):
    """An app like the real one, with a command that raises."""
    one = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False)
    one.callback()(denoise)

    @one.command()
    def fail() -> None:
        print("begun")
        raise error

    return one


# Exit codes and messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (DenoiseError("a.png: not a picture"), 1, "error: a.png: not a picture\n"),
        (UsageError("x.yaml: optimizer: needs 'lr'"), 2, "error: x.yaml: optimizer: needs 'lr'\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "out.png"),
            1,
            "error: out.png: Permission denied\n",
        ),
        (
            ZeroDivisionError("by zero\nand more"),
            1,
            "error: internal error: ZeroDivisionError: by zero (denoise --traceback ... shows where)\n",
        ),
        (
            AssertionError(),
            1,
            "error: internal error: AssertionError:  (denoise --traceback ... shows where)\n",
        ),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_an_error_becomes_one_line_and_an_exit_code(error, exit_code, message):
    result = run_app("fail", app=failing(error))
    assert (result.exit_code, result.stderr, result.stdout) == (exit_code, message, "begun\n")


@pytest.mark.parametrize(
    "how", [{"args": ["--traceback", "fail"]}, {"args": ["fail"], "env": {"DENOISE_TRACEBACK": "1"}}]
)
def test_traceback_shows_where(how):
    result = CliRunner().invoke(failing(DenoiseError("a.png: not a picture")), **how)
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert "in fail" in result.stderr
    assert result.stderr.endswith("\nerror: a.png: not a picture\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["chek"], "'chek'"), (["check", "--jason"], "--jason"), (["--nonsense", "check"], "--nonsense")],
)
def test_wrong_usage_is_exit_code_2(arguments, named):
    result = run_app(*arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stdout == ""


def test_the_program_itself_exits_with_the_code_and_one_line():
    process = start("-m", "denoise_cli", "check", "nowhere.yaml", stdout=subprocess.PIPE)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (2, "", "error: nowhere.yaml: no such file\n")


PRINTING = """
import typer
from denoise_cli.cli.app import Commands, denoise

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
app.callback()(denoise)

@app.command()
def show():
    print("a short line")

app(["show"])
"""


def test_a_reader_that_leaves_early_is_no_error():
    process = start("-c", PRINTING, stdout=subprocess.PIPE)
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error():
    with Path("/dev/full").open("w") as full:
        process = start("-c", PRINTING, stdout=full)
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (1, "error: No space left on device\n")


BREAKING_AN_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            try:
                os.kill(os.getpid(), signal.{signal})
            except KeyboardInterrupt:
                raise RecursionError("an import fell over") from None

sys.meta_path.insert(0, Finder())
sys.argv = ["denoise", "image", "in.png", "out.png"]
from denoise_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(("name", "exit_code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_breaks_an_import_off_is_a_stop(name, exit_code):
    process = start("-c", BREAKING_AN_IMPORT.format(signal=name))
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (exit_code, "stopped\n")


def test_ctrl_c_before_the_commands_are_there_is_a_stop():
    code = BREAKING_AN_IMPORT.format(signal="SIGINT").replace('"torch"', '"typer"')
    process = start("-c", code)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "stopped\n")


# Help -------------------------------------------------------------------------------------------------------


def commands(command, name="denoise"):
    """(its full name, the command) of a command and of all below it."""
    yield name, command
    for step, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {step}")


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_help(name):
    command = COMMANDS[name]
    assert command.help, name
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name}"
        assert parameter.help.endswith("."), f"{name}: {parameter.name}: {parameter.help}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_help(name):
    result = run_app(*name.split()[1:], "--help", terminal_width=80)
    assert result.exit_code == 0
    assert (
        f"Usage: {name}".replace("denoise", "root", 1) in result.stdout or f"Usage: {name}" in result.stdout
    )


@pytest.mark.parametrize("name", ["image", "noise", "psnr"])
def test_lines_of_help_end_where_the_terminal_does(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    lines = [line.strip() for line in run_app(name, "--help").stdout.splitlines()]
    about = lines[: next(n for n, line in enumerate(lines) if "Arguments" in line)]
    assert len(about) > 3
    assert all(not line or line.endswith((".", ".png")) or line.startswith("Usage") for line in about)


def test_without_arguments_help_is_shown():
    assert "denoise train --config configs/quickstart.yaml" in run_app().output


def test_version():
    result = run_app("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("denoise ")


def test_help_waits_for_nothing_heavy():
    code = """
import sys
from denoise_cli.__main__ import main
sys.argv = ["denoise", "--help"]
try:
    main()
finally:
    heavy = {"torch", "numpy", "pydantic", "yaml", "matplotlib", "PIL", "skimage", "safetensors", "tifffile"}
    print("imported:", *sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage: denoise" in done.stdout
    assert done.stderr == "imported:\n"
