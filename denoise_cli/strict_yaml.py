"""YAML without its traps, and `--set key=value` on top of it.

Words mean what YAML 1.2 says: `1e-4` is a number, `yes`, `no`, `on` and `off` are texts, `010` is ten, a date
is a text. But `0x10` and `0o7` are texts here. A repeated key is an error, where PyYAML would let the last
one win.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from denoise_cli.errors import UsageError
from denoise_cli.nn.arguments import show, unknown

_WORDS = [
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
]
"""The words that are not texts: kind, pattern, first characters. The core schema of YAML 1.2, but for its
hexadecimal and octal numbers."""

_KEY = re.compile(r"\w+(\.\w+|\[\d+\])*")


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key, mark = self.construct_object(key_node, deep=True), key_node.start_mark
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"a key must be a word, not {show(key)}", problem_mark=mark
                )
            if key in lines:
                repeated = f"the key {show(key)} is repeated (line {lines[key]} has it already)"
                raise yaml.MarkedYAMLError(problem=repeated, problem_mark=mark)
            lines[key] = mark.line + 1
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _kind, _pattern, _first in _WORDS:
        _tag = f"tag:yaml.org,2002:{_kind}"
        _class.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_first, ""])


def _int(loader: _Loader, node: Any) -> int:
    return int(loader.construct_scalar(node))


def _list(loader: _Loader, node: Any) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _mapping(loader: _Loader, node: Any) -> dict[Hashable, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
# PyYAML's own constructors of lists and mappings would let them contain themselves.
_Loader.add_constructor("tag:yaml.org,2002:seq", _list)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def parse(text: str, source: str) -> Any:
    """What a YAML text says. Raises UsageError with `source` and the line of what is wrong."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise UsageError(f"{source}: nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UsageError(f"{source}: {line}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error


def read(path: Path) -> Any:
    """What a YAML file says. Raises UsageError that names the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder; name the YAML file in it") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file") from error
    return parse(text, str(path))


def write(data: Any) -> str:
    """A YAML text that `parse` reads back to the same data."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
    )


def override(data: Any, assignment: str, sections: Mapping[str, Any]) -> Any:
    """The data with one `key.to.change=value`; `data` itself stays as it is.

    The value is YAML. Steps are keys or indices: `model.0.conv2d.bias` or `model[0].conv2d.bias`.
    `sections` are the mappings that may be entered even where the data leave them out. Raises UsageError.
    """
    source = f"--set {assignment}"
    key, equals, text = assignment.partition("=")
    if not equals or not _KEY.fullmatch(key.strip()):
        raise UsageError(f"{source}: should be KEY=VALUE, like optimizer.lr=0.5")
    return replace(data, key.strip(), parse(text, source), sections, source)


def replace(data: Any, key: str, value: Any, sections: Mapping[str, Any], source: str) -> Any:
    """The data with another value for `key.to.change`, as in `override`. Errors start with `source`."""
    if not _KEY.fullmatch(key):
        raise UsageError(f"{source}: {show(key)} should be a key, like optimizer.lr")
    return _replace(data, steps_of(key), value, sections, source)


def steps_of(key: str) -> list[str]:
    """`model[0].conv2d.bias` -> ["model", "0", "conv2d", "bias"]."""
    return re.findall(r"\w+", key)


def _replace(data: Any, steps: Sequence[str], value: Any, sections: Any, source: str, path: str = "") -> Any:
    if not steps:
        return value
    step, *rest = steps
    here = f"{path}.{step}" if path else step
    inner = sections.get(step) if isinstance(sections, Mapping) else None
    if isinstance(data, list):
        if not step.isdecimal() or int(step) >= len(data):
            raise UsageError(
                f"{source}: {path} is a list: name an index up to {len(data) - 1}, not {show(step)}"
            )
        items = list(data)
        items[int(step)] = _replace(items[int(step)], rest, value, inner, source, here)
        return items
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise UsageError(f"{source}: {path} is {show(data)}, which has no {show(step)} in it")
    if rest and step not in data and not isinstance(inner, Mapping):
        known = {*data, *(key for key, section in (sections or {}).items() if isinstance(section, Mapping))}
        raise UsageError(f"{source}: {f'{path}: ' if path else ''}{unknown('key', step, known)}")
    return {**data, step: _replace(data.get(step), rest, value, inner, source, here)}
