"""The primary that sentinels name: asked for anew with every connection, and asked itself whether it is one.

Sentinels are asked one after the other, but a slow one is not waited for: a tenth of a second later the next one is
asked beside it, and the first that leads to a primary wins. So neither a hung sentinel, nor one that has not heard of a
failover yet, nor a hung primary that one of them still names costs more than that. redis-py's own Sentinel does not
serve here; docs/decisions/0050-sentinels.md says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from redis import exceptions as redis_errors

from streams_queue.errors import BackendError, BackendRejected, BackendUnavailable
from streams_queue.redis_client.endpoint import Endpoint, Server
from streams_queue.redis_client.refusals import is_refusal, said_by
from streams_queue.redis_client.wire import Argument, drop, packed

# How long one sentinel may take before the next is asked beside it.
_HEAD_START = 0.1


class _FromPrimaryError(Exception):
    """A primary was found, and refuses us: no other sentinel can help."""

    def __init__(self, refusal: BackendRejected) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class SentinelService(Endpoint):
    """The primary of one service.

    Args:
        sentinels: All of them, in the order in which they are asked at first; later the one that answered last is.
        service: The name by which they know the primary.
        primary: How to connect to it; host and port are replaced by what the sentinels say.
    """

    def __init__(self, sentinels: Iterable[Server], service: str, primary: Server) -> None:
        super().__init__()
        self._sentinels = tuple(sentinels)
        self._service = service
        self._primary = primary
        self._found: Server | None = None

    @property
    def name(self) -> str:
        """Service and sentinels."""
        return f"{self._service} ({_names(self._sentinels)})"

    @property
    def address(self) -> str:
        """Host and port of the primary that was connected to last."""
        return self.name if self._found is None else f"{self._found.name} ({self._service})"

    async def connect(self) -> tuple[Any, int]:
        """Ask for the primary and connect to it.

        Redis: SENTINEL GET-MASTER-ADDR-BY-NAME to the sentinel that answered last, ROLE to the primary.

        Raises:
            BackendUnavailable: No sentinel leads to a primary at present.
            BackendRejected: All sentinels answered and none knows the service or talks to us; or the primary refuses.
        """
        epoch = self.epoch
        sentinel, server, connection = await self._first_found()
        self._sentinels = (sentinel, *(other for other in self._sentinels if other is not sentinel))
        if self._found is not None and self._found.name != server.name:
            # Links that still hang on the old one leave it with their next call.
            self.doubt(epoch)
            epoch = self.epoch
        self._found = server
        return connection, epoch

    async def _first_found(self) -> tuple[Server, Server, Any]:
        """Return the first connection to a primary, with the sentinel that led there and where it is."""
        to_ask = list(self._sentinels)
        asking: set[asyncio.Task[tuple[Server, Server, Any]]] = set()
        failures: list[BackendError] = []
        try:
            while to_ask or asking:
                if to_ask:
                    asking.add(asyncio.create_task(self._ask(to_ask.pop(0)), name="streams_queue.sentinel"))
                done, asking = await asyncio.wait(
                    asking, timeout=_HEAD_START if to_ask else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if (error := task.exception()) is None:
                        asking |= done - {task}
                        return task.result()
                    failures.append(_failure(error))
            raise self._verdict(failures)
        finally:
            await _end(asking)

    def _verdict(self, failures: Sequence[BackendError]) -> BackendError:
        """Return what all answers together mean; for good only if no sentinel is left that might know better."""
        reasons = "; ".join(dict.fromkeys(map(str, failures)))
        message = f"no primary of {self.name}: {reasons}"
        refusals = [failure for failure in failures if isinstance(failure, BackendRejected) and not failure.passing]
        if len(refusals) == len(failures):
            return BackendRejected(message, code=refusals[0].code)
        return BackendUnavailable(message)

    async def _ask(self, sentinel: Server) -> tuple[Server, Server, Any]:
        """Follow one sentinel's answer to a primary."""
        reply = await self._ask_for_address(sentinel)
        if reply is None:
            raise BackendRejected(f"{sentinel.name} knows no such service", code="NOSERVICE")
        host, port = reply
        server = self._primary.at(host.decode(), int(port))
        try:
            connection, _ = await server.connect()
        except BackendRejected as refusal:
            if refusal.passing:
                raise
            raise _FromPrimaryError(refusal) from refusal
        try:
            await _check_role(server, connection)
        except BaseException:
            await drop(connection)
            raise
        return sentinel, server, connection

    async def _ask_for_address(self, sentinel: Server) -> Any:
        connection, _ = await sentinel.connect()
        try:
            return await _request(sentinel, connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        finally:
            await drop(connection)


async def _check_role(server: Server, connection: Any) -> None:
    """Refuse a node that is not a primary: a sentinel may not have heard of the failover, or the node not yet."""
    try:
        role = (await _request(server, connection, "ROLE"))[0]
    except BackendRejected as refusal:
        if refusal.passing:
            raise
        raise _FromPrimaryError(refusal) from refusal
    if role != b"master":
        raise BackendUnavailable(f"{server.name} is not a primary at present")


async def _request(server: Server, connection: Any, *words: Argument) -> Any:
    """Send one command and return its reply. Raises BackendUnavailable, BackendRejected."""
    try:
        await connection.send_packed_command(packed([words]), check_health=False)
        return await connection.read_response()
    except (OSError, redis_errors.RedisError) as error:
        if is_refusal(error):
            raise said_by(server.name, error) from error
        raise BackendUnavailable(f"{server.name} does not answer ({type(error).__name__})") from error


def _failure(error: BaseException) -> BackendError:
    if isinstance(error, BackendError):
        return error
    raise error.refusal if isinstance(error, _FromPrimaryError) else error


async def _end(asking: set[asyncio.Task[tuple[Server, Server, Any]]]) -> None:
    """End attempts that are not needed any more, and close what they may have connected to."""
    for task in asking:
        task.cancel()
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        if isinstance(outcome, tuple):
            await drop(outcome[2])


def _names(sentinels: Iterable[Server]) -> str:
    return "sentinels " + ", ".join(sentinel.name for sentinel in sentinels)
