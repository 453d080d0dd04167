"""Arguments from YAML, checked against the signature of the class that takes them.

A class is its own schema: the names, annotations and defaults of `__init__` are what a config may say. Types
are strict (no "3" for 3, no true for 1; a whole number does for a number, a list for a tuple), an unknown key
is answered with the nearest known one, and every error starts with the path to its place.
"""

import difflib
import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.types import Strict as StrictType
from pydantic_core import PydanticCustomError

from denoise_cli.nn.module import Module


class SpecError(ValueError):
    """A description that cannot be built. The message starts with the path: `model[3].conv2d: ...`"""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


# One argument -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """One argument of a class: what may be given for it, and what it is when nothing is given."""

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def holds_module(self) -> bool:
        """The argument is a module: YAML nests a spec there."""
        return self.annotation is Module

    @property
    def holds_factory(self) -> bool:
        """The argument makes a fresh module at every call: YAML nests a spec there too."""
        return get_origin(self.annotation) is Callable and get_args(self.annotation) == ([], Module)

    @property
    def nests(self) -> bool:
        """YAML nests a spec there, in one way or the other."""
        return self.holds_module or self.holds_factory


def arguments_of(cls: type, supplied: int = 0) -> tuple[Argument, ...]:
    """What `cls(...)` takes by name, without the first `supplied`: the caller gives those by position."""
    parameters = list(inspect.signature(cls, eval_str=True).parameters.values())[supplied:]
    return tuple(
        Argument(p.name, Any if p.annotation is p.empty else p.annotation, p.default)
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )


def describe(annotation: Any) -> str:
    """An annotation in words: `int | tuple[int, int]` is "a whole number or a list of 2 whole numbers"."""
    plain = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        Path: "a path",
        NoneType: "null",
    }
    if annotation in plain:
        return plain[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(inner[0])
    if origin in (Union, UnionType):
        lists: tuple[Any, ...] = (tuple, list, Sequence)
        simplest_first = sorted(inner, key=lambda each: (each is NoneType, get_origin(each) in lists))
        return join((describe(each) for each in simplest_first), "or")
    if origin is Literal:
        return join((show(each) for each in inner), "or")
    if origin in (tuple, list, Sequence):
        count = f"{len(inner)} " if origin is tuple and inner[-1] is not Ellipsis else ""
        return f"a list of {count}{describe(inner[0]).removeprefix('a ')}s"
    if annotation is Module or origin is Callable:
        return "a list of layers"
    return getattr(annotation, "__name__", str(annotation))


# Checking ---------------------------------------------------------------------------------------------------


class Strict(BaseModel):
    """The base of everything checked: strict types, no unknown keys, frozen, each problem in one sentence."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise problem(not_a_mapping(data))
        if cls.model_config["extra"] == "forbid":
            for key in data:
                if key not in cls.model_fields:
                    raise problem(unknown("key", key, cls.model_fields))
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        if missing := [show(name) for name in required if name not in data]:
            raise problem(f"needs {join(missing, 'and')}")
        return data

    @field_validator("*", mode="wrap")
    @classmethod
    def _check_value(cls, value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            errors = error.errors()
            if any(each["type"] == "problem" for each in errors):
                raise
            field = cls.model_fields[info.field_name or ""]
            raise problem(_explain(errors, field.annotation, value)) from None

    @classmethod
    def check(cls, data: Any, path: str = "") -> Self:
        """The checked data. Raises SpecError with the path of the first problem."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            raise SpecError(_walk(path, first["loc"], data), first["msg"]) from None


def check_arguments(cls: type, given: Any, path: str, *, supplied: int = 0) -> dict[str, Any]:
    """The keyword arguments of `cls` as YAML gives them (null: none), checked.

    Nested specs come back as they are. `supplied` arguments are left to the caller, as in `arguments_of`.
    Raises SpecError.
    """
    checked = signature_model(cls, supplied).check({} if given is None else given, path)
    return {name: getattr(checked, name) for name in checked.model_fields_set}


@functools.cache
def signature_model(cls: type, supplied: int = 0) -> type[Strict]:
    """The signature of `cls` as a pydantic model."""
    fields: dict[str, Any] = {}
    for argument in arguments_of(cls, supplied):
        annotation = Any if argument.nests else _lists_for_tuples(argument.annotation)
        fields[argument.name] = (annotation, Field() if argument.required else argument.default)
    summary = (inspect.getdoc(cls) or "").split("\n")[0]
    return create_model(cls.__name__, __base__=Strict, __doc__=summary, **fields)


def _lists_for_tuples(annotation: Any) -> Any:
    """The same annotation, where a list does for a tuple: YAML has no tuples."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return Annotated[annotation, StrictType(False)]
    if origin in (Union, UnionType):
        return Union[tuple(_lists_for_tuples(each) for each in inner)]  # noqa: UP007 - a computed union
    return annotation


# The wording of errors --------------------------------------------------------------------------------------


def problem(text: str) -> PydanticCustomError:
    """An error whose text is shown as it is."""
    return PydanticCustomError("problem", "{text}", {"text": text})


def _explain(errors: Sequence[Any], annotation: Any, value: Any) -> str:
    first = errors[0]
    if first["type"].startswith("union_tag"):  # the kinds of a union are told apart by a key of the mapping
        if not isinstance(value, Mapping):
            return not_a_mapping(value)
        key = first["ctx"]["discriminator"].strip("'()")
        if first["type"] == "union_tag_not_found":
            return f"needs {show(key)}"
        return unknown(key, first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", "))
    limits = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
    expected = next(
        (each["msg"].removeprefix("Input should be ") for each in errors if each["type"] in limits), None
    )
    return f"should be {expected or describe(annotation)}, not {show(value)}"


def not_a_mapping(value: Any) -> str:
    return f"should be a mapping like {{key: value}}, not {show(value)}"


def _walk(path: str, steps: Iterable[int | str], data: Any) -> str:
    """The path extended by those of pydantic's steps that are in the data; others name branches of unions."""
    for step in steps:
        if isinstance(data, Mapping) and step in data:
            path, data = (f"{path}.{step}" if path else str(step)), data[step]
        elif isinstance(data, Sequence) and isinstance(step, int):
            path, data = f"{path}[{step}]", data[step]
    return path


def unknown(kind: str, word: Any, known: Iterable[str]) -> str:
    """`unknown key 'kernal_size' - did you mean 'kernel_size'?`, or the known ones where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(str(word).lower(), known, n=1)
    if near:
        return f"unknown {kind} {show(word)} - did you mean {show(near[0])}?"
    choices = f"known are {', '.join(known)}" if known else "none is taken here"
    return f"unknown {kind} {show(word)} - {choices}"


def join(parts: Iterable[str], conjunction: str) -> str:
    """`a, b or c`"""
    *front, last = parts
    return f"{', '.join(front)} {conjunction} {last}" if front else last


def show(value: Any) -> str:
    """A value as a config would write it, on one line, a text in quotes, and cut where it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
