"""Operations at which the host waits for the device, by the module that runs them and the line that asks for them.

They are told from the operations themselves, as the dispatch mode sees them. `torch.cuda.set_sync_debug_mode` would be
told by CUDA, but speaks by Python warnings from inside the program's operations: filters, `-W error`, what has been
shown once and `catch_warnings` of the program would all notice, and its switch is one for the whole process.

An operation on the CPU is noted too: there nothing waits, on a device it would.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple

import torch

from modtrace.capture.mechanisms.function_names import DISPATCHING
from modtrace.capture.torch_private.spelled import CALLING_OPERATIONS, COMPILER
from modtrace.text import plain
from modtrace.trace.schema import COPY_TO_DEVICE, COPY_TO_HOST, TEXT_LIMIT

HOST: Final = "cpu"
MANY: Final = 10_000
"""Distinct waits of one root call."""
LOST: Final = "some waits for the device were not noted: too many in one call"
_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)
_AROUND: Final = (
    os.path.join(os.path.dirname(os.path.dirname(__file__)), ""),
    os.path.join(os.path.dirname(torch.__file__), COMPILER, ""),
)
"""Folders of code that stands around the program's: ours, and what torch puts around modes."""
_HANDING: Final = DISPATCHING | {
    str(sys.modules[name].__file__) for name in CALLING_OPERATIONS if name in sys.modules
}
_MODES: Final = ("__torch_dispatch__", "__torch_function__")
_MASKS: Final = (torch.bool, torch.uint8)


class Wait(NamedTuple):
    """A wait by the operation that caused it. `device` is cpu where nothing was; bytes are of copies and values, None
    where not known.
    """

    what: str
    device: str
    size_bytes: int | None


class WaitPlace(NamedTuple):
    """Where in the code; None where it is not known."""

    file: str | None
    line: int | None


class WaitCount:
    """Number of waits in one place, and the bytes in all."""

    __slots__ = ("count", "size_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.size_bytes: int | None = 0


Waits = dict[tuple[int, str, str, WaitPlace], WaitCount]
"""By call, what, device and place."""


class Syncs:
    """Notes waits of one trace."""

    def __init__(self) -> None:
        self._kinds = _kinds()
        self._rows: list[tuple[int, str, str, WaitPlace, WaitCount]] = []
        self.lost = False

    def note(self, waits: Waits, call: int, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """An operation has run in a call; with what it is seen to wait for goes into `waits`."""
        wait_of = self._kinds.get(function)
        if wait_of is None:
            return
        try:
            wait = wait_of(args, kwargs, result)
        except IndexError:  # called by its keywords, which only torch.ops allows
            return
        if wait is None:
            return
        key = (call, wait.what, wait.device, _place(sys._getframe(2)))
        noted = waits.get(key)
        if noted is None:
            if len(waits) >= MANY:
                self.lost = True
                return
            noted = waits[key] = WaitCount()
        noted.count += 1
        known = noted.size_bytes is not None and wait.size_bytes is not None
        noted.size_bytes = noted.size_bytes + wait.size_bytes if known else None  # type: ignore[operator]

    def keep(self, base: int, waits: Waits) -> None:
        """A root call has ended, one way or another; `base` is what its thread adds to the numbers of calls."""
        self._rows += [
            (base | call, operation, device, place, noted)
            for (call, operation, device, place), noted in waits.items()
            if call >= 0
        ]

    def rows(self) -> dict[str, list[Any]]:
        """Columns of `syncs`, of what is new since the last call."""
        rows, self._rows = self._rows, []
        return {
            "call": [row[0] for row in rows],
            "what": [row[1] for row in rows],
            "device": [row[2] for row in rows],
            "source_file": [None if row[3].file is None else plain(row[3].file, TEXT_LIMIT) for row in rows],
            "source_line": [row[3].line for row in rows],
            "count": [row[4].count for row in rows],
            "size_bytes": [row[4].size_bytes for row in rows],
        }


def _place(frame: FrameType | None) -> WaitPlace:
    """The line that asked for an operation: below our frames, and torch's that only hand a function on."""
    while frame is not None:
        name = frame.f_code.co_filename
        hands_on = name in _HANDING or frame.f_code.co_name in _MODES or name.startswith(_AROUND)
        if not hands_on:
            return WaitPlace(None, None) if "torchinductor" in name else WaitPlace(name, frame.f_lineno)
        frame = frame.f_back
    return WaitPlace(None, None)


def _device(tensor: Any) -> str | None:
    """Where a tensor is; None for what is no plain tensor: a subclass may answer with code of its own."""
    return str(tensor.device) if type(tensor) in _PLAIN else None


def _nbytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _first(operation: str) -> Callable[[Any, Any, Any], Wait | None]:
    """An operation that waits for its first argument."""

    def kind(args: Any, kwargs: Any, result: Any) -> Wait | None:
        device = _device(args[0]) if args else None
        return None if device is None else Wait(operation, device, None)

    return kind


def _item(args: Any, kwargs: Any, result: Any) -> Wait | None:
    device = _device(args[0])
    return None if device is None else Wait("item", device, int(args[0].element_size()))


def _to_copy(args: Any, kwargs: Any, result: Any) -> Wait | None:
    return None if kwargs.get("non_blocking") else _copied(args[0], result)


def _copy(args: Any, kwargs: Any, result: Any) -> Wait | None:
    non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking")
    return None if non_blocking else _copied(args[1], args[0])


def _copied(source: Any, target: Any) -> Wait | None:
    before, after = _device(source), _device(target)
    if before is None or after is None or (before == HOST) == (after == HOST):
        return None  # from one device to another nothing waits
    if after == HOST:
        return Wait(COPY_TO_HOST, before, _nbytes(source))
    return Wait(COPY_TO_DEVICE, after, _nbytes(target))


def _masked(args: Any, kwargs: Any, result: Any) -> Wait | None:
    """An index that is a mask: how many it chooses must be known."""
    masks = [
        index for index in args[1] if index is not None and type(index) in _PLAIN and index.dtype in _MASKS
    ]
    device = _device(args[0])
    return Wait("mask", device, None) if masks and device is not None else None


def _masked_put(args: Any, kwargs: Any, result: Any) -> Wait | None:
    """The same where something is put there. One number of the host is put by filling, without a wait."""
    value = args[2]
    accumulates = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    if not accumulates and type(value) in _PLAIN and value.numel() == 1 and _device(value) == HOST:
        return None
    return _masked(args, kwargs, result)


def _repeated(args: Any, kwargs: Any, result: Any) -> Wait | None:
    return (
        None if kwargs.get("output_size") is not None else _first("repeat_interleave")(args, kwargs, result)
    )


def _kinds() -> dict[Any, Callable[[Any, Any, Any], Wait | None]]:
    """Functions that tell the wait of an operation, by operation; those that this torch lacks are left out."""
    asked: dict[str, tuple[str, Callable[[Any, Any, Any], Wait | None]]] = {
        "_local_scalar_dense": ("default", _item),
        "nonzero": ("default", _first("nonzero")),
        "masked_select": ("default", _first("masked_select")),
        "_unique2": ("default", _first("unique")),
        "unique_dim": ("default", _first("unique")),
        "unique_consecutive": ("default", _first("unique")),
        "equal": ("default", _first("equal")),
        "bincount": ("default", _first("bincount")),
        "repeat_interleave": ("Tensor", _repeated),
        "_to_copy": ("default", _to_copy),
        "copy_": ("default", _copy),
        "index": ("Tensor", _masked),
        "index_put": ("default", _masked_put),
        "index_put_": ("default", _masked_put),
    }
    aten: Any = torch.ops.aten
    by_operator: dict[Any, Callable[[Any, Any, Any], Wait | None]] = {}
    for name, (overload, wait_of) in asked.items():
        packet = getattr(aten, name, None)
        if packet is not None and hasattr(packet, overload):
            by_operator[getattr(packet, overload)] = wait_of
    return by_operator
