"""The command `streams-queue`; with --json, what it prints is its journal."""

from __future__ import annotations

import sys

from streams_queue.cli import main
from tests.support.journal import arguments

sys.argv = ["streams-queue", *arguments()["words"]]
main()
