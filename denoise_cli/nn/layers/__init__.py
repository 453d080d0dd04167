"""The layers, one family a file. Every module in this folder is imported here, so that its layers register
themselves: a new file needs no entry anywhere."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
