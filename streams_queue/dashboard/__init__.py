"""The web page: what a queue does, live, and the operator's verbs. See docs/how-to/watch-in-a-browser.md."""

from __future__ import annotations
