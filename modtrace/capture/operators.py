"""Operators and kernels of torch's profiler -> rows of `operators`.

A row is placed at a moment of the host at which the module call that it belongs to runs: an operator in its middle, a
kernel at its launch. Autograd opens an operator for a node before the hook that says whose node it is: the end counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from modtrace.trace.schema import KERNEL, MEMORY_COPY, MEMORY_SET, OPERATOR

_OPERATOR: Final = "TorchOp"
_RANGE: Final = "USER_SCOPE"
_NODE: Final = "autograd::engine::evaluate_function"
_ALLOCATIONS: Final = ("Allocation", "OutOfMemory")
_UTILITIES: Final = frozenset(
    {
        "profiler::_record_function_enter",
        "profiler::_record_function_enter_new",
        "profiler::_record_function_exit",
        "aten::is_leaf",
        "aten::output_nr",
        "aten::_version",
    }
)
"""Operators that torch leaves out of its table."""


class Operator(NamedTuple):
    """One execution, in the profiler's clock. `self_ns` is without operators inside it; for a kernel all of it."""

    at_ns: int
    self_ns: int
    name: str
    thread: int
    device: str
    kind: int


def operators_of(roots: Iterable[Any]) -> list[Operator]:
    """The operators of an event tree, on the host, as torch's own table counts them: one whose only work is an operator
    of the same name is one execution with it. A range that somebody opened is none.
    """
    found, pending = [], list(_shown(roots))
    while pending:
        event = pending.pop()
        children = _shown(event.children)
        while len(children) == 1 and children[0].name == event.name:
            children = _shown(children[0].children)
        pending += children
        if not str(event.tag).endswith(_OPERATOR) or str(event.extra_fields.scope).endswith(_RANGE):
            continue
        inside = sum(child.duration_time_ns for child in children if str(child.tag).endswith(_OPERATOR))
        own = max(event.duration_time_ns - inside, 0)
        of_node = event.name.startswith(_NODE)
        at = event.end_time_ns - 1 if of_node else event.start_time_ns + event.duration_time_ns // 2
        found.append(Operator(at, own, event.name, event.start_tid, "cpu", OPERATOR))
    return found


def _shown(events: Iterable[Any]) -> list[Any]:
    """Events as torch's table takes them: without allocations, and without utilities, whose place those inside take."""
    shown: list[Any] = []
    pending = list(events)
    while pending:
        event = pending.pop()
        if event.name in _UTILITIES:
            pending += event.children
        elif not str(event.tag).endswith(_ALLOCATIONS):
            shown.append(event)
    return shown


def kernels_of(events: Iterable[Any], device_type: Any) -> list[Operator]:
    """What ran on devices of a type, placed at its launch; what nothing launched that was seen is left out.

    Args:
        events: those of the profiler's result, of the host and of devices; both ends of a launch have one correlation.
        device_type: torch's enumeration value of the device.
    """
    launches: dict[int, Any] = {}
    ran = []
    for event in events:
        if event.device_type() == device_type:
            ran.append(event)
        elif event.correlation_id():
            launches.setdefault(event.correlation_id(), event)
    found = []
    for event in ran:
        launch = launches.get(event.correlation_id())
        if launch is not None and event.duration_ns() > 0:
            found.append(
                Operator(
                    launch.start_ns(),
                    event.duration_ns(),
                    event.name(),
                    launch.start_thread_id(),
                    f"{str(device_type).rpartition('.')[2].lower()}:{event.device_index()}",
                    kind_of(event.name()),
                )
            )
    return found


def kind_of(name: str) -> int:
    """What runs on a device by its name: copies and fills are called Memcpy and Memset."""
    if name.startswith("Memcpy"):
        return MEMORY_COPY
    return MEMORY_SET if name.startswith("Memset") else KERNEL
