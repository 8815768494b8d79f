"""Entries, members, dead letters and totals that nobody of ours would write, made at random from a seed.

What is made here begins as something right and is then spoilt in one or several ways: garbage alone would be refused
at the first look, and never reach what lies behind it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

import zstandard

SECRET = "hunter2-SECRET"

Pairs = list[tuple[bytes, bytes]]

_NUMBERS = (0, 1, -1, 2, 3, 4, 255, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30), 10**400, 0.5, 1e15, 3.0)
_WORDS = (
    "nan",
    "-nan",
    "inf",
    "-inf",
    "1e300",
    "-1e300",
    "0x10",
    "",
    " ",
    "one",
    "-",
    "9" * 30,
    "9" * 5000,
    "1.5",
    "\n",
)
_NUMBERISH = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"01", b"1.", b".5", b"1_000", b"0x1", b"9" * 5000)
_BYTES = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\r\n",
    b"{",
    b"}",
    b"[]",
    b"null",
    b"\xef\xbb\xbf{}",
    b"'",
    b"\x1b[2J",
)


class Raw:
    """Makes what a test writes behind the queue's back.

    Args:
        seed: The same seed makes the same things.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._number = 0

    # --- what is made ---

    def entry(self) -> Pairs:
        """Return the fields of a strange stream entry; at least one pair."""
        fields: Pairs = [(b"id", self._id()), (b"payload", self._payload()), (b"meta", self._meta())]
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 3))):
            self._one_of(self._drop, self._double, self._swap, self._add, self._spoil, self._rename, self._empty)(
                fields
            )
        return fields or [(b"", b"")]

    def good(self, number: int) -> Pairs:
        """Return the fields of an event that is as it should be; its payload names `number`."""
        payload = {"good": number, "note": SECRET}
        return [(b"id", b"good-%d" % number), (b"payload", json.dumps(payload).encode()), (b"meta", b'{"v":1}')]

    def member(self) -> bytes:
        """Return a strange member of the delayed set; no two are equal."""
        self._number += 1
        member = framed(b"fuzz-%d" % self._number, self.entry())
        spoil = self._one_of(
            lambda: member,
            lambda: member,
            lambda: member[: self.random.randrange(len(member))],
            lambda: member + self.random.choice(_BYTES),
            lambda: member.replace(b":", self.random.choice((b"::", b"", b": ", b"9:")), 1),
            lambda: self.random.randbytes(self.random.randrange(40)),
            lambda: b"%d:" % self.random.choice((10**9, 10**10, 10**30)) + member,
            lambda: b"0" * self.random.randrange(12) + member,
        )()
        return spoil + b"#%d" % self._number if spoil != member else member

    def score(self, now_ms: int) -> str:
        """Return a score: mostly due, sometimes never, sometimes not a time at all."""
        due = (str(now_ms - self.random.randrange(10_000)), "0", "-1", "-inf", "-1e300", "1e-300", str(now_ms))
        never = ("inf", "1e300", str(2**63), str(now_ms + 10**9))
        return self.random.choice(never if self.random.random() < 0.1 else due)

    def dead_letter(self) -> Pairs:
        """Return the fields of a strange dead letter."""
        own: Pairs = [
            (b"reason", self._one_of(lambda: b"max_retries", self._junk)()),
            (b"error", self._junk()),
            (b"deliveries", self._number_text()),
            (b"enqueued_ms", self._number_text()),
            (b"died_ms", self._number_text()),
        ]
        fields = self._one_of(self.entry, self.entry, list[tuple[bytes, bytes]])() + own
        for _ in range(self.random.choice((0, 0, 1, 2))):
            self._one_of(self._drop, self._double, self._swap, self._spoil, self._rename)(fields)
        return fields or [(b"", b"")]

    def total(self) -> tuple[str, bytes]:
        """Return a field of the stats hash and a value that it should not have."""
        ours = (
            *("enqueued", "acked", "retried", "released", "reclaimed", "dead", "rejected", "duplicates", "redriven"),
            *(
                "purged",
                "dead_purged",
                "dropped",
                "lost",
                "state_lost",
                "swept_ms",
                "alive_ms",
                "hold_ms",
                "pruned_ms",
                "set_back",
                "mourned",
            ),
        )
        return self.random.choice((*ours, "paused", "colour", "")), self._number_text()

    def count(self) -> int:
        """Return a delivery count for a pending entry."""
        return self.random.choice((0, 1, 1, 1, 2, 3, 7, 2**31, 2**53, 2**63 - 2))

    # --- parts ---

    def _one_of(self, *makers: Callable[..., object]) -> Callable[..., object]:
        return self.random.choice(makers)

    def _id(self) -> bytes:
        self._number += 1
        return self.random.choice((b"fuzz-%d" % self._number, b"fuzz", b"good-0", b"\xff", b"", b"x" * 5000))

    def _payload(self) -> bytes:
        chance = self.random.random()
        if chance < 0.4:
            return json.dumps({"fuzz": SECRET, "value": self._value(3)}).encode()
        if chance < 0.5:
            return json.dumps(self._value(2)).encode()
        if chance < 0.6:
            deep = self.random.choice((50, 201, 900, 1100, 20_000))
            return b'{"%s":' % SECRET.encode() + b"[" * deep + b"]" * deep + b"}"
        if chance < 0.7:
            return b'{"%s":%s}' % (SECRET.encode(), self.random.choice(_NUMBERISH))
        if chance < 0.71:
            return self._compressed()
        if chance < 0.72:
            return b'{"fuzz":"' + SECRET.encode() * self.random.choice((1000, 30_000)) + b'"}'
        text = bytearray(json.dumps({"fuzz": SECRET, "value": self._value(2)}).encode())
        for _ in range(self.random.randrange(1, 4)):
            place = self.random.randrange(len(text))
            text[place : place + self.random.randrange(3)] = self.random.choice(_BYTES)
        return bytes(text)

    def _compressed(self) -> bytes:
        """Return a zstd frame: good, of many zeros, of unknown size, cut off, or with something else in its place."""
        text = json.dumps({"fuzz": SECRET, "value": self._value(2)}).encode()
        sized = self.random.random() < 0.8
        frame = zstandard.ZstdCompressor(write_content_size=sized).compress(
            self.random.choice((text, text, bytes(20_000_000)))
        )
        spoil = self._one_of(
            *(bytes,) * 3,
            lambda frame: frame[: self.random.randrange(len(frame))],
            lambda frame: frame[:4] + self.random.randbytes(9) + frame[13:],
            lambda frame: frame + frame,
        )
        made = spoil(frame)
        assert isinstance(made, bytes)
        return made

    def _meta(self) -> bytes:
        if self.random.random() < 0.3:
            return b'{"v":1}'
        meta: dict[str, object] = {
            "v": self.random.choice((1, 1, 1, 1, 2, 0, -1, 3, 99, 10**30, "1", None, 1.0, True, []))
        }
        if self.random.random() < 0.6:
            meta["d"] = self.random.choice((*_NUMBERS, *range(4), "1", None, [], {}))
        if self.random.random() < 0.4:
            meta["h"] = self.random.choice(
                ({}, {"trace": SECRET}, {"a": 1}, [], SECRET, {"d": "3"}, {'"d":4': '"d":5'})
            )
        if self.random.random() < 0.2:
            meta["ce"] = self.random.choice(("zstd", "zstd", "zstd", None, 5, []))
        if self.random.random() < 0.2:
            meta[self.random.choice(("ct", "rf", "x", SECRET))] = self._value(2)
        items = list(meta.items())
        self.random.shuffle(items)
        text = json.dumps(dict(items)).encode()
        spoil = self._one_of(
            *(bytes,) * 6,
            lambda text: text[:-1],
            lambda text: b" " + text,
            lambda text: text.replace(b'"v"', b'"\\u0076"'),
            lambda text: text.replace(b'"d"', b'"\\u0064"'),
            lambda text: text[:-1] + b',"d":%d}' % self.random.randrange(9),
            lambda text: text[:-1] + b',"d"' + b" " * self.random.choice((1, 100_000)) + b":1}",
            lambda text: text[:-1] + b" " * self.random.choice((1, 100_000)) + b"}",
            lambda text: text + self.random.choice(_BYTES),
            lambda text: self.random.choice(_BYTES),
        )
        made = spoil(text)
        assert isinstance(made, bytes)
        return made

    def _value(self, levels: int) -> object:
        kind = self.random.randrange(8 if levels else 6)
        if kind == 6:
            return [self._value(levels - 1) for _ in range(self.random.randrange(4))]
        if kind == 7:
            return {self.random.choice(("a", "", "d", SECRET)): self._value(levels - 1) for _ in range(3)}
        return (None, True, SECRET, self.random.choice(_NUMBERS), "\ud800é\u202e\x00", "")[kind]

    def _number_text(self) -> bytes:
        return str(self.random.choice((*_NUMBERS, *_WORDS))).encode()

    def _junk(self) -> bytes:
        return self.random.choice((*_BYTES, b"reason", b"x" * 3000, self.random.randbytes(9)))

    # --- ways to spoil fields ---

    def _drop(self, fields: Pairs) -> None:
        if fields:
            del fields[self.random.randrange(len(fields))]

    def _double(self, fields: Pairs) -> None:
        if fields:
            name, _ = self.random.choice(fields)
            value = self.random.choice((self._junk(), self._meta(), self._payload()))
            fields.insert(self.random.randrange(len(fields) + 1), (name, value))

    def _swap(self, fields: Pairs) -> None:
        self.random.shuffle(fields)

    def _add(self, fields: Pairs) -> None:
        many = self.random.choice((1, 1, 1, 5, 1500))
        fields += [(b"extra-%d" % number, self._junk()) for number in range(many)]

    def _spoil(self, fields: Pairs) -> None:
        if fields:
            place = self.random.randrange(len(fields))
            fields[place] = fields[place][0], self._junk()

    def _rename(self, fields: Pairs) -> None:
        if fields:
            place = self.random.randrange(len(fields))
            fields[place] = self.random.choice((*_BYTES, b"ID", b"reason", b"died_ms")), fields[place][1]

    def _empty(self, fields: Pairs) -> None:
        fields[:] = [(name, b"") for name, _ in fields]


def flat(pairs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Return names and values in turn, as a command takes them and a reply has them."""
    return [part for pair in pairs for part in pair]


def framed(prefix: bytes, pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return what lua/shared/frame.lua makes of an entry."""
    return b"".join(b"%d:%s" % (len(part), part) for part in (prefix, *flat(pairs)))
