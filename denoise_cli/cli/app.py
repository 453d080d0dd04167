"""The command line, assembled. The only place where errors become exit codes.

0: done. 1: failed at run time. 2: wrong usage or config. 130: stopped by Ctrl-C;
128 + its number by another signal.

A command is a function in a file of its own and one line below. What it needs it imports in its body, so that
`denoise --help` waits for nothing.
"""

import os
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from denoise_cli.cli.check import check
from denoise_cli.cli.console import printable
from denoise_cli.cli.data import data
from denoise_cli.cli.eval import evaluate
from denoise_cli.cli.image import image
from denoise_cli.cli.layers import layers
from denoise_cli.cli.models import models
from denoise_cli.cli.noise import noise
from denoise_cli.cli.psnr import psnr
from denoise_cli.cli.search import search
from denoise_cli.cli.stopping import stop_code
from denoise_cli.cli.train import train
from denoise_cli.errors import DenoiseError, in_one_line

EPILOG = """[dim]Denoise a picture[/dim]   denoise image noisy.png clean.png
[dim]Train a network  [/dim]   denoise train --config configs/quickstart.yaml
[dim]Measure it       [/dim]   denoise eval runs/quickstart"""


class Commands(TyperGroup):
    """The group of all commands; turns what they raise into one line and an exit code."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types_of_flags(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        for each in (command, *getattr(command, "commands", {}).values()):
            if each is not None:
                _without_types_of_flags(each.get_params(ctx))
                each.help = _without_line_breaks(each.help)
        return command

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        try:
            return super().make_context(*arguments, **more)
        except KeyboardInterrupt:
            _leave("stopped", stop_code() or 130)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk or a closed pipe shows here, and not when Python has left
            return result
        except KeyboardInterrupt:
            _leave("stopped", stop_code() or 130)
        except BrokenPipeError:  # the reader has enough, as in `denoise layers | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None  # as for any program that a closed pipe ends: 128 + SIGPIPE
        except Exception as error:
            ours = isinstance(error, DenoiseError)
            if isinstance(error, typer.Abort) or (hasattr(error, "exit_code") and not ours):
                raise  # Typer shows its own errors
            if code := stop_code():
                _leave("stopped", code)  # an import that Ctrl-C breaks off may fail with anything
            exit_code = error.exit_code if isinstance(error, DenoiseError) else 1
            if ctx.params["traceback"]:
                traceback.print_exc()
            line = in_one_line(error, hint=" (denoise --traceback ... shows where)")
            _leave(f"error: {printable(line)}", exit_code)


def _without_types_of_flags(parameters: list[Any]) -> list[Any]:
    """The same parameters; help pages then do not say <bool> where there is nothing to give."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


def _without_line_breaks(text: str | None) -> str | None:
    """The same paragraphs; help pages then break lines by the width of the terminal, not of the source."""
    return text and "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in text.split("\n\n"))


def _leave(message: str, exit_code: int) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(exit_code)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"denoise {version('denoise-cli')}")
        except PackageNotFoundError:
            print("denoise (not installed: run from its source folder)")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


@app.callback()
def denoise(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option(
            "--traceback", envvar="DENOISE_TRACEBACK", help="Show where in the code an error arose."
        ),
    ] = False,
) -> None:
    """Take the noise out of pictures, with a neural network written from scratch."""


PICTURES = "Pictures"
NETWORKS = "Make and measure networks"
INSIDE = "Look inside"

app.command(rich_help_panel=PICTURES)(image)
app.command(rich_help_panel=PICTURES)(noise)
app.command(rich_help_panel=PICTURES)(psnr)
app.command(rich_help_panel=NETWORKS)(train)
app.command("eval", rich_help_panel=NETWORKS)(evaluate)
app.command(rich_help_panel=NETWORKS)(search)
app.command(rich_help_panel=NETWORKS)(models)
app.add_typer(data, name="data", rich_help_panel=NETWORKS)
app.command(rich_help_panel=INSIDE)(check)
app.command(rich_help_panel=INSIDE)(layers)
