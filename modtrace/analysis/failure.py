"""The exception that a run ended with, or the last that left a call: its path through the modules, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from modtrace.analysis.calls import error_texts, names
from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.failure_reasons import Circumstances, reason
from modtrace.analysis.nesting import inside
from modtrace.analysis.phases import BACK, NAMES, OPTIMIZER
from modtrace.analysis.timeline import timeline
from modtrace.trace.batch_columns import values_and_nulls
from modtrace.trace.derived import once
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE, NO_GRAD, OK, PHASE, RAISED, SHORT_DTYPES


@dataclass(frozen=True)
class PathCall:
    """One call on the way from the root to the failing module, and what it was given; of a backward, what its forward
    had returned.
    """

    name: str
    type: str
    tensors: str


@dataclass(frozen=True)
class Failure:
    """The last root call, backward or optimizer's step that raised, or what ended the recording outside of these.

    `parameters` are the failing module's own; `sibling` is the last call before it, under the same parent, that
    returned: (name, class, what it returned). `reason` is None where nothing is certain. `line` is the last line of the
    program's own code that it was raised below, as `file:line`; `source` where the failing module's forward begins, if
    its class is not torch's own. `called` is the function of torch (`F.name`) that was called there, outside of
    modules, and what it was given.
    `root` and `call` are the rows of the timeline of the root call (of a backward and a step: of the forward before)
    and of the failing one, `left` that of the outermost which the exception left (-1 where it left none),
    `error_row` the exception's in `errors`. `phase` is the name of the phase that failed, and "" for a root call.
    """

    step: int | None
    error: str
    path: list[PathCall]
    parameters: list[str]
    sibling: tuple[str, str, str] | None
    reason: str | None
    line: str | None
    source: str | None
    root: int | None
    call: int
    left: int
    error_row: int
    phase: str = ""
    called: tuple[str, str] | None = None

    @property
    def outside(self) -> bool:
        """True if it left no call, backward or optimizer's step."""
        return self.left < 0


@once
def last_failure(stored: Stored) -> Failure | None:
    """The failure of the exception that ended the recording outside of calls, else of the last root call, backward or
    optimizer's step that an exception left.
    """
    ended = _outside(stored)
    if ended is not None:
        return ended
    table = timeline(stored).calls
    status = column(table, "status")
    call_kind, last, phase = column(table, "kind"), column(table, "last_call"), nullable_codes(table, "phase")
    is_call = call_kind == MODULE
    outermost = ~inside(is_call, last)
    failing = (call_kind == PHASE) & ((phase == BACK) | (phase == OPTIMIZER))
    failed = np.flatnonzero((is_call | failing) & outermost & (status == RAISED))
    if not len(failed):
        return None
    error, texts = nullable_codes(table, "error"), _text_codes(stored)
    row = int(failed[-1])
    path = [row]
    depth = column(table, "depth")
    below_kind = MODULE if is_call[row] else BACKWARD
    while True:
        within = np.arange(path[-1] + 1, int(last[path[-1]]) + 1)
        below = within[
            (call_kind[within] == below_kind)
            & (status[within] == RAISED)
            & (texts[error[within]] == texts[error[row]])
        ]
        if not len(below):
            break
        path.append(int(below[depth[below] == depth[below].min()][-1]))
    if is_call[row]:
        return _describe(stored, table, path, int(error[row]))
    before = np.flatnonzero(is_call[:row] & outermost[:row])
    before = before[column(table, "process")[before] == column(table, "process")[row]]
    root = int(before[-1]) if len(before) else None
    return _of_phase(stored, table, path, int(error[row]), root, NAMES[int(phase[row])])


def _text_codes(stored: Stored) -> Any:
    """For each exception a code of its text, -1 behind them for none: one that is raised again on its way may have a
    row for each.
    """
    first: dict[str, int] = {}
    return np.array([*(first.setdefault(text, len(first)) for text in error_texts(stored)), -1], np.int64)


def _outside(stored: Stored) -> Failure | None:
    """The failure that ended the recording without leaving a call."""
    errors = stored.table("errors")
    left_calls, unknown = values_and_nulls(errors.column("left_calls"))
    rows = np.flatnonzero(~(left_calls | unknown))  # older traces have only errors that left calls
    if not len(rows):
        return None
    row = int(rows[-1])
    raised = errors.slice(row, 1).to_pylist()[0]
    arguments = raised["arguments"] or []
    named = ", ".join(f"{argument['path']} {_shown(argument)}" for argument in arguments)
    facts = Circumstances(raised["type"], raised["message"] or "", raised["function"] or "", [], arguments)
    return Failure(
        step=None,
        error=error_texts(stored)[row],
        path=[],
        parameters=[],
        sibling=None,
        reason=reason(facts),
        line=_line(raised),
        source=None,
        root=None,
        call=-1,
        left=-1,
        error_row=row,
        called=(raised["function"], named) if raised["function"] else None,
    )


def _of_phase(
    stored: Stored, table: Any, path: list[int], error: int, root: int | None, phase: str
) -> Failure:
    """A backward or a step that raised; `path` begins with its row."""
    modules = stored.table("modules")
    forward = nullable_codes(table, "forward")[path[1:]]
    rows = forward[forward >= 0].tolist()
    module = modules.slice(int(nullable_codes(table, "module")[rows[-1]]), 1).to_pylist()[0] if rows else None
    raised = stored.table("errors").slice(error, 1).to_pylist()[0]
    step = int(nullable_codes(table, "step")[path[0]])
    facts = Circumstances(
        raised["type"],
        raised["message"] or "",
        module["type"] if module is not None else "",
        module["parameters"] if module is not None else [],
        backward=True,
        **_before(stored, table, rows[-1] if rows else None, path[0], root),
    )
    return Failure(
        step=step if step >= 0 else None,
        error=error_texts(stored)[error],
        path=_places(stored, table, rows, "outputs"),
        parameters=[f"{p['path']} {_shown(p)}" for p in module["parameters"]] if module is not None else [],
        sibling=None,
        reason=reason(facts),
        line=_line(raised),
        source=_source(module),
        root=root,
        call=path[-1],
        left=path[0],
        error_row=error,
        phase=phase,
    )


def _before(stored: Stored, table: Any, forward: int | None, failed: int, root: int | None) -> dict[str, Any]:
    """Calls before a backward that failed, for `Circumstances`.

    Args:
        forward: the call whose backward failed, None where not known.
        failed: the row of the backward's phase.
        root: the last root call before it.
    """
    call_kind, phase = column(table, "kind"), nullable_codes(table, "phase")
    process, step = column(table, "process"), nullable_codes(table, "step")
    facts: dict[str, Any] = {}
    if forward is not None:
        later = (np.arange(len(table)) > forward) & (np.arange(len(table)) < failed)
        later &= process == process[failed]
        facts["stepped"] = bool((later & (call_kind == PHASE) & (phase == OPTIMIZER)).any())
        targets = nullable_codes(table, "forward")
        facts["gone_through"] = bool((later & (call_kind == BACKWARD) & (targets == forward)).any())
        if 0 <= step[forward] < step[failed]:
            facts["earlier_step"] = int(step[forward])
    if root is not None:
        outputs = int(nullable_codes(table, "outputs")[root])
        signatures, modules = stored.table("signatures"), stored.table("modules")
        facts["root_outputs"] = signatures.column("tensors")[outputs].as_py() if outputs >= 0 else []
        facts["no_grad"] = bool(values_and_known(table, "mode")[0][root] & NO_GRAD)
        module = int(nullable_codes(table, "module")[root])
        facts["trainable"] = modules.column("trainable_count")[module].as_py()
    return facts


def _line(raised: dict[str, Any]) -> str | None:
    """`file:line` of an exception."""
    file, line = raised["source_file"], raised["source_line"]
    return f"{file}:{line}" if file and line else None


def _source(module: dict[str, Any] | None) -> str | None:
    """Where the forward of a module begins; None for a class of torch's own, which nobody needs to look at."""
    if module is None or not module["source_file"] or not module["source_line"]:
        return None
    if is_torchs(module):
        return None
    return f"{module['source_file']}:{module['source_line']}"


def _places(stored: Stored, table: Any, rows: list[int], which: str) -> list[PathCall]:
    modules = stored.table("modules")
    module, root = nullable_codes(table, "module"), nullable_codes(table, "root")
    texts = stored.table("signatures").column("text").to_pylist()
    signature = nullable_codes(table, which)
    codes, labels = names(stored, np.maximum(root, 0), np.maximum(module, 0))
    return [
        PathCall(
            labels[codes[row]],
            str(modules.column("type")[int(module[row])]),
            texts[signature[row]] if signature[row] >= 0 else "?",
        )
        for row in rows
    ]


def _describe(stored: Stored, table: Any, path: list[int], error: int) -> Failure:
    """A root call that raised, and the calls in it."""
    modules, signatures = stored.table("modules"), stored.table("signatures")
    step = int(nullable_codes(table, "step")[path[-1]])
    inputs = nullable_codes(table, "inputs")
    failing = path[-1]
    module = modules.slice(int(nullable_codes(table, "module")[failing]), 1).to_pylist()[0]
    raised = stored.table("errors").slice(error, 1).to_pylist()[0]
    facts = Circumstances(
        raised["type"],
        raised["message"] or "",
        module["type"],
        module["parameters"],
        signatures.column("tensors")[int(inputs[failing])].as_py() if inputs[failing] >= 0 else [],
    )
    if not is_torchs(module):
        # In a forward of the program's own the function that it called is what failed.
        facts = replace(
            facts, called=raised["function"] or "", parameters=[], given=raised["arguments"] or []
        )
    return Failure(
        step=step if step >= 0 else None,
        error=error_texts(stored)[error],
        path=_places(stored, table, path, "inputs"),
        parameters=[f"{p['path']} {_shown(p)}" for p in module["parameters"]],
        sibling=_sibling(stored, table, path),
        reason=reason(facts),
        line=_line(raised),
        source=_source(module),
        root=path[0],
        call=failing,
        left=path[0],
        error_row=error,
    )


def is_torchs(module: dict[str, Any]) -> bool:
    """True if the class of a module is one of torch's own."""
    return str(module["type_module"] or "").partition(".")[0] == "torch"


def _sibling(stored: Stored, table: Any, path: list[int]) -> tuple[str, str, str] | None:
    """The last call before the failing one that returned; with no failing child, the last child."""
    parent, status = column(table, "parent"), column(table, "status")
    status = np.where(column(table, "kind") == MODULE, status, -1)
    for over, below in (
        (path[-1], len(parent)),
        *((path[i - 1], path[i]) for i in range(len(path) - 1, 0, -1)),
    ):
        returned = np.flatnonzero((parent[:below] == over) & (status[:below] == OK))
        if len(returned):
            (place,) = _places(stored, table, [int(returned[-1])], "outputs")
            return place.name, place.type, place.tensors
    return None


def _shown(tensor: dict[str, Any]) -> str:
    sizes = (
        "?" if tensor["shape"] is None else ",".join("?" if s is None else str(s) for s in tensor["shape"])
    )
    where = "" if tensor["device"] == "cpu" else f" {tensor['device']}"
    return f"{SHORT_DTYPES.get(tensor['dtype'], tensor['dtype'])}[{sizes}]{where}"
