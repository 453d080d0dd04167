"""YAML name -> class. A layer registers itself with its name and a few example constructions; the gradient
check, the parity test, the save/load round trip and `denoise layers` read them from here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from denoise_cli.nn.module import Module, Shape

M = TypeVar("M", bound=type[Module])


@dataclass(frozen=True)
class Example:
    """Arguments as YAML gives them, and the shape of an input that fits."""

    arguments: dict[str, Any] = field(default_factory=dict)
    shape: Shape = (2, 4, 7, 6)


LAYERS: dict[str, type[Module]] = {}
EXAMPLES: dict[str, tuple[Example, ...]] = {}


def layer(name: str, *examples: Example) -> Callable[[M], M]:
    """Class decorator: registers a module under its YAML name."""

    def register(cls: M) -> M:
        if name in LAYERS:
            raise ValueError(f"two layers are called {name!r}")
        cls.yaml_name = name
        LAYERS[name] = cls
        EXAMPLES[name] = examples
        return cls

    return register
