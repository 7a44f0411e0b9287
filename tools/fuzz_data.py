"""Does reading data survive damage and malice? `python -m tools.fuzz_data --cases 5000 --seed 0`.

Makes damaged and hostile data (tars, pictures, members of every ending, archives, tables, names of files), reads them as
training does, and holds that to its promises: no crash, no hang, no error but ours, each naming the file or shard; nothing is
executed or unpickled, nothing is written elsewhere; memory stays below a limit; and with `skip` the good samples arrive.
A case follows from seed and number alone: `--first N --cases 1` runs it again. Exit status 0 only when all of that holds.
"""

import collections
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from trainer.progress import progress

PROGRAM = (sys.executable, "-m", "tools.fuzz_data")
CHILD = "child"
"""First argument of the processes that run the cases."""
STARTING = 120
"""Seconds that such a process may take to start."""
GIB = 2**30
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.symlink", "os.link", "pickle.find_class", "socket.connect", "socket.getaddrinfo")
"""Python's audit events that no case may raise."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Options:
    """How much to try."""

    cases: int = 5000
    """How many."""
    seed: int = 0
    """Decides them all."""
    first: int = 0
    """Number of the first, to run one again."""
    limit: float = 10.0
    """Seconds that one may take."""
    memory: float = 3.0
    """GiB that a process may have more than it had before its first case."""


def main(options: Options) -> int:
    """Run the cases and print what came of them; the exit status."""
    began, last = time.monotonic(), options.first + options.cases
    outcomes: collections.Counter[str] = collections.Counter()
    failures: list[str] = []
    slowest = (0.0, "")
    peak = 0.0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # what is written is synced, which takes long on a disk
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as place, progress("fuzzing", options.cases) as advance:
        number = options.first
        while number < last:
            for line in _run(options, number, last, Path(place)):
                name = f"case {line['case']} ({line['outcome']})"
                if line["failure"]:
                    failures.append(f"{name}: {line['failure']}")
                outcomes[line["outcome"]] += 1
                slowest, peak = max(slowest, (line["seconds"], name)), max(peak, line["memory"])
                number = line["case"] + 1
                advance(1)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6}  {outcome}")
    print(
        f"{options.cases:,} cases from seed {options.seed} in {time.monotonic() - began:.0f} s; slowest {slowest[0]:.2f} s, {slowest[1]}; "
        f"at most {peak:.2f} GiB of memory; {len(failures)} failed"
    )
    print("\n".join(failures[:20]))
    return 1 if failures else 0


def _run(options: Options, first: int, last: int, place: Path) -> Iterator[dict]:
    """What a child says of its cases; when it dies or hangs, that is told of the case that it was at, and the child ends."""
    command = [*PROGRAM, CHILD, str(options.seed), str(first), str(last), str(options.memory), str(place)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MODALITY_ZOO_CACHE": str(place / "work" / "cache")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child, selectors.DefaultSelector() as ready:
        for stream in (child.stdout, child.stderr):
            os.set_blocking(stream.fileno(), False)
            ready.register(stream, selectors.EVENT_READ)
        buffer, said, number, since, started = b"", b"", first, time.monotonic(), False
        while number < last:
            allowed = options.limit if started else STARTING
            for key, _ in ready.select(timeout=1):
                piece = key.fileobj.read() or b""
                if key.fileobj is child.stderr:
                    said = (said + piece)[-2000:]
                else:
                    buffer += piece
                if not piece:
                    ready.unregister(key.fileobj)
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                since, started = time.monotonic(), True
                if line:
                    yield json.loads(line)
                    number += 1
            ended = not ready.get_map()
            if number < last and (ended or time.monotonic() - since > allowed):
                child.kill()
                if not started:
                    raise SystemExit(f"The cases cannot be begun: {said.decode('utf-8', 'replace')}")
                why = f"the process died ({child.wait()}): {said.decode('utf-8', 'replace')[-500:]}" if ended else f"no answer within {allowed:g} s"
                yield {"case": number, "outcome": "died" if ended else "hung", "failure": why, "seconds": time.monotonic() - since, "memory": 0.0}
                return


def child(seed: int, first: int, last: int, memory: float, place: Path) -> None:
    """Run cases one after another, each in a folder of its own, and print a line for each."""
    from tools.fuzz_cases import CASES, Broken
    from trainer.errors import ZooError

    work, outside = place / "work", place / "outside"
    hostile = str(outside / "executed")
    work.mkdir(exist_ok=True)
    outside.mkdir(exist_ok=True)
    kinds, weights = list(CASES), [often for often, _ in CASES.values()]
    _warm_up(work)
    violations: list[str] = []
    size = _memory()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(memory * GIB),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watching = True

    def audit(event: str, arguments: tuple) -> None:
        if not watching:
            return
        if event in FORBIDDEN:
            violations.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith(f"{work}{os.sep}") and path != os.devnull:
                violations.append(f"{path} was opened for writing")

    sys.addaudithook(audit)
    print(flush=True)  # ready
    for number in range(first, last):
        rng = random.Random(f"{seed} {number}")
        kind, folder = rng.choices(kinds, weights)[0], work / str(number)
        folder.mkdir()
        began, outcome, failure = time.monotonic(), kind, None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome = f"{kind}: {CASES[kind][1](rng, folder, hostile)}"
        except Broken as error:
            failure = str(error)
        except ZooError as error:
            failure = f"an error where none was expected: {error}"
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"
        if violations or list(outside.iterdir()):
            failure = f"{violations or [p.name for p in outside.iterdir()]} {failure or ''}"
        watching = False
        violations.clear()
        shutil.rmtree(folder, ignore_errors=True)
        watching = True
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        line = {"case": number, "outcome": outcome, "failure": failure, "seconds": time.monotonic() - began, "memory": peak}
        print(json.dumps(line), flush=True)


def _warm_up(work: Path) -> None:
    """Import what the cases need before anything is watched."""
    from PIL import Image

    from trainer.decoders import DECODERS, decode
    from trainer.errors import ZooError

    Image.init()
    for ending in DECODERS:
        try:
            decode(ending, b"x" * 1000, "warming up")
        except ZooError:
            pass


def _memory() -> int:
    """Bytes of address space of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        child(*map(int, sys.argv[2:5]), float(sys.argv[5]), Path(sys.argv[6]))
    else:
        sys.exit(main(tyro.cli(Options, prog="python -m tools.fuzz_data", description=__doc__, use_underscores=True)))
