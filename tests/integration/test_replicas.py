"""The replicas that tests start: what the helpers promise holds on every server."""

from __future__ import annotations

from tests.conftest import StartServer


def test_a_replica_has_what_its_primary_has_and_can_take_its_place(start_server: StartServer) -> None:
    """A started replica is online and follows; promoted, it is a primary, and still one after a restart."""
    primary = start_server()
    primary.command("SET", "before", "1")
    replica = start_server(replicaof=primary)
    assert replica.command("GET", "before") == b"1"
    assert primary.replica_ports() == [replica.port]

    replica.promote()
    assert replica.command("ROLE")[0] == b"master"
    replica.restart()

    assert replica.command("ROLE")[0] == b"master"
