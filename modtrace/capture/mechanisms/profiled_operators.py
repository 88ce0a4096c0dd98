"""Operators and kernels of torch's profiler -> rows of `operators`.

A row is placed at a moment of the host at which the module call that it belongs to runs: an operator in its middle, a
kernel at its launch. Autograd opens an operator for a node before the hook that says whose node it is: the end counts.
"""

from __future__ import annotations

import json
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


_RAN: Final = {"kernel": KERNEL, "gpu_memcpy": MEMORY_COPY, "gpu_memset": MEMORY_SET}
_LAUNCHES: Final = frozenset({"cuda_runtime", "cuda_driver"})
"""Of ROCm too."""
_ASKS: Final = frozenset({"cpu_op", "user_annotation"})
_WAITS: Final = ("StreamSynchronize", "EventSynchronize", "DeviceSynchronize")
_BESIDE: Final = "Async"
"""In the names of calls that do not wait themselves; ROCm has one for copies that does."""
MOST_BYTES: Final = 1 << 56


class Operator(NamedTuple):
    """One execution, in the profiler's clock. `self_ns` is without operators inside it; for a kernel all of it.

    size_bytes: of a copy or fill on a device; None where it is not known.
    waited: of a copy, that the operator that asked for it waited for its end; None for anything else.
    """

    at_ns: int
    self_ns: int
    name: str
    thread: int
    device: str
    kind: int
    size_bytes: int | None = None
    waited: bool | None = None


def operators_of(roots: Iterable[Any]) -> list[Operator]:
    """The operators of an event tree, on the host, as torch's own table counts them: one whose only work is an operator
    of the same name is one execution with it. A range that somebody opened is none.
    """
    operators, pending = [], list(_shown(roots))
    while pending:
        event = pending.pop()
        children = _shown(event.children)
        while len(children) == 1 and children[0].name == event.name:
            children = _shown(children[0].children)
        pending += children
        if not str(event.tag).endswith(_OPERATOR) or str(event.extra_fields.scope).endswith(_RANGE):
            continue
        inside = sum(child.duration_time_ns for child in children if str(child.tag).endswith(_OPERATOR))
        self_ns = max(event.duration_time_ns - inside, 0)
        of_node = event.name.startswith(_NODE)
        ended_ns = event.end_time_ns - 1 if of_node else event.start_time_ns + event.duration_time_ns // 2
        operators.append(Operator(ended_ns, self_ns, event.name, event.start_tid, "cpu", OPERATOR))
    return operators


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
    """Kernels and copies that ran on devices of a type, placed at its launch; what nothing launched that was seen is
    left out.

    torch numbers its operators, and the driver its calls, each from a small number on, and both stand in
    `correlation_id`: a launch is looked for among calls of the driver alone, an operator among operators.

    Args:
        events: those of the profiler's result, of the host and of devices.
        device_type: torch's enumeration value of the device.
    """
    launches: dict[int, Any] = {}
    asked: dict[int, Any] = {}
    waited: set[int] = set()
    ran = []
    for event in events:
        activity = event.activity_type()
        if activity in _RAN:
            if event.device_type() == device_type and event.duration_ns() > 0:
                ran.append(event)
        elif activity in _LAUNCHES:
            launches.setdefault(event.correlation_id(), event)
            if event.name().endswith(_WAITS) and event.linked_correlation_id():
                waited.add(event.linked_correlation_id())
        elif activity in _ASKS and event.correlation_id():
            asked.setdefault(event.correlation_id(), event)
    return [row for row in (_placed(event, launches, asked, waited) for event in ran) if row is not None]


def _placed(event: Any, launches: dict[int, Any], asked: dict[int, Any], waited: set[int]) -> Operator | None:
    """The row of what ran on a device; None where neither its launch nor the operator that asked for it was seen."""
    launch: Any = launches.get(event.correlation_id())
    number = event.linked_correlation_id() or (0 if launch is None else launch.linked_correlation_id())
    operator: Any = asked.get(number)
    if launch is not None:
        at_ns = launch.start_ns()
    elif operator is not None:
        at_ns = operator.start_ns() + operator.duration_ns() // 2
    else:
        return None
    operator_kind = _RAN[event.activity_type()]
    copies = operator_kind == MEMORY_COPY
    return Operator(
        at_ns,
        event.duration_ns(),
        event.name(),
        (operator or launch).start_thread_id(),
        f"{str(event.device_type()).rpartition('.')[2].lower()}:{event.device_index()}",
        operator_kind,
        _size_of(event) if operator_kind != KERNEL else None,
        number in waited or _BESIDE not in launch.name() if copies and operator and launch else None,
    )


def _size_of(event: Any) -> int | None:
    """Bytes of a copy or a fill, from what the driver tells; None where it does not."""
    try:
        size = json.loads(f"{{{event.metadata_json()}}}").get("bytes")
    except (AttributeError, ValueError):
        return None
    return size if type(size) is int and 0 <= size < MOST_BYTES else None
