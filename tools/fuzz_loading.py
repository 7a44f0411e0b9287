"""Loading damaged model folders, thousands of times: `python -m tools.fuzz_loading --cases 10000 --seed 0`.

Each case is a small model folder in some layout, damaged in one way (`tools.fuzz_mutations`), and loaded. It must load with the
tensors that were stored (but for the values that were changed), or be refused by an error of ours with a message. Anything else
fails: another exception, a crash, more than the time limit, more than a gigabyte, a file written, a process started, code imported.
Cases are decided by seed and number alone; `--only N` repeats one and shows what happened.
"""

import dataclasses
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import tyro
from safetensors.torch import save_file
from torch import Tensor

import zoo
from modalities.common.model import Model
from modalities.vision.interop import mae as interop
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from tools.fuzz_mutations import Damage, damage
from trainer.errors import ZooError
from trainer.files import write_json
from zoo.cards import check_card

GIGABYTE = 2**30
LONGEST_MESSAGE = 20_000
"""Characters; a longer one is no message."""
EVIL = "import pathlib\npathlib.Path(__file__).with_name('executed').touch()\n"
"""A module that lies in every damaged folder and must never run."""


@dataclass(frozen=True)
class Options:
    """What to try."""

    cases: int = 10_000
    """Damaged folders to load."""
    seed: int = 0
    """Decides them all."""
    seconds: float = 10.0
    """Longest time for one case."""
    batch: int = 250
    """Cases that one process takes."""
    only: int | None = None
    """Repeat this case alone, and show it."""


@dataclass
class Result:
    """What came of a case."""

    number: int
    kind: str
    outcome: str
    """loaded, refused or failed."""
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Subject:
    """A sound model folder."""

    name: str
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    """Load this file instead of the folder."""


def subjects(root: Path) -> list[Subject]:
    """One small model in every layout that is read, below `root`."""
    torch.manual_seed(0)
    small = dict(input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)
    mae = MAE(MAEConfig(**small, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2))
    vit = ViTClassifier(ViTClassifierConfig(**small, num_classes=3, class_names=("a", "b", "c")))
    for model in (mae, vit):
        model.preprocess = model.default_preprocess()
    mae.save_pretrained(root / "ours")
    mae.save_pretrained(root / "shards", max_shard_size="20KB")
    vit.save_pretrained(root / "classifier")
    mae.half().save_pretrained(root / "half")
    mae.float()
    state, config = interop.to_transformers(mae)
    _foreign(root / "transformers", state, config, "---\nlicense: apache-2.0\n---\n\n# A model\n")
    write_json(root / "transformers" / "preprocessor_config.json", {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 16})
    _foreign(root / "official", interop.to_official(mae), {"num_heads": 3, "decoder_num_heads": 2})
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    timm = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "global_pool": "avg", "model_args": arguments, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    _foreign(root / "timm", interop.to_timm(vit), timm, "---\nlicense: mit\nlibrary_name: timm\n---\n")
    (root / "alone").mkdir()
    shutil.copyfile(root / "ours" / "model.safetensors", root / "alone" / "model.safetensors")
    made = [Subject(path.name, path) for path in sorted(root.iterdir())]
    head = {"task": "classification", "num_outputs": 4}
    return made + [
        Subject("ours, new head", root / "ours", head),
        Subject("timm, new head", root / "timm", head),
        Subject("ours, other size", root / "ours", {"input_size": 24, "in_chans": 1}),
        Subject("shards, bfloat16", root / "shards", {"dtype": "bfloat16"}),
        Subject("a file alone", root / "alone", file="model.safetensors"),
        Subject("a file with its config", root / "classifier", file="model.safetensors"),
    ]


def _foreign(folder: Path, state: dict[str, Tensor], config: dict[str, Any], card: str = "") -> None:
    folder.mkdir()
    save_file({name: tensor.detach().clone() for name, tensor in state.items()}, folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", config)
    if card:
        (folder / "README.md").write_text(card, encoding="utf-8")


class Guard:
    """Notes, by the interpreter's own audit hook, whatever loading must not do: write, start, connect."""

    def __init__(self) -> None:
        self.armed = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if not self.armed:
            return
        if event == "open":
            path, mode, flags = (*arguments, None, None)[:3]
            writes = isinstance(mode, str) and set(mode) & set("wax+") or isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and path != os.devnull:
                self.seen.append(f"opened {path!r} to write")
        elif event.split(".")[0] in ("subprocess", "socket", "pty", "ctypes") or event in FORBIDDEN:
            self.seen.append(f"{event} {arguments[:1]!r}")


FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree", "pickle.find_class")


def run_case(number: int, options: Options, made: list[Subject], wanted: dict[str, dict[str, Tensor]], place: Path, guard: Guard) -> Result:
    """Damage, load, judge."""
    rng = random.Random(f"{options.seed}-{number}")
    subject = rng.choice(made)
    folder = place / f"case-{number}"
    shutil.copytree(subject.folder, folder, symlinks=True)
    (folder / "evil.py").write_text(EVIL)
    before = os.getcwd()
    os.chdir(folder)  # where a careless import would find evil.py
    try:
        kind, done = damage(rng, folder)
        result = Result(number, kind, "loaded", f"{subject.name}: {done.what}")
        here = _listing(folder)
        start = time.perf_counter()
        guard.seen.clear()
        guard.armed = True
        try:
            model = zoo.from_pretrained(folder / subject.file if subject.file else folder, **subject.options)
            _use(model)
        except ZooError as error:
            result.outcome = "refused"
            wrong = _wrong_message(error)
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is the finding)
            wrong = f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]}"
        else:
            wrong = _wrong_values(model, wanted[subject.name], done)
        finally:
            guard.armed = False
        result.seconds = time.perf_counter() - start
        wrong = wrong or _wrong_card(folder / "README.md") or "; ".join(guard.seen[:3])
        if not wrong and (_listing(folder) != here or len(list(place.iterdir())) != 1):
            wrong = "files were written"
        if wrong:
            result.outcome, result.detail = "failed", f"{result.detail}: {wrong}"
        return result
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def _listing(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def _use(model: Model) -> None:
    """What a user does with a loaded model."""
    str(model.load_report), model.load_report.table()
    if model.preprocess is not None and model.pos_embed.dtype in (torch.float32, torch.float64):
        image = torch.linspace(0, 1, 3 * 20 * 20).view(3, 20, 20)
        with torch.inference_mode():
            model.embed({k: v.to(model.pos_embed.dtype) for k, v in model.preprocess(image).items()})


def _wrong_message(error: ZooError) -> str:
    """What is not right with an error of ours; empty when it is as it should be."""
    text, cause = str(error), error
    if not text.strip() or len(text) > LONGEST_MESSAGE:
        return f"a message of {len(text)} characters"
    while cause is not None:
        if isinstance(cause, MemoryError) or re.search("alloc|memory", str(cause).partition("\n")[0]):
            return f"it tried to take too much memory: {str(cause)[:200]}"
        cause = cause.__cause__
    return ""


def _wrong_values(model: Model, wanted: dict[str, Tensor], done: Damage) -> str:
    """Which values of a loaded model are not those that were stored; empty when only touched ones differ."""
    stored = {row.name: set(row.stored) for row in model.load_report.rows if row.name and row.stored}
    state = model.state_dict()
    if stored.keys() - wanted.keys():
        return f"it holds tensors that were never stored: {sorted(stored.keys() - wanted.keys())[:3]}"
    differ = [name for name in stored if not state[name].equal(wanted[name])]
    strange = [name for name in differ if not stored[name] & done.touched]
    return f"other values in {strange[:5]}" if strange and not done.anything else ""


def _wrong_card(path: Path) -> str:
    """Whether the check of cards raises anything but our error on what is now the card."""
    if not path.is_file():
        return ""
    try:
        check_card(path.read_text(encoding="utf-8", errors="replace"), "x")
    except ZooError as error:
        return _wrong_message(error)
    except Exception as error:  # noqa: BLE001
        return f"check_card: {type(error).__name__}: {str(error)[:200]}"
    return ""


def work(numbers: list[int], options: Options, made: list[Subject], wanted: dict[str, dict[str, Tensor]], place: Path, pipe: Connection) -> None:
    """One process: cases one after the other below `place`, with a limit on its memory; says when each begins and how it ended."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + GIGABYTE, resource.RLIM_INFINITY))
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    guard = Guard()
    for number in numbers:
        pipe.send(number)
        pipe.send(run_case(number, options, made, wanted, place, guard))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def supervise(
    options: Options, made: list[Subject], wanted: dict[str, dict[str, Tensor]], root: Path, show: Callable[[int], None]
) -> tuple[list[Result], int]:
    """All cases in child processes; a crash or a hang costs one case and begins a new process. (results, largest memory in KiB)."""
    context = multiprocessing.get_context("fork")
    left = list(range(options.cases)) if options.only is None else [options.only]
    results: list[Result] = []
    most = 0
    while left:
        ours, theirs = context.Pipe(duplex=False)
        place = Path(tempfile.mkdtemp(dir=root))
        process = context.Process(target=work, args=(left[: options.batch], options, made, wanted, place, theirs))
        process.start()
        theirs.close()
        current, said = left[0], None
        try:
            while not isinstance(said, int) or said == current:
                if not ours.poll(options.seconds):
                    results.append(Result(current, "?", "failed", f"no end after {options.seconds} s", options.seconds))
                    break
                said = ours.recv()
                if isinstance(said, Result):
                    results.append(said)
                    show(len(results))
                    if said.number == left[: options.batch][-1]:
                        most = max(most, ours.recv())
                        break
                else:
                    current = said
                    said = None
        except EOFError:
            process.join()
            results.append(Result(current, "?", "failed", f"the process died (exit code {process.exitcode})"))
        process.kill()
        process.join()
        ours.close()
        done = {result.number for result in results}
        left = [number for number in left if number not in done]
    return results, most


def main(options: Options) -> int:
    """Run the cases and print a table; 0 when none failed."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-loading-") as root:
        (Path(root) / "sound").mkdir()
        made = subjects(Path(root) / "sound")
        wanted = {s.name: _loaded(s) for s in made}
        results, most = supervise(options, made, wanted, Path(root), _progress(options.cases if options.only is None else 1))
    failed = [result for result in results if result.outcome == "failed"]
    counts = Counter((result.kind, result.outcome) for result in results)
    kinds = sorted({result.kind for result in results})
    print(f"\n{'damage':<18}{'cases':>8}{'loaded':>8}{'refused':>9}{'failed':>8}{'slowest, s':>12}")
    for kind in [*kinds, "all"]:
        rows = [r for r in results if kind in (r.kind, "all")]
        number = [sum(counts[k, outcome] for k in kinds if kind in (k, "all")) for outcome in ("loaded", "refused", "failed")]
        print(f"{kind:<18}{len(rows):>8}{number[0]:>8}{number[1]:>9}{number[2]:>8}{max((r.seconds for r in rows), default=0):>12.2f}")
    print(f"seed {options.seed}, {len(made)} model folders, {time.perf_counter() - start:.0f} s, largest process {most / 2**20:.2f} GiB with its libraries")
    for result in failed[:40]:
        print(f"FAILED case {result.number} ({result.kind}): {result.detail}")
    if options.only is not None:
        print(*(dataclasses.astuple(result) for result in results), sep="\n")
    return 1 if failed else 0


def _loaded(subject: Subject) -> dict[str, Tensor]:
    """What a subject gives when it is sound."""
    torch.manual_seed(0)
    path = subject.folder / subject.file if subject.file else subject.folder
    return zoo.from_pretrained(path, **subject.options).state_dict()


def _progress(total: int) -> Callable[[int], None]:
    def show(done: int) -> None:
        if sys.stderr.isatty() and done % 50 == 0:
            print(f"\r{done:,} of {total:,}", end="", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m tools.fuzz_loading")))
