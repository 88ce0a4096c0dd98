"""When torch compiled, for how long and why again: what torch itself has kept about it, read at each flush.

Nothing is registered with the compiler and none of its settings is touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from modtrace.capture.torch_private.names import compilation_metrics
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

MANY: Final = 64
"""torch keeps so many."""
LOST: Final = "some compilations are not recorded: there were more at once than torch keeps"


class CompileMetrics:
    """Takes what is new in torch's list. Nothing here raises.

    Args:
        origin_ns: the start of recording, by `clock`.
        messages: whether reasons are kept, which may speak of values.
    """

    def __init__(self, clock: Callable[[], int], origin_ns: int, *, messages: bool) -> None:
        self.gaps: list[str] = []
        self._messages = messages
        self._known: set[tuple[Any, ...]] = set()
        self._off = False
        self._origin_unix_ns = time.time_ns() - (clock() - origin_ns)
        self._rows: list[dict[str, Any]] = []
        self._take()
        self._rows.clear()  # from before

    def rows(self) -> dict[str, list[Any]]:
        """New rows of `compilations`, as columns."""
        self._take()
        new, self._rows = self._rows, []
        return {name: [row[name] for row in new] for name in new[0]} if new else {}

    def _take(self) -> None:
        get = compilation_metrics()
        if self._off or get is None:
            return
        try:
            listed = get()
            known = {_key(metrics) for metrics in listed}
            if self._known and len(listed) >= MANY and not known & self._known and LOST not in self.gaps:
                self.gaps.append(LOST)
            for metrics in listed:
                if _key(metrics) not in self._known and not getattr(metrics, "is_runtime", False):
                    self._rows.append(self._row(metrics))
            self._known = known
        except Exception as fault:  # another torch
            self._off = True
            self.gaps.append(f"how often and why torch compiled is not recorded: {type(fault).__name__}")

    def _row(self, metrics: Any) -> dict[str, Any]:
        start, spent = metrics.start_time_us, metrics.duration_us
        failed = metrics.fail_type
        return {
            "start_ns": max(int(start) * 1000 - self._origin_unix_ns, 0),
            "duration_ns": None if spent is None else int(spent) * 1000,
            "compile": _text(metrics.compile_id) or "?",
            "function": _text(metrics.co_name),
            "source_file": _text(metrics.co_filename),
            "source_line": metrics.co_firstlineno,
            "backward": metrics.is_forward is False,
            "operations": metrics.graph_op_count,
            "reason": _text(metrics.recompile_reason) if self._messages else None,
            "recompiled": metrics.recompile_reason is not None,
            "error": _text(failed if not self._messages else _failure(failed, metrics.fail_reason)),
        }


def _key(metrics: Any) -> tuple[Any, ...]:
    return metrics.compile_id, metrics.start_time_us, metrics.is_forward, metrics.co_name


def _failure(error_type: Any, reason: Any) -> str | None:
    if error_type is None:
        return None
    return f"{error_type}: {str(reason).splitlines()[0]}" if reason else str(error_type)


def _text(value: Any) -> str | None:
    return None if value is None else plain(str(value).strip().replace("\n", "; "), TEXT_LIMIT)
