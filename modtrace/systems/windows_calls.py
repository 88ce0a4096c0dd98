"""Calls of Windows that Python has no function for. Standard library only."""

from __future__ import annotations

import functools
from typing import Any, Final

_LIMITED_INFORMATION: Final = 0x1000
_SYNCHRONIZE: Final = 0x100000
_STILL_RUNS: Final = 0x102
"""WAIT_TIMEOUT."""
_ACCESS_DENIED: Final = 5
_SEQUENCES: Final = 0x4
"""ENABLE_VIRTUAL_TERMINAL_PROCESSING."""
_TO_1970_S: Final = 11_644_473_600
"""Times of files are counted from 1601."""


@functools.cache
def _kernel() -> Any:
    import ctypes

    kernel: Any = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    handle, number, flag = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int
    for name, result, arguments in (
        ("OpenProcess", handle, (number, flag, number)),
        ("WaitForSingleObject", number, (handle, number)),
        ("GetProcessTimes", flag, (handle, *[ctypes.c_void_p] * 4)),
        ("CloseHandle", flag, (handle,)),
        ("GetStdHandle", handle, (number,)),
        ("GetConsoleMode", flag, (handle, ctypes.c_void_p)),
        ("SetConsoleMode", flag, (handle, number)),
    ):
        function = getattr(kernel, name)
        function.restype, function.argtypes = result, arguments
    return kernel


def runs(pid: int) -> bool:
    """True if a process runs. `os.kill(pid, 0)` would interrupt it here: 0 is ctrl-C."""
    import ctypes

    kernel = _kernel()
    handle = kernel.OpenProcess(_LIMITED_INFORMATION | _SYNCHRONIZE, 0, pid)
    if not handle:
        return bool(ctypes.get_last_error() == _ACCESS_DENIED)  # type: ignore[attr-defined]
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == _STILL_RUNS)
    finally:
        kernel.CloseHandle(handle)


def started_unix(pid: int) -> float | None:
    """When a process started, in seconds since 1970; None where Windows does not tell."""
    import ctypes

    kernel = _kernel()
    handle = kernel.OpenProcess(_LIMITED_INFORMATION | _SYNCHRONIZE, 0, pid)
    if not handle:
        return None
    try:
        times = [ctypes.c_uint64() for _ in range(4)]
        if not kernel.GetProcessTimes(handle, *map(ctypes.byref, times)):
            return None
        return times[0].value / 1e7 - _TO_1970_S
    finally:
        kernel.CloseHandle(handle)


@functools.cache
def takes_sequences(descriptor: int) -> bool:
    """True if the console behind standard output (1) or error (2) takes escape sequences; it is told to.

    A console older than Windows 10 shows them as letters.
    """
    import ctypes

    kernel = _kernel()
    handle, mode = kernel.GetStdHandle(0x1_0000_0000 - 10 - descriptor), ctypes.c_uint32()
    if not kernel.GetConsoleMode(handle, ctypes.byref(mode)):
        return False
    return bool(mode.value & _SEQUENCES or kernel.SetConsoleMode(handle, mode.value | _SEQUENCES))
