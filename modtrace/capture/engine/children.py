"""Child processes that the program started for work of its own and that are not recorded: how many, and their CPU time.

Such are processes of `multiprocessing` that are not daemons: workers of a DataLoader and of a Pool are, those of an
executor are known to it. Of other programs a python that has loaded torch is one, unless it is recorded itself; git is
none. Whether they train cannot be seen from here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import FrameType
from typing import Any, Final

from modtrace.systems.other_processes import child_pids, command_of, is_python_with, process_stat
from modtrace.systems.this_process import children_cpu_ns

_FORKS: Final = ("_launch", "popen_fork.py")
_FRAMES: Final = 16
_EVERY: Final = 4
"""At one look of so many other programs are looked at: reading what the system says of them takes time."""
_LOOKS: Final = 30
"""So often a python is looked at for torch: importing it takes a while."""
_HELPERS: Final = (
    b"from multiprocessing",
    b"--multiprocessing-fork",
    b"compile_worker",
    b"loky",
)
"""In the command line of a python that works for this one."""
_LIBRARIES: Final = ("concurrent.", "multiprocessing.", "torch.utils.data.", "joblib.", "loky.")


class Children:
    """Notes the child processes of one recording. Nothing here raises."""

    def __init__(self) -> None:
        self._before_ns = children_cpu_ns()
        self._work: set[tuple[int, ...]] = set()
        self._helpers: set[tuple[int, ...]] = set()
        self._sampled_ns: dict[tuple[int, ...], int] = {}
        self._programs = _Programs()
        self._count = 0

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
            self._count += 1
            if self._count % _EVERY == 0:
                self._programs.look({process._popen.pid for process in running if process._popen is not None})
            for process in running:
                pid = process._popen.pid if process._popen is not None else None
                if pid is None:
                    continue
                self._note(process, helps=pid in executed)
                about = process_stat(pid)
                if about is not None:
                    self._sampled_ns[process._identity] = about.cpu_ns
        except Exception:  # another python
            return

    def facts(self) -> dict[str, int | None]:
        """Number of child processes, and their CPU time: None where others share what is known of it."""
        programs = self._programs.spent_ns
        sampled = sum(programs.values()) + sum(
            spent for key, spent in self._sampled_ns.items() if key in self._work
        )
        together = children_cpu_ns()
        if self._work <= self._sampled_ns.keys():
            spent = sampled or None
        elif self._helpers or together is None or self._before_ns is None:
            spent = None
        else:
            spent = together - self._before_ns
        return {"processes": len(self._work) + len(programs), "cpu_ns": spent}

    def _note(self, process: Any, *, helps: bool = False) -> None:
        key = getattr(process, "_identity", None)
        if type(key) is not tuple or key in self._helpers:
            return
        target = str(getattr(getattr(process, "_target", None), "__module__", ""))
        helps = helps or process.daemon or target.startswith(_LIBRARIES) or "Manager-" in process.name
        if helps:
            self._work.discard(key)
        (self._helpers if helps else self._work).add(key)


class _Programs:
    """Other programs that were started here, by process id and start: Linux only.

    spent_ns: CPU time of those that are a python with torch, with the processes that they have waited for.
    """

    def __init__(self) -> None:
        self.spent_ns: dict[tuple[int, int], int] = {}
        self._looks: dict[tuple[int, int], int] = {}
        self._own = command_of(os.getpid())

    def look(self, known: set[int]) -> None:
        """Note those that run now; `known` are processes of which it is known what they do."""
        for pid in child_pids() - known:
            about = process_stat(pid)
            if about is None:
                continue
            key = (pid, about.start_ticks)
            if key not in self.spent_ns:
                looks = self._looks[key] = self._looks.get(key, 0) + 1
                if looks > _LOOKS or not self._is_work(pid):
                    continue
            self.spent_ns[key] = about.cpu_ns + about.waited_cpu_ns

    def _is_work(self, pid: int) -> bool:
        command = command_of(pid)
        if not command or command == self._own or any(word in command for word in _HELPERS):
            return False  # it is gone, was forked, or helps
        if any(os.path.basename(word) == b"modtrace" for word in command.split(b"\0")):
            return False  # it is recorded itself
        return is_python_with(pid, b"/libtorch")


def _of_executors() -> set[int]:
    """Process ids of the workers of executors."""
    module: Any = sys.modules.get("concurrent.futures.process")
    threads = list(getattr(module, "_threads_wakeups", ()))
    return {pid for thread in threads for pid in list(getattr(thread, "processes", None) or ())}
