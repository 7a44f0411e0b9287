"""`zoo ...` in two processes at once, told what torchrun tells its own.

They are forked from a server that has imported everything once for all tests: importing costs more than what they do. torchrun itself is tried in tests/trainer.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
from pathlib import Path

IMPORTED = ["zoo.cli", "zoo.carding", "modalities.common.run", "modalities.vision.recipes.poa", "modalities.graph.recipes.graphmae", "tests.two"]
LONGEST = 100
"""Seconds that they may take."""


def in_two(folder: Path, *arguments: object) -> None:
    """Both must succeed; what they say is written into `folder` and is in the error."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    files = [folder / f"said-{rank}.txt" for rank in range(2)]
    started = [context.Process(target=_one, args=(rank, port, [str(word) for word in arguments], file)) for rank, file in enumerate(files)]
    try:
        for process in started:
            process.start()
        for process in started:
            process.join(LONGEST)
    finally:
        for process in started:
            process.kill()
    assert [process.exitcode for process in started] == [0, 0], [file.read_text() for file in files if file.exists()]


def _one(rank: int, port: int, arguments: list[str], file: Path) -> None:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in told.items()})
    import torch

    torch.set_num_threads(1)
    from zoo.cli import main

    with open(file, "w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments)
    sys.exit(code)
