"""Facts of the operating system about processes. Standard library only."""

from __future__ import annotations


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name: state, parent, ...; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as opened:
            fields = opened.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields if len(fields) > 20 else None
