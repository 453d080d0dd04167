"""`denoise layers`: what a model can be made of."""

import inspect
import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise_cli.cli.options import AsJson

if TYPE_CHECKING:
    from denoise_cli.nn.arguments import Argument


def layers(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show this layer in full.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the layers a config may use, with arguments and defaults."""
    from denoise_cli.cli.console import print_json
    from denoise_cli.errors import UsageError
    from denoise_cli.nn.arguments import arguments_of, unknown
    from denoise_cli.nn.build import LAYERS

    if name is not None and name not in LAYERS:
        raise UsageError(unknown("layer", name, LAYERS))
    chosen = {each: LAYERS[each] for each in ([name] if name else sorted(LAYERS))}
    if as_json:
        print_json([_as_data(each, cls, arguments_of(cls)) for each, cls in chosen.items()])
    elif name is None:
        _show_all({each: (_text(cls), arguments_of(cls)) for each, cls in chosen.items()})
    else:
        _show_one(name, _text(LAYERS[name]), arguments_of(LAYERS[name]))


def _show_all(known: "dict[str, tuple[str, tuple[Argument, ...]]]") -> None:
    from rich.markup import escape

    from denoise_cli.cli.console import messages, new_table, results

    table = new_table("layer", "what it does, [dim]and its arguments[/dim]")
    for name, (text, arguments) in known.items():
        first_line = escape(text.split("\n")[0])
        signature = escape(", ".join(_signature(each) for each in arguments))
        table.add_row(
            f"[bold]{name}[/bold]", f"{first_line}\n[dim]{signature}[/dim]" if signature else first_line
        )
    results().print(table)
    messages().print("denoise layers NAME shows one in full")


def _show_one(name: str, text: str, arguments: "tuple[Argument, ...]") -> None:
    from rich.markup import escape

    from denoise_cli.cli.console import new_table, results
    from denoise_cli.nn.arguments import describe

    console = results()
    paragraphs = re.sub(r"(?<=\S)\n(?=\S)", " ", text)
    console.print(f"[bold]{name}[/bold]\n\n{escape(paragraphs)}")
    table = new_table("argument", "takes", "default")
    for each in arguments:
        default = "[dim]required[/dim]" if each.required else escape(_as_yaml(each.default))
        table.add_row(each.name, escape(describe(each.annotation)), default)
    if arguments:
        console.print(table)


def _text(cls: type) -> str:
    return inspect.getdoc(cls) or ""


def _signature(argument: "Argument") -> str:
    return argument.name if argument.required else f"{argument.name}={_as_yaml(argument.default)}"


def _as_yaml(default: Any) -> str:
    return default if isinstance(default, str) else json.dumps(default)


def _as_data(name: str, cls: type, arguments: "tuple[Argument, ...]") -> dict[str, Any]:
    from denoise_cli.nn.arguments import describe

    return {
        "name": name,
        "arguments": [
            {"name": each.name, "takes": describe(each.annotation), "required": each.required}
            | ({} if each.required else {"default": each.default})
            for each in arguments
        ],
        "description": _text(cls),
    }
