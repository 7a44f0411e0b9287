"""Rules about the code base itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("trainer", "modalities", "zoo", "tools")
FILES = sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            yield node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+(\.\w+)+:\w+", node.value):
            yield node.value.partition(":")[0]  # imported by name, as in the registry


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    floor = FLOORS.index(path.relative_to(ROOT).parts[0])
    for name in imported(path):
        parts = name.split(".")
        if parts[0] in FLOORS:
            assert FLOORS.index(parts[0]) <= floor, f"{path} imports {name}, which is a floor above"
        own = path.relative_to(ROOT).parts
        if own[0] == parts[0] == "modalities" and len(parts) > 1 and len(own) > 2:
            if own[1] == "common":
                allowed = ("common", "registry", "vision", "video", "time_series", "graph") if own[2] == "preprocess.py" else ("common", "registry")
            else:
                allowed = ("common", "registry", own[1])
            assert parts[1] in allowed or not (ROOT / "modalities" / parts[1]).is_dir(), f"{path} imports {name}, another modality"


@pytest.mark.parametrize("path", FILES + sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_over_500_lines(path):
    assert len(path.read_text().splitlines()) <= 500


def heavy_modules(code):
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    names = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    return names & {"torch", "timm", "torchvision", "accelerate", "transformers", "sklearn", "matplotlib", "huggingface_hub"}


@pytest.mark.parametrize(
    "code",
    [
        "import zoo",
        "import zoo; zoo.list_models()",
        "from zoo.cli import main; main(['--help'])",
        "from zoo.cli import main; main(['list'])",
        "from zoo.cli import main; main(['show', 'vision/mae-base'])",
    ],
)
def test_light_start(code):
    assert not heavy_modules(code)


def test_every_room_is_there():
    for package in sorted((ROOT / "modalities").iterdir()):
        if package.is_dir() and package.name not in ("common", "__pycache__"):
            for room in ("__init__", "models", "objectives", "data", "preprocess", "interop", "recipes", "finetune", "pictures", "golden"):
                assert (package / room).is_dir() or (package / f"{room}.py").exists(), f"{package.name} lacks {room}"


def test_no_pickle_and_no_code_from_data():
    """One file may open a pickle, in one place, and only with weights_only."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = [ast.unparse(call.func) for call in calls]
        loads = [call for call in calls if ast.unparse(call.func) == "torch.load"]
        if path.relative_to(ROOT) == Path("zoo/converting.py"):
            assert [{k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") for call in loads] == ["True"]
        else:
            assert not loads, path
        assert not {"pickle", "dill", "joblib", "cloudpickle"} & set(imported(path)), path
        assert not set(names) & {"pickle.load", "pickle.loads", "eval", "exec", "yaml.load", "os.system"}, path
        assert not {"trust_remote_code", "allow_pickle"} & {k.arg for call in calls for k in call.keywords}, path
