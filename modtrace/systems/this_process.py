"""Things a process does with itself, as each system has them. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

from modtrace.systems import LINUX, WINDOWS

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

DEVICE_FILES: Final = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Linux has one of them where there is a GPU: of NVIDIA, of Windows below it, of AMD."""
_CONTROL_C_EXIT: Final = -0x3FFFFEC6
"""STATUS_CONTROL_C_EXIT of Windows, 0xC000013A."""


def on_fork(before: Callable[[], None], after_in_child: Callable[[], None]) -> None:
    """Have functions called around each fork; does nothing where no process forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_child=after_in_child)


def has_thread(native_id: int) -> bool:
    """True if the system still has a thread of this process that Python has ended (Linux)."""
    return os.path.exists(f"/proc/self/task/{native_id}")


def give_memory_back() -> None:
    """Memory that is free in this process goes back to the system: glibc keeps it otherwise."""
    if not LINUX:
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def children_cpu_ns() -> int | None:
    """CPU time of the children that have ended, nanoseconds; None where the system does not tell."""
    if resource is None:
        return None
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e9)


def end_by_interrupt() -> NoReturn:
    """End by SIGINT as a program without a handler does, so that a script around it ends too."""
    if WINDOWS:
        raise SystemExit(_CONTROL_C_EXIT)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    raise SystemExit(130)  # where a signal does not end a process


def processor_name() -> str:
    """The name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"


def may_have_gpu() -> bool:
    """False where it is certain that no GPU of NVIDIA or AMD is here."""
    return not LINUX or any(map(os.path.exists, DEVICE_FILES))


def lacks_interpreter_lock() -> bool:
    """True in a free-threaded Python that runs without its global lock."""
    is_enabled: Any = getattr(sys, "_is_gil_enabled", None)
    return is_enabled is not None and not is_enabled()


def clock_name() -> str:
    """The same for processes that share one wall clock, those of one machine since it was started. It names no machine:
    it is a hash, 16 hexadecimal digits.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            machine = file.read()
    except (OSError, UnicodeError):
        machine = platform.node()
    return hashlib.sha256(machine.encode()).hexdigest()[:16]
