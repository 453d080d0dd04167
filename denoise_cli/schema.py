"""The JSON Schema of experiment files, so that an editor completes and checks them as they are typed.

It says what `load_config` checks of names, keys and types. Whether layers fit each other, only that knows.
"""

from collections.abc import Mapping
from typing import Any

from denoise_cli.config import Experiment
from denoise_cli.data.noise import NOISES
from denoise_cli.nn.arguments import arguments_of, signature_model
from denoise_cli.nn.losses import LOSSES
from denoise_cli.nn.optim import OPTIMIZERS
from denoise_cli.nn.registry import LAYERS
from denoise_cli.nn.schedules import SCHEDULES

Schema = dict[str, Any]

MODEL: Schema = {"$ref": "#/$defs/model"}
"""A spec, at the top or nested in a layer."""


def experiment_schema() -> Schema:
    """The JSON Schema, draft 2020-12, of a config file."""
    schema = Experiment.model_json_schema()
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "denoise experiment",
    }
    parts, sections = schema["$defs"], schema["properties"]
    parts["layer"] = _named(LAYERS)
    parts["model"] = {"anyOf": [{"type": "array", "items": MODEL, "minItems": 1}, {"$ref": "#/$defs/layer"}]}
    sections["model"] |= MODEL
    sections["loss"] |= _named(LOSSES)
    parts["OptimizerChoice"] = _name_and_arguments(OPTIMIZERS, parts["OptimizerChoice"], supplied=1)
    parts["ScheduleChoice"] = _name_and_arguments(SCHEDULES, parts["ScheduleChoice"])
    parts["NoiseChoice"] = _name_and_arguments(NOISES, parts["NoiseChoice"])
    return schema


def _named(known: Mapping[str, type]) -> Schema:
    """`name`, where nothing is required, or `{name: {argument: value}}`."""
    arguments = {name: _arguments(cls) for name, cls in sorted(known.items())}
    bare = [name for name, schema in arguments.items() if "required" not in schema]
    mapping = {
        "type": "object",
        "properties": {
            name: {"anyOf": [schema, {"type": "null"}], "description": schema["description"]}
            if name in bare
            else schema
            for name, schema in arguments.items()
        },
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [{"enum": bare}, mapping]}


def _name_and_arguments(known: Mapping[str, type], choice: Schema, *, supplied: int = 0) -> Schema:
    """`{name: NAME, argument: value}`, the default name may be left out; or `{NAME: {argument: value}}`."""
    default = choice["properties"]["name"]["default"]
    kinds = []
    for name, cls in known.items():
        kind = _arguments(cls, supplied)
        kind["properties"] = {"name": {"const": name}, **kind["properties"]}
        kind["required"] = ([] if name == default else ["name"]) + kind.get("required", [])
        nested = {name: _arguments(cls, supplied)}
        kinds += [
            kind,
            {"type": "object", "properties": nested, "required": [name], "additionalProperties": False},
        ]
    return {"anyOf": kinds}


def _arguments(cls: type, supplied: int = 0) -> Schema:
    schema = signature_model(cls, supplied).model_json_schema()
    schema.setdefault("properties", {}).update({each.name: MODEL for each in arguments_of(cls) if each.nests})
    return schema
