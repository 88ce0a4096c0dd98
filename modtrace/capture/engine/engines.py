"""Names of the carriers, which tell the tracer when a call begins and ends. Standard library only."""

from __future__ import annotations

from typing import Final

from modtrace.errors import UsageError

HOOKS, CALLS = "hooks", "calls"
ENGINES: Final = (HOOKS, CALLS)
"""hooks: torch's hooks around every call. calls: a function in the place of `Module.__call__`."""


def checked_engine(name: str) -> str:
    """The name of a carrier.

    Raises:
        UsageError: there is no such carrier.
    """
    if name not in ENGINES:
        raise UsageError(f"engine is hooks or calls, not {name!r}")
    return name
