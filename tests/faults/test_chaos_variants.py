"""The broken variants of the package: each still fits it, and the checker of the storm finds each of them out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import variants
from tests.chaos.arena import thefts
from tests.chaos.processes import CHECKOUT
from tests.chaos.trials import CONTROL, STORM, trials

# What a reader would try first: each breaks another promise.
NAMED = ("ack_before_handling", "fallback_forgets", "reclaim_drops", "renewal_steals", "size_check_not_atomic")


@pytest.mark.parametrize("name", variants.names())
def test_a_variant_fits_the_package_and_changes_it(name: str, tmp_path: Path) -> None:
    """Whoever changes a line that a patch needs mends the patch as well."""
    patch = variants.find(name)
    broken = variants.build(name, tmp_path / "package") / "streams_queue"
    changed = [line.removeprefix("+++ b/") for line in patch.read_text("utf-8").splitlines() if line.startswith("+++ ")]
    assert changed
    for path in changed:
        assert path.startswith("streams_queue/")
        assert (broken.parent / path).read_bytes() != (CHECKOUT / path).read_bytes()


def test_there_is_a_variant_for_each_promise() -> None:
    """At least those that break the promises that matter most."""
    assert set(NAMED) <= set(variants.names())


def test_a_patch_of_ones_own_is_taken_by_its_file_name_and_says_what_storm_it_wants(tmp_path: Path) -> None:
    """It need not lie with the others; without a wish the usual storm comes, after a trial of the whole package."""
    plain = tmp_path / "mine.patch"
    plain.write_text("Breaks something.\n\ndiff --git a/x b/x\nStorm: not here\n")
    wishing = tmp_path / "wishing.patch"
    wishing.write_text("Breaks something else.\nStorm: --mix worker_kill=1 --rate 400\n\ndiff --git a/x b/x\n")
    planned = list(trials([str(plain), str(wishing)]))
    assert [trial.name for trial in planned] == [CONTROL, "mine", CONTROL, "wishing"]
    assert planned[1].storm == STORM
    assert planned[2].storm == planned[3].storm == (*STORM, "--mix", "worker_kill=1", "--rate", "400")


def test_a_variant_that_does_not_exist_or_fit_is_refused_by_name(tmp_path: Path) -> None:
    """A patch that changed nothing would pass for a checker that found nothing."""
    with pytest.raises(ValueError, match="no variant 'nothing'"):
        variants.build("nothing", tmp_path / "package")
    stale = tmp_path / "stale.patch"
    stale.write_text(
        "diff --git a/streams_queue/clock.py b/streams_queue/clock.py\n"
        "--- a/streams_queue/clock.py\n+++ b/streams_queue/clock.py\n@@ -1 +1 @@\n-nobody wrote this\n+nor this\n"
    )
    with pytest.raises(ValueError, match=r"stale\.patch does not fit"):
        variants.build(str(stale), tmp_path / "package")


def test_an_entry_is_stolen_if_it_changes_hands_without_being_delivered_again() -> None:
    """A reclaim is a delivery and is counted; what is new, gone or still in the same hands is no theft."""
    before = {"1-0": ("a", 1), "2-0": ("a", 1), "3-0": ("b", 2), "4-0": ("a", 1)}
    now = {"1-0": ("b", 2), "2-0": ("a", 1), "3-0": ("a", 2), "5-0": ("b", 1)}
    assert list(thefts(before, now)) == [("3-0", "b", "a")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_checker_finds_each_named_variant_out_and_nothing_wrong_with_the_package() -> None:
    """Within a minute each; `make chaos-variants` tries the others as well."""
    tried = subprocess.run(
        [sys.executable, "-m", "tests.chaos.trials", *NAMED],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
