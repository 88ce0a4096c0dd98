"""Reads `run.json`, which describes a run. Standard library only."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

from modtrace._version import __version__
from modtrace.trace.redaction import blanked
from modtrace.trace.schema import FORMAT, MINOR_VERSION, VERSION


def run_facts(
    *,
    script: str | None = None,
    argv: Sequence[str] = (),
    launch: str | None = None,
    started_unix_ns: int | None = None,
) -> dict[str, Any]:
    """The content of `run.json`; `argv` is the script's own, without its name."""
    return {
        "format": FORMAT,
        "schema": VERSION,
        "schema_minor": MINOR_VERSION,
        "modtrace": __version__,
        "started_unix_ns": time.time_ns() if started_unix_ns is None else started_unix_ns,
        "script": script,
        "argv": blanked(argv),
        "python": platform.python_version(),
        "platform": sys.platform,
        "launch": launch,
    }
