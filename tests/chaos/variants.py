"""Copies of the package that are broken on purpose: the checker has to find each of them out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.chaos.processes import CHECKOUT

VARIANTS = Path(__file__).with_name("variants")


def names() -> list[str]:
    """Return the variants that there are."""
    return sorted(path.stem for path in VARIANTS.glob("*.patch"))


def build(variant: str, into: Path) -> Path:
    """
    Copy the package and break the copy.

    Args:
        variant: The name of a patch in `variants/`, made with `git diff` in the root of the checkout.
        into: A directory; the package becomes `into/streams_queue`.

    Returns:
        `into`, to be put on the import path.

    Raises:
        ValueError: There is no such patch, or it no longer fits the shipped files.
    """
    patch = VARIANTS / f"{variant}.patch"
    if not patch.exists():
        raise ValueError(f"no variant {variant!r}; there are {', '.join(names()) or 'none'}")
    shutil.copytree(CHECKOUT / "streams_queue", into / "streams_queue", ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(
        ["git", "apply", "--unsafe-paths", f"--directory={into}", str(patch)],
        cwd=into,
        capture_output=True,
        text=True,
        check=False,
    )
    if applied.returncode != 0:
        raise ValueError(f"{patch.name} does not fit the package: {applied.stderr.strip()}")
    return into
