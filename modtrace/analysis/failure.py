"""The path of an exception through a root call, and what certainly disagrees about the sizes it stumbled over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modtrace.analysis.around import inside
from modtrace.analysis.calls import error_texts, names
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.phases import BACK, NAMES, OPTIMIZER
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE, OK, PHASE, RAISED, SHORT_DTYPES


@dataclass(frozen=True)
class Place:
    """One call on the way from the root to the failing module, and what it was given; of a backward, what its forward
    had returned.
    """

    name: str
    type: str
    tensors: str


@dataclass(frozen=True)
class Failure:
    """The last root call, backward or optimizer's step that raised.

    `parameters` are the failing module's own; `sibling` is the last call before it, under the same parent, that
    returned: (name, class, what it returned). `disagree` is None where nothing is certain.
    `root` and `call` are the rows of the timeline of the root call (of a backward and a step: of the forward before)
    and of the failing one, `left` that of the outermost which the exception left, `error_row` the exception's in
    `errors`. `phase` is the name of the phase that failed, and "" for a root call.
    """

    step: int | None
    error: str
    path: list[Place]
    parameters: list[str]
    sibling: tuple[str, str, str] | None
    disagree: str | None
    source: str | None
    root: int | None
    call: int
    left: int
    error_row: int
    phase: str = ""


def last_failure(stored: Stored) -> Failure | None:
    """What is known of the last root call, backward or optimizer's step that an exception left."""
    table = timeline(stored).calls
    status = column(table, "status")
    kind, last, phase = column(table, "kind"), column(table, "last_call"), nullable_codes(table, "phase")
    is_call = kind == MODULE
    outermost = ~inside(is_call, last)
    failing = (kind == PHASE) & ((phase == BACK) | (phase == OPTIMIZER))
    failed = np.flatnonzero((is_call | failing) & outermost & (status == RAISED))
    if not len(failed):
        return None
    error = nullable_codes(table, "error")
    at = int(failed[-1])
    path = [at]
    depth = column(table, "depth")
    below_kind = MODULE if is_call[at] else BACKWARD
    while True:
        within = np.arange(path[-1] + 1, int(last[path[-1]]) + 1)
        below = within[
            (kind[within] == below_kind) & (status[within] == RAISED) & (error[within] == error[at])
        ]
        if not len(below):
            break
        path.append(int(below[depth[below] == depth[below].min()][-1]))
    if is_call[at]:
        return _describe(stored, table, path, int(error[at]))
    before = np.flatnonzero(is_call[:at] & outermost[:at])
    before = before[column(table, "process")[before] == column(table, "process")[at]]
    root = int(before[-1]) if len(before) else None
    return _of_phase(stored, table, path, int(error[at]), root, NAMES[int(phase[at])])


def _of_phase(
    stored: Stored, table: Any, path: list[int], error: int, root: int | None, phase: str
) -> Failure:
    """A backward or a step that raised; `path` begins with its row."""
    modules = stored.table("modules")
    forward = nullable_codes(table, "forward")[path[1:]]
    rows = forward[forward >= 0].tolist()
    own = modules.slice(int(nullable_codes(table, "module")[rows[-1]]), 1).to_pylist()[0] if rows else None
    file, line = (own["source_file"], own["source_line"]) if own is not None else (None, None)
    step = int(nullable_codes(table, "step")[path[0]])
    return Failure(
        step=step if step >= 0 else None,
        error=error_texts(stored)[error],
        path=_places(stored, table, rows, "outputs"),
        parameters=[f"{p['path']} {_shown(p)}" for p in own["parameters"]] if own is not None else [],
        sibling=None,
        disagree=None,
        source=f"{file}:{line}" if file and line else None,
        root=root,
        call=path[-1],
        left=path[0],
        error_row=error,
        phase=phase,
    )


def _places(stored: Stored, table: Any, rows: list[int], which: str) -> list[Place]:
    modules = stored.table("modules")
    module, root = nullable_codes(table, "module"), nullable_codes(table, "root")
    texts = stored.table("signatures").column("text").to_pylist()
    told = nullable_codes(table, which)
    codes, labels = names(stored, np.maximum(root, 0), np.maximum(module, 0))
    return [
        Place(
            labels[codes[row]],
            str(modules.column("type")[int(module[row])]),
            texts[told[row]] if told[row] >= 0 else "?",
        )
        for row in rows
    ]


def _describe(stored: Stored, table: Any, path: list[int], error: int) -> Failure:
    """A root call that raised, and the calls in it."""
    modules, signatures = stored.table("modules"), stored.table("signatures")
    step = int(nullable_codes(table, "step")[path[-1]])
    given = nullable_codes(table, "inputs")
    failing = path[-1]
    record = modules.slice(int(nullable_codes(table, "module")[failing]), 1).to_pylist()[0]
    tensors = signatures.column("tensors")[int(given[failing])].as_py() if given[failing] >= 0 else []
    kind = str(stored.table("errors").column("type")[error])
    file, line = record["source_file"], record["source_line"]
    return Failure(
        step=step if step >= 0 else None,
        error=error_texts(stored)[error],
        path=_places(stored, table, path, "inputs"),
        parameters=[f"{p['path']} {_shown(p)}" for p in record["parameters"]],
        sibling=_sibling(stored, table, path),
        disagree=disagreement(kind, record["type"], record["parameters"], tensors),
        source=f"{file}:{line}" if file and line else None,
        root=path[0],
        call=failing,
        left=path[0],
        error_row=error,
    )


def _sibling(stored: Stored, table: Any, path: list[int]) -> tuple[str, str, str] | None:
    """The last call before the failing one that returned; with no failing child, the last child."""
    parent, status = column(table, "parent"), column(table, "status")
    status = np.where(column(table, "kind") == MODULE, status, -1)
    for over, below in (
        (path[-1], len(parent)),
        *((path[i - 1], path[i]) for i in range(len(path) - 1, 0, -1)),
    ):
        found = np.flatnonzero((parent[:below] == over) & (status[:below] == OK))
        if len(found):
            (place,) = _places(stored, table, [int(found[-1])], "outputs")
            return place.name, place.type, place.tensors
    return None


def _shown(tensor: dict[str, Any]) -> str:
    sizes = (
        "?" if tensor["shape"] is None else ",".join("?" if s is None else str(s) for s in tensor["shape"])
    )
    where = "" if tensor["device"] == "cpu" else f" {tensor['device']}"
    return f"{SHORT_DTYPES.get(tensor['dtype'], tensor['dtype'])}[{sizes}]{where}"


def disagreement(
    error: str, kind: str, parameters: list[dict[str, Any]], given: list[dict[str, Any]]
) -> str | None:
    """What disagrees between a module's parameters and the tensors it was given; None where no rule is certain.

    Args:
        error: class name of the exception: only those that torch raises for such things are judged.
        kind: class name of the module.
        parameters, given: tensors as in the trace.
    """
    if error not in ("RuntimeError", "ValueError", "IndexError", "TypeError") or not given:
        return None
    weight = next((p for p in parameters if p["path"] in ("weight", "weight_ih_l0", "in_proj_weight")), None)
    first = given[0]
    devices = sorted({t["device"] for t in [*given, *parameters]})
    if len(devices) > 1 and "meta" not in devices:
        return f"devices differ: the input is on {first['device']}, {_others(parameters, given, first)}"
    if kind in {"Embedding", "EmbeddingBag"}:
        if not first["dtype"].startswith(("int", "uint")):
            return f"the input is {first['dtype']}; {kind} takes integers"
        return None
    if weight is None:
        return None
    if first["shape"] is not None and weight["shape"] is not None:
        sizes = _sizes(kind, weight["shape"], first["shape"])
        if sizes is not None:
            return sizes
    if first["dtype"] != weight["dtype"] and kind in _SAME_DTYPE:
        return f"dtypes differ: the input is {first['dtype']}, {weight['path']} is {weight['dtype']}"
    return None


_SAME_DTYPE = frozenset(
    {"Linear", "Bilinear", "LSTM", "GRU", "RNN", "MultiheadAttention"}
    | {f"Conv{n}d" for n in (1, 2, 3)}
    | {f"ConvTranspose{n}d" for n in (1, 2, 3)}
)


def _others(parameters: list[dict[str, Any]], given: list[dict[str, Any]], first: dict[str, Any]) -> str:
    other = next(t for t in [*parameters, *given] if t["device"] != first["device"])
    what = other["path"] if other in parameters else f"argument {other['path'] or '0'}"
    return f"{what} on {other['device']}"


def _sizes(kind: str, weight: list[int | None], given: list[int | None]) -> str | None:
    """Rules that hold for torch's own layers with one group (a weight tells nothing certain of more)."""
    if kind in ("Linear", "LSTM", "GRU", "RNN", "MultiheadAttention") and len(weight) == 2:
        if not given or given[-1] != weight[1]:
            last = given[-1] if given else "none"
            return f"the input's last size is {last}; the weight {weight} takes {weight[1]}"
        return None
    if kind.startswith(("Conv", "ConvTranspose")) and kind.endswith("d"):
        dimensions = len(weight) - 2
        if len(given) not in (dimensions + 1, dimensions + 2):
            return (
                f"the input has {len(given)} dimensions; {kind} takes {dimensions + 2} (or {dimensions + 1})"
            )
        channels = given[-dimensions - 1]
        expected = weight[0] if kind.startswith("ConvTranspose") else weight[1]
        if channels is not None and expected is not None and channels % expected:
            return f"the input has {channels} channels; the weight {weight} takes {expected}"
        return None
    if kind.startswith("BatchNorm") and len(weight) == 1:
        if len(given) > 1 and given[1] != weight[0]:
            return f"the input has {given[1]} channels; the weight {weight} takes {weight[0]}"
        return None
    if kind == "LayerNorm" and given[-len(weight) :] != weight:
        return f"the input ends in {given[-len(weight) :]}; the weight takes {weight}"
    if kind == "GroupNorm" and len(given) > 1 and given[1] != weight[0]:
        return f"the input has {given[1]} channels; the weight {weight} takes {weight[0]}"
    return None
