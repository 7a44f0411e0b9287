"""`zoo hub serve`: a local Hub to try publishing on, without an account."""

import shlex
import threading
from pathlib import Path

from zoo.testing import LocalHub


def serve(folder: Path = Path("runs") / "hub", port: int = 8642) -> None:
    """Run a Hub on the loopback address of this machine until Ctrl-C.

    Args:
        folder: Where what is published is kept; also over restarts.
        port: Port to listen on. 0: a free one.
    """
    with LocalHub(folder, port=port) as hub:
        print(f"A local Hub runs at {hub.endpoint}; its repositories are in {folder}.")
        found = hub.store.repos()
        print(f"It holds: {', '.join(found) if found else 'nothing yet'}.")
        print("\nIn another terminal:\n")
        for name, value in hub.environment(folder.resolve() / "home").items():
            print(f"  export {name}={shlex.quote(value)}")
        print(f"\n  zoo publish RUN --repo {hub.user}/my-model\n  zoo predict {hub.user}/my-model picture.jpg\n\nCtrl-C stops it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"\nStopped. What was published stays in {folder}.")
