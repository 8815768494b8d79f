"""Copies of the package that are broken on purpose: the checker has to find each of them out.

`python -m tests.chaos.trials` tries them all.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from tests.chaos.processes import CHECKOUT

VARIANTS = Path(__file__).with_name("variants")
STORM = "Storm:"


def names() -> list[str]:
    """Return the variants that there are."""
    return sorted(path.stem for path in VARIANTS.glob("*.patch"))


def find(variant: str) -> Path:
    """Return the patch of a variant, given its name in `variants/` or a file. Raises ValueError if there is none."""
    for patch in (VARIANTS / f"{variant}.patch", Path(variant)):
        if patch.is_file():
            return patch.resolve()
    raise ValueError(f"no variant {variant!r}, and no such file; there are {', '.join(names()) or 'none'}")


def storm_of(patch: Path) -> list[str]:
    """Return the arguments of the storm that a patch asks for, in a line `Storm: …` before its first file."""
    preamble, _, _ = patch.read_text(encoding="utf-8").partition("\ndiff ")
    asked = (line.removeprefix(STORM) for line in preamble.splitlines() if line.startswith(STORM))
    return [word for line in asked for word in shlex.split(line)]


def build(variant: str, into: Path) -> Path:
    """
    Copy the package and break the copy.

    Args:
        variant: The name of a patch in `variants/`, or a file; made with `git diff` in the root of the checkout.
        into: A directory; the package becomes `into/streams_queue`.

    Returns:
        `into`, to be put on the import path.

    Raises:
        ValueError: There is no such patch, or it does not fit the shipped files.
    """
    patch = find(variant)
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
