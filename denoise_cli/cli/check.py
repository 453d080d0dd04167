"""`denoise check`: what a config says, before anything is trained."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from denoise_cli.cli.options import AsJson, Overrides
from denoise_cli.errors import UsageError

if TYPE_CHECKING:
    from denoise_cli.config import Experiment
    from denoise_cli.nn.build import Row
    from denoise_cli.nn.module import Module, Shape


def check(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="The YAML file of an experiment.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="Size of the picture; if not given, of a training patch."),
    ] = None,
    as_json: AsJson = False,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON Schema of config files, for editors; needs no CONFIG."),
    ] = False,
) -> None:
    """Check a config and show what its layers make, learn, cost and see."""
    from denoise_cli.cli.console import print_json

    if schema:
        from denoise_cli.schema import experiment_schema

        print_json(experiment_schema())
        return
    if config is None:
        raise UsageError("denoise check: name a CONFIG, like configs/quickstart.yaml")

    from denoise_cli.config import load_config
    from denoise_cli.nn.build import summary
    from denoise_cli.nn.module import Reach, ShapeError

    experiment = load_config(config, overrides or ())
    net = experiment.build_model()
    shape = experiment.input_shape
    if size:
        period = net.reach(Reach()).period  # pictures are padded to its multiples
        shape = (*shape[:2], *(math.ceil(side / period) * period for side in parse_size(size)))
    try:
        rows = summary(net, shape)
    except ShapeError as error:
        raise UsageError(f"{config}: at --size {size}: {error}") from error
    report = describe(experiment, net, shape, rows)
    if as_json:
        print_json({"config": str(config), **report})
    else:
        _show(str(config), rows, report)


def parse_size(text: str) -> tuple[int, int]:
    """`480x640` as (480, 640)."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"--size {text}: should be HEIGHTxWIDTH, like 480x640")
    return int(height), int(width)


def describe(experiment: "Experiment", net: "Module", shape: "Shape", rows: "list[Row]") -> dict[str, Any]:
    """The whole report as plain data."""
    from denoise_cli.nn.build import receptive_field, saved_bytes
    from denoise_cli.nn.mixed_precision import computing_in
    from denoise_cli.nn.module import Reach

    data, reach = experiment.data, net.reach(Reach())
    macs = sum(row.macs for row in rows)
    computing = computing_in(experiment.train.precision, net)
    state = [tensor for pair in computing.param() for tensor in pair]
    state += experiment.build_optimizer(net.param()).state().values()
    return {
        "input": list(shape[1:]),
        "layers": [
            {
                "path": row.path,
                "layer": row.name,
                "arguments": dict(row.arguments),
                "output": list(row.output_shape[1:]),
                "parameters": row.parameters,
                "macs": row.macs,
                "receptive_field": receptive_field(row.reach),
            }
            for row in rows
        ],
        "total": {
            "parameters": sum(row.parameters for row in rows),
            "macs": macs,
            "macs_per_pixel": macs / math.prod(shape[2:]),
            "receptive_field": receptive_field(reach),
            "period": reach.period,
        },
        "training": {
            "patch": data.patch,
            "batch": data.batch,
            "activation_bytes": data.batch * saved_bytes(computing, experiment.input_shape),
            "state_bytes": sum(tensor.nbytes for tensor in state),
        },
    }


def _show(config: str, rows: "list[Row]", report: dict[str, Any]) -> None:
    from rich.markup import escape

    from denoise_cli.cli.console import new_table, results

    console = results()
    total, training = report["total"], report["training"]
    table = new_table(
        "layer", "output", "parameters", "MACs", "sees", numbers=("output", "parameters", "MACs", "sees")
    )
    table.show_footer = True
    for column, text in zip(
        table.columns,
        ("total", "", f"{total['parameters']:,}", shorten(total["macs"]), _sees(total["receptive_field"])),
        strict=True,
    ):
        column.footer = text
    for row, layer in zip(rows, report["layers"], strict=True):
        arguments = escape(_arguments(row))
        table.add_row(
            f"{'  ' * row.depth}[bold]{row.name}[/bold]{f'({arguments})' if arguments else ''}",
            _size(row.output_shape[1:]),
            f"{row.parameters:,}" if row.parameters else "",
            shorten(row.macs) if row.macs else "",
            _sees(layer["receptive_field"]),
        )
    patch, batch = training["patch"], training["batch"]
    console.print(f"[bold]{escape(config)}[/bold]: fine. An input of {_size(report['input'])}:")
    console.print(table)
    console.print(f"per pixel:  {shorten(total['macs_per_pixel'])} MACs")
    console.print(f"pictures:   padded to multiples of {total['period']} pixels")
    console.print(
        f"a step:     {batch} patches of {patch} x {patch} hold {_bytes(training['activation_bytes'])} for"
        f" the backward pass; weights, gradients and optimizer {_bytes(training['state_bytes'])}"
    )


def _arguments(row: "Row") -> str:
    """`3, 16, 3, padding=1`: what must be given by its value alone, in the order of the signature."""
    from denoise_cli.nn.arguments import arguments_of, show
    from denoise_cli.nn.registry import LAYERS

    return ", ".join(
        show(row.arguments[each.name]) if each.required else f"{each.name}={show(row.arguments[each.name])}"
        for each in arguments_of(LAYERS[row.name])
        if each.name in row.arguments
    )


def _size(shape: "tuple[int, ...] | list[int]") -> str:
    return " x ".join(map(str, shape))


def _sees(side: int | None) -> str:
    return "all" if side is None else f"{side} x {side}"


def _bytes(number: int) -> str:
    return f"{shorten(number)}B" if number >= 1000 else f"{number} B"


def shorten(number: float) -> str:
    """1234567 as 1.23 M."""
    for unit in ("", "K", "M", "G", "T"):
        if number < 999.5 or unit == "T":
            break
        number /= 1000
    return f"{number:.3g} {unit}".rstrip()
