"""Configurations that are spoilt at random from a seed: as mappings, as YAML text and as environment variables."""

from __future__ import annotations

import copy
import datetime
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SECRET = "hunter2-SECRET"

EXAMPLE = Path(__file__).parents[2] / "config" / "webhook_config.yaml"
FULL: dict[str, Any] = {
    "type": "redis",
    "redis_url": f"redis://user:{SECRET}@localhost:6379/0",
    "max_size": 100,
    "timeout": 30,
    "retry_policy": {"max_retries": 3, "base_delay": 1, "max_delay": 60, "jitter": 0.1},
    "enqueue_timeout": 5,
    "namespace": "gitbridge",
    "name": "events",
    "group": "processors",
    "overflow": "reject",
    "lease": 15,
    "max_lease": 3600,
    "handler_timeout": None,
    "prefetch": "auto",
    "max_event_bytes": 1000,
    "compression": {"type": "zstd", "min_bytes": 2048, "level": 1},
    "dedup_window": 86400,
    "dead_letter": {"max_size": 10, "when_full": "refuse"},
    "fallback": {"max_size": 10, "spool": None},
    "rollout": {
        "percentage": 50,
        "key": ["repository.full_name", "repo"],
        "old": {"type": "asyncio", "retry_policy": {"max_retries": 1}},
        "new": {"redis_url": f"redis://:{SECRET}@localhost:6380/0", "name": "new", "dead_letter": {"max_size": 1}},
    },
    "telemetry": {
        "enabled": False,
        "endpoint": "http://localhost:4318",
        "protocol": "http",
        "interval": 60,
        "timeout": 10,
        "sampling_ratio": 0.01,
        "service_name": "gitbridge",
    },
}
METRICS = [
    {"name": "redis_queue_depth", "type": "gauge", "threshold": 1000},
    {"name": "redis_operation_latency", "type": "histogram", "buckets": [1, 2, 5]},
    {"name": "redis_error_rate", "type": "counter", "alert_threshold": "1%"},
]
# `known` is a secret that a variable holds; the others are not set, or are no variables at all.
VARIABLES = (
    "${known}",
    "${unset}",
    "${unset:-7}",
    "${",
    "${}",
    "${known:-x}${known}",
    "x${empty}",
    "${é}",
    "$${known}",
)
URLS = (
    "redis://user:{s}@localhost:6379/0", "redis://:{s}@h:port/0", "redis://:{s}#@h:6379/0", "redis://:{s}/@h/x",
    "redis://:{s}?@h:1", "redis://:[{s}@h:1", "redis://h:{s}/0", "redis://h/0?password={s}", "redis://h/0?odd=1",
    "redis://h/0?ssl_cert_reqs=odd", "redis://h/0?socket_timeout=odd", "redis://h/0?db=odd", "redis://h/0?protocol=odd",
    "redis://h/0?max_connections=odd", "redis://h/0?retry_on_error=odd", "redis://h/0?parser_class=odd",
    "redis://h/0?host=odd&path=/odd", "rediss://:{s}@h?ssl_ca_certs=/no/odd", "rediss://:{s}@h?ssl_ciphers=odd",
    "rediss://:{s}@h?ssl_min_version=odd", "rediss://:{s}@h?ssl_check_hostname=odd", "unix:///odd?db=odd",
    "unix://:{s}@/tmp/x", "redis+sentinel://:{s}@one:26379,two/master/0", "redis+sentinel://:{s}@one/m/x",
    "redis+sentinel://:{s}@/m", "redis+sentinel://u:{s}@[::1]:1,odd/m/0?sentinel_password={s}", "redis://[{s}]:1/0",
    "redis+sentinel://one:{s}/m/0", "rediss+sentinel://:{s}@one:1/m?sentinel_ssl=odd", "redis+cluster://:{s}@h", "{s}",
    "http://:{s}@h", "redis://:{s}@h:99999999/0", "redis://:{s}@h:6379/" + "9" * 5000, "redis://:{s}@\u2100h", ":{s}@",
    "redis://:{s} @h", "redis://:{s}\n@h", "redis://:{s}\ud800@h:6379", "redis://:{s}%zz%00@h", "redis://:{s}@h:-1",
)  # fmt: skip
_CYCLE: dict[str, Any] = {"max_size": 1}
_CYCLE["retry_policy"] = _CYCLE["queue"] = _CYCLE
_RING: list[Any] = [1]
_RING.append(_RING)


class Configs:
    """Makes configurations.

    Args:
        seed: The same seed makes the same ones.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    # --- whole configurations ---

    def mapping(self) -> dict[Any, Any]:
        """Return a mapping, mostly right."""
        document: dict[Any, Any] = {"queue": copy.deepcopy(FULL), "metrics": copy.deepcopy(METRICS)}
        if self.random.random() < 0.3:
            document["environments"] = {"production": {"queue": self._some_of(FULL)}, "staging": {}, "odd": None}
        for _ in range(self.random.randrange(5)):
            places = list(_places(document))
            if not places:  # all of it has been removed
                break
            target, key = self.random.choice(places)
            self.random.choice((self._replace, self._replace, self._replace, self._remove, self._add))(target, key)
        return document

    def text(self) -> bytes:
        """Return a YAML file, or what was one before it was spoilt."""
        if self.random.random() < 0.2:
            return self._bomb()
        text = EXAMPLE.read_text() if self.random.random() < 0.2 else self._dumped()
        for _ in range(self.random.randrange(4)):
            text = self.random.choice((self._cut, self._insert, self._insert, self._shift, self._repeat))(text)
        data = text.encode("utf-8", "surrogatepass")
        return data if self.random.random() < 0.9 else self._insert_bytes(data)

    def environ(self) -> dict[str, str]:
        """Return environment variables; `known` is there, and some of ours with odd values."""
        environ = {"known": SECRET, "empty": "", "STREAMS_QUEUE_REDIS_URL": self.url()}
        names = ("MAX_SIZE", "TIMEOUT", "LEASE", "RETRY_POLICY__BASE_DELAY", "RETRY_POLICY", "MAXSIZE", "NAME", "")
        for name in self.random.sample(names, self.random.randrange(len(names))):
            environ[f"STREAMS_QUEUE_{name}"] = self.random.choice(
                ("1", "0", "-1", "", "nan", "9" * 5000, SECRET, "${known}")
            )
        return environ

    def environment(self) -> str | None:
        """Return the name of an environment, which may not exist."""
        return self.random.choice((*(None,) * 12, "production", "staging", "odd", "none", "", "\ud800"))

    def url(self) -> str:
        """Return the URL of a server, with a secret in it."""
        return self.random.choice(URLS).replace("{s}", SECRET)

    def value(self) -> Any:
        """Return what may stand in any place, right or wrong."""
        return self.random.choice(
            (
                *(None, True, 0, 1, -1, 7, 2**53, 2**64, 10**400, 1 << 20_000, 0.5, -0.0, 1e308, math.nan, math.inf),
                *("", " ", "7", "auto", "redis", "asyncio", "resilient", "block", "drop", SECRET, f"\x00{SECRET}"),
                *("\ud800", "é", "\u202e", "x" * 100_000, "${a:-" * 20_000, "a\nb", "nan", "1%", "9" * 5000 + "%"),
                *(b"bytes", (), (1, 2), {1}, frozenset(), [], [1, 2], [[]], {}, {"a": 1}, {None: SECRET}, object()),
                *(
                    datetime.date(2000, 1, 1),
                    datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC),
                    1j,
                    _CYCLE,
                    _RING,
                    type,
                    lambda: None,
                ),
                *(self.url(), self.url(), self.url(), *VARIABLES, [f"{SECRET}"], {"max_size": 1}, _Odd()),
            )
        )

    def key(self) -> Any:
        """Return a key that no configuration should have."""
        return self.random.choice(
            (
                *("max_sise", "MAX_SIZE", "", " ", "a.b", "x" * 100_000, "\ud800", "\x1b[2J", "new\nline", "é"),
                *(None, True, 7, 1.5, math.nan, 1 << 20_000, -(1 << 20_000), (1, 2), b"bytes", frozenset(), self.url()),
                *(datetime.date(2000, 1, 1), _Odd()),
            )
        )

    # --- spoiling a mapping ---

    def _some_of(self, section: dict[str, Any]) -> dict[str, Any]:
        return {key: copy.deepcopy(section[key]) for key in self.random.sample(list(section), 3)}

    def _replace(self, target: Any, key: Any) -> None:
        target[key] = self.url() if key == "redis_url" and self.random.random() < 0.7 else self.value()

    def _remove(self, target: Any, key: Any) -> None:
        del target[key]

    def _add(self, target: Any, key: Any) -> None:
        if isinstance(target, dict):
            target[self.key()] = self.value()
        else:
            target.append(self.value())

    # --- spoiling a text ---

    def _dumped(self) -> str:
        queue = {**FULL, "redis_url": self.url()}
        try:
            return yaml.safe_dump({"queue": queue, "metrics": METRICS}, allow_unicode=True, sort_keys=False)
        except (yaml.YAMLError, UnicodeError):
            return yaml.safe_dump({"queue": FULL})

    def _cut(self, text: str) -> str:
        place = self.random.randrange(len(text) + 1)
        return text[:place] + text[place + self.random.randrange(30) :]

    def _insert(self, text: str) -> str:
        place = self.random.randrange(len(text) + 1)
        words = (
            *(
                "\t",
                "'",
                '"',
                "{",
                "}",
                "[",
                "]",
                ": ",
                "- ",
                "#",
                "%",
                "@",
                "`",
                "&a ",
                "*a ",
                "!",
                "|\n",
                "? ",
                "<<: ",
            ),
            *("!!python/object/apply:os.system [x] ", "!!int x", "!!timestamp 1", "!!binary ?", "!!float ", "!!set {}"),
            *(
                "\ud800",
                "\x00",
                "\x85",
                "\u2028",
                "---\n",
                "...\n",
                "\ufeff",
                f"!{SECRET} ",
                f"*{SECRET}",
                f"%{SECRET} ",
            ),
            *(
                "[" * 3000,
                "{a: " * 2000,
                "9" * 6000,
                "0x" + "f" * 6000,
                "1:" * 300 + "1",
                f'"\\q{SECRET}"',
                "2001-99-99",
            ),
            *(
                f"!!int {SECRET}",
                f"!!float {SECRET}",
                f"!!timestamp {SECRET}",
                f"!!bool {SECRET}",
                f"? [{SECRET}]\n: 1\n",
            ),
        )
        return text[:place] + self.random.choice(words) + text[place:]

    def _insert_bytes(self, data: bytes) -> bytes:
        place = self.random.randrange(len(data) + 1)
        return (
            data[:place] + self.random.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xff\xfe", b"\x00")) + data[place:]
        )

    def _shift(self, text: str) -> str:
        lines = text.splitlines() or [""]
        place = self.random.randrange(len(lines))
        lines[place] = " " * self.random.randrange(5) + lines[place].lstrip()
        return "\n".join(lines)

    def _repeat(self, text: str) -> str:
        lines = text.splitlines() or [""]
        return "\n".join([*lines, self.random.choice(lines)])

    def _bomb(self) -> bytes:
        """Few lines that mean billions of values, or a value that holds itself."""
        levels = range(1, 10)
        merged = "\n".join(f"k{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 10)}], x{n}: 1}}" for n in levels)
        nested = "\n".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 10)}]" for n in levels)
        return self.random.choice(
            (
                f"k0: &k0 {{a: 1, b: 2}}\n{merged}\nqueue: *k9\n",
                f"k0: &k0 {{max_size: 1, timeout: 1}}\n{merged}\nqueue: {{<<: *k9}}\n",
                f"k0: &k0 [{SECRET}]\n{nested}\nqueue: {{max_size: *k9, redis_url: {self.url()!r}}}\nmetrics: *k9\n",
                "queue: &q {max_size: *q, timeout: 1}\n",
                "queue: &q {<<: *q, max_size: 1, timeout: 1}\n",
                "&q [*q]\n",
                "&q {queue: *q}\n",
                "metrics: &m [*m]\nqueue: {max_size: 1, timeout: 1}\n",
            )
        ).encode("utf-8", "surrogatepass")


class _Odd:
    """Something that has no repr."""

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


def _places(container: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a document with each of its keys, whatever lies in them included."""
    for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
        yield container, key
        if isinstance(value, dict | list) and value is not _CYCLE and value is not _RING:
            yield from _places(value)
