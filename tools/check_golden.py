"""Do our models compute what the official code computed?

    python -m tools.check_golden PATH...     files, or folders that are searched for *.safetensors

Each golden file is loaded through the modality's `interop`, run through our model, and every stored output and
gradient is compared. A float tensor passes within 1e-4 of its largest magnitude (at least 1); masks and indices
must be equal. A modality may read from a file's notes that some outputs are less exact (`tolerances` of its golden package). Files of training methods (`methods/...`) go to the trainer: within 1e-6 of the largest magnitude. Exit status 0 only when every file is known and everything in it was compared and passed.
"""

import argparse
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from modalities.common.golden import Golden
from modalities.registry import MODALITIES
from trainer import golden as methods
from trainer.errors import UnknownNameError, ZooError

TOLERANCE = 1e-4


def main(arguments: list[str] | None = None) -> int:
    """Check what the command line names; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="golden files, or folders of them")
    paths = parser.parse_args(arguments).paths
    found = {path: golden_files(path) for path in paths}
    files = [file for group in found.values() for file in group]
    failed = [f"{path}: there is no golden file" for path, group in found.items() if not group]
    failed += [f"{file}: {problem}" for file in files if (problem := check_file(file))]
    for line in failed:
        print(f"FAIL {line}")
    print(f"{len(files)} file(s), {len(failed)} failure(s)")
    return 1 if failed else 0


def golden_files(path: Path) -> list[Path]:
    """The file itself, or all safetensors files below a folder."""
    return sorted(path.rglob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []


def check_file(path: Path) -> str:
    """Compare one file and print a line per tensor. Returns what is wrong with it, or an empty string."""
    print(f"{path}")
    try:
        golden = Golden.read(path)
        computed = runner(golden)(golden)
    except ZooError as error:
        return str(error)
    except Exception as error:  # a fault of our models must not hide the other files
        return f"{type(error).__name__}: {error}"
    if not golden.expected:
        return "it stores no output to compare"
    tolerance, least = (methods.TOLERANCE, 0.0) if is_method(golden) else (TOLERANCE, 1.0)
    names, stated = sorted(golden.expected.keys() | computed.keys()), stated_tolerances(golden)
    wrong = [name for name in names if not compare(name, golden.expected.get(name), computed.get(name), stated.get(name, tolerance), least)]
    return f"{len(wrong)} of {len(golden.expected)} outputs: {', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}" if wrong else ""


def stated_tolerances(golden: Golden) -> dict[str, float]:
    """Tolerances of single outputs that the file's own notes state, as `modalities.<modality>.golden` reads them; none where it reads no such notes."""
    if is_method(golden):
        return {}
    package = importlib.import_module(f"modalities.{golden.model.partition('/')[0]}.golden")
    return package.tolerances(golden) if hasattr(package, "tolerances") else {}


def runner(golden: Golden) -> Callable[[Golden], dict[str, Tensor]]:
    """The function that recomputes a file: `run` of `modalities.<modality>.golden`, or of `trainer.golden` for a training method."""
    if is_method(golden):
        return methods.run
    modality = golden.model.partition("/")[0]
    module = f"modalities.{modality}.golden"
    if modality not in MODALITIES or importlib.util.find_spec(module) is None:
        raise UnknownNameError(f"the model {golden.model!r} is unknown: there is no {module}")
    return importlib.import_module(module).run


def is_method(golden: Golden) -> bool:
    """Whether a file belongs to a training method and not to a model of a modality."""
    return golden.model.startswith("methods/")


def compare(name: str, stored: Tensor | None, computed: Tensor | None, tolerance: float, least: float) -> bool:
    """Print name, shape, largest absolute and relative error and the verdict: within `tolerance` of the largest magnitude, or of `least`."""
    if stored is None or computed is None:
        print(f"  {name:60} {'not in the file' if stored is None else 'not recomputed':>36}  FAIL")
        return False
    if stored.shape != computed.shape:
        print(f"  {name:60} stored {tuple(stored.shape)}, recomputed {tuple(computed.shape)}  FAIL")
        return False
    a, b = stored.double(), computed.detach().double()
    error = (a - b).abs().max().item() if a.numel() else 0.0
    scale = a.abs().max().item() if a.numel() else 0.0
    limit = 0.0 if is_exact(name, stored) else tolerance * max(least, scale)
    passed = math.isfinite(error) and math.isfinite(scale) and error <= limit
    relative = error / scale if scale else error
    print(f"  {name:60} {str(tuple(stored.shape)):18} abs {error:8.1e} rel {relative:8.1e}  {'ok' if passed else 'FAIL'}")
    return passed


def is_exact(name: str, stored: Tensor) -> bool:
    """Whether a tensor must be equal: masks and indices, in whatever type they are stored (a gradient of mask_token is neither)."""
    kind, _, last = name.rpartition(".")
    return not stored.is_floating_point() or (kind == "output" and last.startswith(("mask", "ids_")))


if __name__ == "__main__":
    sys.exit(main())
