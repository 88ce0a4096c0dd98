"""Values of one trace while it runs: what is read when, what is kept of it, and what is said of what is not finite.

The recorders of `--values` and `--nan` share one watch, and the first of them that starts is told of events.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections import deque
from collections.abc import Callable, Mapping
from operator import attrgetter
from types import FrameType
from typing import Any, Final

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.events import Halt
from modtrace.capture.engine.program_lines import program_line
from modtrace.capture.engine.thread_buffer import ThreadBuffer
from modtrace.capture.mechanisms.content_hash import ContentHash
from modtrace.capture.mechanisms.nonfinite_origin import History, Origin, judge
from modtrace.capture.mechanisms.operation_pin import OperationPin
from modtrace.capture.mechanisms.optimizer_parameters import members_of, own_parameters
from modtrace.capture.mechanisms.step_numbers import StepNumbers, trains
from modtrace.capture.mechanisms.value_readings import Hidden, Reading, ValueReadings
from modtrace.capture.mechanisms.value_tensors import tensors_of
from modtrace.capture.torch_private.names import graph_task
from modtrace.errors import NonFiniteError
from modtrace.text import plain
from modtrace.trace.schema import (
    BATCH,
    FAULT,
    GRADIENT,
    INPUT,
    LOSS,
    MODULE,
    OUTPUT,
    PARAMETER_GRADIENT,
    PARAMETER_VALUE,
    TEXT_LIMIT,
    THREAD_SHIFT,
    VALUE_KINDS,
)

MANY_READINGS: Final = 20_000
"""A step with more of them is judged in parts."""
STEPS_BEFORE: Final = 4
"""Steps before the one in which something is not finite whose ranges are kept."""
MANY_REPORTS: Final = 8
"""So many steps are told of that were left out, or in which something vanished."""
CAPTURED: Final = "values are not read while a graph is captured"
UNREAD: Final = "ranges of the last steps are not known: recording ended where a device may not be asked"

Owner = tuple[int, str]
"""(number of a module, name of a parameter of its own)."""


class NanOptions:
    """Options of --nan.

    stop: raise an exception at the producer. pin: look for the operation in it. allows: says of a module's number that
    it may make what is not finite.
    """

    def __init__(self, *, stop: bool, pin: bool, allows: Callable[[int], bool]) -> None:
        self.stop = stop
        self.pin = pin
        self.allows = allows


class ValueWatch:
    """Reads values for one trace."""

    def __init__(self, context: TraceContext) -> None:
        self.spent_ns = 0
        self.gaps: list[str] = []
        self.readings = ValueReadings(context)
        self.nan: NanOptions | None = None
        self.driven = False
        """A recorder drives it."""
        self._context = context
        self._choose: Callable[[int], bool] | None = None
        self._numbers: StepNumbers | None = None
        self._pin: OperationPin | None = None
        self._step = 0
        self._reads = self._keeps = False
        self._hidden = 0
        self._owners: dict[int, Owner] = {}
        self._used: set[int] = set()
        """Modules whose parameters were read in this step, before they were used."""
        self._makers: dict[int, tuple[tuple[int, str], ...]] = {}
        self._history = History()
        self._before: deque[list[Reading]] = deque(maxlen=STEPS_BEFORE)
        self._next_batch: list[Reading] = []
        """The batch that came last in a step: without an optimizer a step only ends when the next one computes."""
        self._streak = 0
        self._ended: deque[tuple[int | None, bool, bool]] = deque()
        """(number where it is known, ranges are wanted, a GradScaler left it out) of steps whose ranges
        have not arrived."""
        self._skipped = False
        self._stepping: list[int] = []
        """Rows of the optimizers that are stepping."""
        self._done = False
        self._reports = 0
        self._rows: list[Reading] = []
        self._origins: list[tuple[Origin, str | None, tuple[str, int] | None]] = []

    def ask_steps(
        self, choose: Callable[[int], bool], first: int, end: int | None, *, norm: bool, hashed: bool
    ) -> None:
        """Keep the ranges of some steps: from `first` to the one before `end`; to the last for None."""
        self._choose = choose
        self.readings.norm = norm
        self.readings.hash = ContentHash() if hashed else None
        self._numbers = StepNumbers(first, end) if end is not None else None
        self._judge_step()

    def ask_nan(self, options: NanOptions) -> None:
        """Look for what is not finite."""
        self.nan = options
        self._pin = OperationPin(self._context) if options.pin else None
        self._judge_step()

    def events(self) -> dict[str, Callable[..., Any]]:
        """The events that it is told of."""
        names = (
            "module_entered", "root_began", "call_ended", "batch_loaded", "backward_requested", "backward_opened",
            "gradients_arrived", "optimizer_began", "optimizer_stepped", "optimizer_skipped", "optimizer_ended",
            "step_marked", "step_ended",
        )  # fmt: skip
        further = ("call_began", "backward_began") if self.nan is not None else ()
        return {name: getattr(self, name) for name in (*names, *further)}

    # which steps ------------------------------------------------------------------------------------------------

    def _judge_step(self) -> None:
        """Find out whether values of the step in progress are read."""
        possible = self._numbers.possible if self._numbers is not None else (self._context.step,)
        self._keeps = self._choose is not None and any(map(self._choose, possible))
        self._reads = self._hidden == 0 and (self._keeps or (self.nan is not None and not self._done))

    def hide(self) -> None:
        """torch compiles."""
        self._hidden += 1
        self._judge_step()

    def show(self) -> None:
        """It has ended."""
        self._hidden -= 1
        self._judge_step()

    def root_began(self, buffer: ThreadBuffer, module: Any, *_: Any) -> int:
        """A root call is about to begin."""
        if self._numbers is not None and graph_task() == -1:
            self._numbers.root_begins(trains=trains(module))
            self._judge_step()
        return 0

    def backward_requested(self) -> None:
        """The program has called backward."""
        if self._numbers is not None and graph_task() == -1:
            self._numbers.backward_begins()
            self._judge_step()

    def step_marked(self, _: int) -> None:
        """The program says that a step ends."""
        if self._numbers is not None:
            self._numbers.marked()

    def optimizer_ended(self, optimizer: Any, number: int, _: int) -> None:
        """An optimizer has stepped."""
        if self._numbers is not None:
            self._numbers.optimizer_ended(optimizer, number)

    def step_ended(self, step: int) -> None:
        """Steps below this number are over."""
        self._end_step(step=self._step if step == self._step + 1 else None)
        self._step = step
        self._judge_step()

    @property
    def _known_step(self) -> int | None:
        """Number of the step in progress; None where it is not certain."""
        return self._step if self._context.step_is_known else None

    def _end_step(self, *, step: int | None) -> None:
        self._used.clear()
        # Steps, and what is known of each, stay in one order, whatever thread ends them.
        with self.readings.lock:
            if self.readings.waiting:
                with self._reading(None) as hidden:
                    self.readings.end_step(send=hidden.usable)
                self._ended.append((step, self._keeps, self._skipped))
            self._skipped = False
        self.take()

    # what is read -----------------------------------------------------------------------------------------------

    def module_entered(self, number: int, module: Any) -> None:
        """A module was seen for the first time: its own parameters have names."""
        for name, tensor in own_parameters(module):
            self._owners[id(tensor)] = number, name  # ids of dead tensors are used again

    def call_began(
        self, buffer: ThreadBuffer, call: int, _: int, number: int, module: Any, args: Any, frame: FrameType
    ) -> None:
        """A module call is about to begin."""
        if not self._reads or buffer.transformed or self._done:
            return
        parent, root = _modules_around(buffer, buffer.calls)
        identity = buffer.number << THREAD_SHIFT | call
        root = identity if root < 0 else root
        source = program_line(frame.f_back)
        with self._reading(buffer, len(buffer.calls) - 1) as hidden:
            if not hidden.usable:
                return
            for place in (args, frame.f_locals.get("kwargs") or {}):
                for path, tensor in tensors_of(place):
                    self.readings.read(
                        INPUT, identity, number, path, tensor, parent=parent, root=root, source=source
                    )
            if number not in self._used:
                self._used.add(number)
                for name, tensor in own_parameters(module):
                    self.readings.read(
                        PARAMETER_VALUE,
                        identity,
                        number,
                        name,
                        tensor,
                        parent=parent,
                        root=root,
                        source=source,
                    )
            if self._pin is not None:
                self._pin.call_began(buffer, identity, args, frame.f_locals.get("kwargs") or {})

    def call_ended(
        self,
        buffer: ThreadBuffer,
        call: int,
        number: int,
        kwargs_sig: int,
        output_sig: int,
        module: Any,
        args: Any,
        kwargs: Any,
        output: Any,
    ) -> None:
        """A module call has returned; it is the innermost open one."""
        if not self._reads or buffer.transformed:
            return
        if len(buffer.calls) == 1 and self.readings.waiting > MANY_READINGS:
            self._end_step(step=self._known_step)
        parent, root = _modules_around(buffer, buffer.calls[:-1])
        identity = buffer.number << THREAD_SHIFT | call
        root = identity if root < 0 else root
        extremes = []
        with self._reading(buffer, len(buffer.calls) - 2) as hidden:
            if not hidden.usable:
                return
            for path, tensor in tensors_of(output):
                extremes.append(
                    self.readings.read(OUTPUT, identity, number, path, tensor, parent=parent, root=root)
                )
            if self.nan is None or self._done or not (self.nan.stop or self._pin is not None):
                return
            faulty = any(map(_is_faulty, extremes))
        if self._pin is not None:
            self._pin.call_ended(identity, module, args, kwargs or {}, faulty=faulty)
        if faulty:
            self._halt(identity, number)

    def batch_loaded(self, buffer: ThreadBuffer, call: int, batch: Any) -> None:
        """A DataLoader has handed out a batch."""
        if not self._reads or call < 0:
            return
        with self._reading(buffer, len(buffer.calls) - 1) as hidden:
            for path, tensor in tensors_of(batch) if hidden.usable else ():
                self.readings.read(BATCH, buffer.number << THREAD_SHIFT | call, -1, path, tensor)

    def backward_opened(self, buffer: ThreadBuffer, call: int, outputs: Any) -> None:
        """A backward is about to run from these tensors."""
        if not self._reads or call < 0:
            return
        source = program_line(sys._getframe())
        tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        with self._reading(buffer, len(buffer.calls) - 1) as hidden:
            for path, tensor in tensors_of(tuple(tensors)) if hidden.usable else ():
                self.readings.read(
                    LOSS, buffer.number << THREAD_SHIFT | call, -1, path, tensor, source=source
                )

    def backward_began(self, graph: Any) -> None:
        """It is known which calls made the graph."""
        self._makers = graph.makers() if self._reads and not self._done else {}

    def gradients_arrived(
        self, buffer: ThreadBuffer, call: int, forward: int, number: int, node: int, gradients: Any
    ) -> None:
        """A node of another call is about to run."""
        if not self._reads or call < 0:
            return
        identity = forward if forward >= 0 else buffer.number << THREAD_SHIFT | call
        nodes, extremes = self._makers.get(node, ()), []
        with self._reading(buffer, len(buffer.calls) - 1) as hidden:
            for path, tensor in tensors_of(tuple(gradients)) if hidden.usable else ():
                extremes.append(self.readings.read(GRADIENT, identity, number, path, tensor, nodes=nodes))
            stops = self.nan is not None and self.nan.stop and not self._done
            faulty = stops and any(map(_is_faulty, extremes))
        if faulty:
            self._halt(identity, nodes[-1][0] if nodes else number, "backward of ")

    def optimizer_began(self, optimizer: Any, call: int) -> None:
        """An optimizer is about to step; that of its base class, in it, has no row of its own."""
        self._stepping.append(call)
        self._read_parameters(optimizer, call, PARAMETER_GRADIENT)

    def optimizer_stepped(self, optimizer: Any) -> None:
        """An optimizer has stepped; its phase is open still."""
        if self._stepping:
            self._read_parameters(optimizer, self._stepping.pop(), PARAMETER_VALUE)

    def optimizer_skipped(self, optimizer: Any, call: int) -> None:
        """A GradScaler has left out an optimizer's step."""
        self._read_parameters(optimizer, call, PARAMETER_GRADIENT)
        self._skipped = True

    def _read_parameters(self, optimizer: Any, call: int, kind: int) -> None:
        if not self._reads or call < 0:
            return
        buffer = self._context.buffers.current
        identity = buffer.number << THREAD_SHIFT | call
        with self._reading(buffer, len(buffer.calls) - 1) as hidden:
            for tensor in members_of(optimizer) if hidden.usable else ():
                number, name = self._owners.get(id(tensor), (-1, "?"))
                value = tensor.grad if kind == PARAMETER_GRADIENT else tensor
                if value is not None:
                    self.readings.read(kind, identity, number, name, value)

    def _reading(self, buffer: ThreadBuffer | None, depth: int = -1) -> _Costed:
        return _Costed(self, self._context, buffer, depth)

    def _halt(self, call: int, number: int, where: str = "") -> None:
        """Let the program go on with an exception, at the producer."""
        if self.nan is None or not self.nan.stop or self.nan.allows(number):
            return
        self._done = True
        name, class_name = self._context.registry.title_of(number)
        step = self._known_step
        self._end_step(step=step)
        when = "" if step is None else f"step {step}: "
        raise Halt(
            NonFiniteError(
                f"{when}the {where or 'output of '}{name or class_name} ({class_name}) is not finite"
            )
        )

    def tell_of_capture(self) -> None:
        """Something is not read as a graph is captured: that is said once."""
        if CAPTURED not in self.gaps:
            self.gaps.append(CAPTURED)

    # what has arrived -------------------------------------------------------------------------------------------

    def take(self, *, wait: bool = False) -> None:
        """Look at the ranges that have arrived."""
        with self.readings.lock:
            self._take(wait=wait)

    def _take(self, *, wait: bool) -> None:
        if not self.readings.unread_steps:
            return
        with self._reading(None) as hidden:
            steps = self.readings.arrived(wait=wait) if hidden.usable else []
        for arrived in steps:
            step, keeps, skipped = self._ended.popleft()
            readings = self._next_batch + [reading for reading in arrived if reading.call >= 0]
            readings.sort(key=attrgetter("order"))
            self._next_batch = _last_batch(readings)
            del readings[len(readings) - len(self._next_batch) :]
            self._judge(readings, step, keeps=keeps, skipped=skipped)

    def _judge(self, readings: list[Reading], step: int | None, *, keeps: bool, skipped: bool) -> None:
        """Find what is not finite in a step, and keep what is wanted of its ranges."""
        self._streak = self._streak + 1 if skipped else 0
        origin = None
        if self.nan is not None and self._reports < MANY_REPORTS:
            origin = judge(readings, self._history, skipped=self._streak, allowed=self.nan.allows)
            self._history.add(readings)
        if keeps:
            self._rows += readings
        elif origin is not None:
            self._rows += [reading for earlier in self._before for reading in earlier] + readings
            self._before.clear()
        elif self.nan is not None:
            self._before.append(readings)
        if origin is not None:
            called = [reading.source for reading in readings if reading.call == origin.reading.call]
            self._report(origin, step, next(filter(None, called), None))

    def _report(self, origin: Origin, step: int | None, called: tuple[str, int] | None) -> None:
        pin = self._pin.of(origin.reading.call) if self._pin is not None else None
        source = pin[1] if pin is not None else origin.reading.source or called
        self._origins.append((origin, pin[0] if pin is not None else None, source))
        self._reports += 1
        if origin.verdict == FAULT:
            self._done, self._reports = True, MANY_REPORTS
            self._judge_step()
            name, class_name = self._context.registry.title_of(max(origin.module, origin.reading.module))
            kind = VALUE_KINDS[origin.reading.kind].replace("_", " ")
            what = "NaN" if origin.reading.has_nan else "infinity"
            of = f" of {name or class_name}" if name or class_name else ""
            where = kind + of + (f" ({class_name})" if name and class_name else "")
            when = "" if step is None else f" in step {step}"
            with contextlib.suppress(Exception):  # it may be closed
                sys.stderr.write(f"modtrace: {what} began{when}: {plain(where, TEXT_LIMIT)}\n")

    def stop(self) -> None:
        """Recording ends: wait for what is on its way."""
        last = self._known_step
        self._end_step(step=last)
        self.take(wait=True)
        if self._next_batch:  # nothing has computed with it
            readings, self._next_batch = self._next_batch, []
            self._judge(readings, last, keeps=self._keeps, skipped=False)
        self.readings.close()
        if self.readings.unread_steps and UNREAD not in self.gaps:
            self.gaps.append(UNREAD)

    def value_rows(self) -> Mapping[str, list[Any]]:
        """New rows of `values`, as columns."""
        rows, self._rows = self._rows, []
        names = (
            "call",
            "at_ns",
            "kind",
            "path",
            "dtype",
            "elements",
            "minimum",
            "maximum",
            "norm",
            "hash",
            "reason",
        )
        columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in names}
        columns["path"] = [plain(row.path, TEXT_LIMIT) for row in rows]
        columns["module"] = [row.module if row.module >= 0 else None for row in rows]
        return columns

    def origin_rows(self) -> Mapping[str, list[Any]]:
        """New rows of `nonfinite`, as columns."""
        rows, self._origins = self._origins, []
        origins = [origin for origin, _, _ in rows]
        readings = [origin.reading for origin in origins]
        sources = [source for _, _, source in rows]
        return {
            "call": [reading.call for reading in readings],
            "at_ns": [reading.at_ns for reading in readings],
            "verdict": [origin.verdict for origin in origins],
            "kind": [reading.kind for reading in readings],
            "module": [_or_none(origin.module) for origin in origins],
            "path": [plain(reading.path, TEXT_LIMIT) for reading in readings],
            "is_nan": [reading.has_nan for reading in readings],
            "from_loader": [origin.from_loader for origin in origins],
            "became_nan": [_or_none(origin.became_nan) for origin in origins],
            "node": [origin.node for origin in origins],
            "operation": [operation for _, operation, _ in rows],
            "source_file": [source[0] if source is not None else None for source in sources],
            "source_line": [source[1] if source is not None else None for source in sources],
        }


def _last_batch(readings: list[Reading]) -> list[Reading]:
    """Readings of the batch that came after everything else in a step."""
    count = 0
    for reading in reversed(readings):
        if reading.kind != BATCH or reading.call != readings[-1].call:
            break
        count += 1
    return readings[len(readings) - count :]


def _or_none(number: int) -> int | None:
    return number if number >= 0 else None


def _is_faulty(extremes: tuple[Any, Any] | None) -> bool:
    """True for NaN or +inf. Waits for the device."""
    if extremes is None:
        return False
    return not math.isfinite(extremes[1].item())


def _modules_around(buffer: ThreadBuffer, calls: list[Any]) -> tuple[int, int]:
    """Ids of the innermost and the outermost module call of open ones; -1 for none."""
    inner = next((call[1] for call in reversed(calls) if call[2].kind == MODULE), -1)
    if inner < 0:
        return -1, -1
    outer = next(call[1] for call in calls if call[2].kind == MODULE)
    base = buffer.number << THREAD_SHIFT
    return base | inner, base | outer


class _Costed:
    """`Hidden`, with its time written down as ours."""

    def __init__(
        self, watch: ValueWatch, context: TraceContext, buffer: ThreadBuffer | None, depth: int
    ) -> None:
        self._watch, self._context, self._buffer, self._depth = watch, context, buffer, depth

    def __enter__(self) -> Hidden:
        self._started = self._context.clock()
        self._hidden = Hidden()
        if self._watch.readings.captures or self._hidden.captures:
            self._hidden.usable = False
            self._watch.tell_of_capture()
        return self._hidden.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hidden.__exit__(*error)
        spent = self._context.clock() - self._started
        self._watch.spent_ns += spent
        if self._buffer is not None:
            self._buffer.cost(self._depth, spent)
