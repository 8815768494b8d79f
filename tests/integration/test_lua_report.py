"""lua/report: of all consumers of a queue one holds the office of reporting its figures."""

from __future__ import annotations

import pytest

from tests.support.scripts_alone import ME, OTHER, ScriptsAlone

pytestmark = pytest.mark.integration


def test_the_first_one_holds_the_office_and_keeps_it(alone: ScriptsAlone) -> None:
    """Each time that it asks, its time begins anew."""
    assert alone.run("report", ME, 1_000) == 1
    assert 0 < alone.raw.pttl(alone.keys.reporter) <= 1_000

    assert alone.run("report", ME, 60_000) == 1
    assert 1_000 < alone.raw.pttl(alone.keys.reporter) <= 60_000
    assert alone.raw.get(alone.keys.reporter) == ME.encode()


def test_the_others_do_not_get_it_meanwhile(alone: ScriptsAlone) -> None:
    """Nor does their asking, or their giving up, change anything."""
    alone.run("report", ME, 60_000)

    assert alone.run("report", OTHER, 120_000) == 0
    assert alone.run("report", OTHER, 0) == 0
    assert alone.raw.get(alone.keys.reporter) == ME.encode()
    assert alone.raw.pttl(alone.keys.reporter) <= 60_000


def test_what_is_given_up_is_free(alone: ScriptsAlone) -> None:
    """The next one that asks takes it."""
    alone.run("report", ME, 60_000)

    assert alone.run("report", ME, 0) == 0
    assert not alone.raw.exists(alone.keys.reporter)
    assert alone.run("report", ME, 0) == 0
    assert alone.run("report", OTHER, 60_000) == 1
