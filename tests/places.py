"""Where the files of the project are, and where the package is: beside them in a checkout, elsewhere once installed."""

from __future__ import annotations

from pathlib import Path

import modtrace

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(modtrace.__file__).resolve().parent


def place_of(name):
    """The path of a file that is named from the root: `docs/data.md`, `modtrace/api.py`."""
    return (PACKAGE.parent if name.startswith(f"{PACKAGE.name}/") else ROOT) / name
