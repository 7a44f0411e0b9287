"""Libraries that not everybody has."""

import importlib
from types import ModuleType

from trainer.errors import MissingDependencyError


def library(name: str, where: str) -> ModuleType:
    """An optional library that reading `where` needs. MissingDependencyError names it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"{where} needs the library {name!r}, which is not installed: pip install {name}.") from error
