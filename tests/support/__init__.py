"""What the tests share: servers, a flaky proxy, programs, waiting, builders."""

from __future__ import annotations
