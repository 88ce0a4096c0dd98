"""Child processes that the program started for work of its own and that are not recorded: how many, and their CPU time.

Such are processes of `multiprocessing` that are not daemons: workers of a DataLoader and of a Pool are, those of an
executor are known to it. Programs that are started otherwise (git, compilers) are none of them. Whether they train
cannot be seen from here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import FrameType
from typing import Any, Final

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_FORKS: Final = ("_launch", "popen_fork.py")
_FRAMES: Final = 16
_LIBRARIES: Final = ("concurrent.", "multiprocessing.", "torch.utils.data.", "joblib.", "loky.")


class Children:
    """Notes the child processes of one recording. Nothing here raises."""

    def __init__(self) -> None:
        self._before_ns = _spent_by_children()
        self._work: set[tuple[int, ...]] = set()
        self._helpers: set[tuple[int, ...]] = set()
        self._sampled_ns: dict[tuple[int, ...], int] = {}

    def forks(self, frame: FrameType | None) -> None:
        """The process is about to fork, in code below `frame`."""
        for _ in range(_FRAMES):
            if frame is None:
                return
            code = frame.f_code
            if code.co_name == _FORKS[0] and os.path.basename(code.co_filename) == _FORKS[1]:
                with contextlib.suppress(Exception):  # another python
                    self._note(frame.f_locals["process_obj"])
                return
            frame = frame.f_back

    def look(self) -> None:
        """Note those that run now; called now and then by a thread that is not the program's."""
        module: Any = sys.modules.get("multiprocessing.process")
        try:
            running = list(getattr(module, "_children", ()))
            executed = _of_executors() if running else set()
            for process in running:
                pid = process._popen.pid if process._popen is not None else None
                if pid is None:
                    continue
                self._note(process, helps=pid in executed)
                spent = _spent_by(pid)
                if spent is not None:
                    self._sampled_ns[process._identity] = spent
        except Exception:  # another python
            return

    def facts(self) -> dict[str, int | None]:
        """How many there were, and their CPU time: None where others share what is known of it."""
        sampled = sum(spent for key, spent in self._sampled_ns.items() if key in self._work)
        together = _spent_by_children()
        if self._work <= self._sampled_ns.keys():
            spent = sampled or None
        elif self._helpers or together is None or self._before_ns is None:
            spent = None
        else:
            spent = together - self._before_ns
        return {"processes": len(self._work), "cpu_ns": spent}

    def _note(self, process: Any, *, helps: bool = False) -> None:
        key = getattr(process, "_identity", None)
        if type(key) is not tuple or key in self._helpers:
            return
        target = str(getattr(getattr(process, "_target", None), "__module__", ""))
        helps = helps or process.daemon or target.startswith(_LIBRARIES) or "Manager-" in process.name
        if helps:
            self._work.discard(key)
        (self._helpers if helps else self._work).add(key)


def _of_executors() -> set[int]:
    """Process ids of the workers of executors."""
    module: Any = sys.modules.get("concurrent.futures.process")
    threads = list(getattr(module, "_threads_wakeups", ()))
    return {pid for thread in threads for pid in list(getattr(thread, "processes", None) or ())}


def _spent_by_children() -> int | None:
    """CPU time of the children that have ended, nanoseconds."""
    if resource is None:
        return None
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


def _spent_by(pid: int) -> int | None:
    """CPU time of a process that runs, nanoseconds; None where the system does not tell (not Linux)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as opened:
            fields = opened.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
