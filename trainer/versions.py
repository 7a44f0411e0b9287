"""Versions of the libraries that decide a result."""

import sys
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Name -> version of Python, of the project, and of the libraries whose rounding or random numbers a result hangs on."""
    found = {"python": sys.version.split()[0]}
    for name in ("modality-zoo", "torch", "numpy", "timm", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "source tree"
    return found
