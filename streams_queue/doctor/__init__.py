"""The doctor: looks at a server and a queue on it, changes nothing, and says what is wrong and how to mend it.

Looking (`looking`, `permissions`) is kept apart from judging (`findings`), which is pure: what was seen goes in,
findings come out. See docs/decisions/0085-doctor.md.
"""

from __future__ import annotations

from streams_queue.doctor.findings import Finding, Level, findings_about
from streams_queue.doctor.looking import look
from streams_queue.doctor.seen import Seen, Unusable

__all__ = ["Finding", "Level", "Seen", "Unusable", "findings_about", "look"]
