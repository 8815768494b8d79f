"""The command `streams-queue` as pages of the documentation use it, in a test.

A command that serves until it is told to stop is told so as soon as it has begun, a worker when its handler has had an
event. It listens at free ports. All else is the command itself.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("streams-queue"))
FREE_PORT = {"dashboard": ["--port", "0"], "exporter": ["--port", "0"], "worker": []}
BEGUN = {"worker": re.compile(r"^working on")}
LISTENS = re.compile(r"(is|are) at http")


def main() -> int:
    """Run the command; its exit code."""
    arguments = sys.argv[1:]
    serving = next((word for word in arguments if word in FREE_PORT), None)
    if serving is None:
        return subprocess.run([COMMAND, *arguments], check=False).returncode
    if serving == "worker":
        at = arguments.index("--config") if "--config" in arguments else len(arguments)
        enqueue = [COMMAND, "enqueue", *arguments[at : at + 2]]
        subprocess.run(enqueue, input='{"event_type": "push", "repo": "octocat/Hello-World"}', text=True, check=True)
    metrics = ["--metrics-port", "0"] if "--metrics-port" in arguments else []
    return serve([COMMAND, *arguments, *FREE_PORT[serving], *metrics], BEGUN.get(serving, LISTENS))


def serve(command: list[str], begun: re.Pattern[str]) -> int:
    """Run a command until it says that it has begun, and then tell it to stop."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        late = threading.Timer(30, process.kill)
        late.start()
        assert process.stdout
        stopped = False
        for line in process.stdout:
            print(line, end="", flush=True)
            if begun.search(line) and not stopped:
                process.send_signal(signal.SIGTERM)
                stopped = True
        late.cancel()
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
