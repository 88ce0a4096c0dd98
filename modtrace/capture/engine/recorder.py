"""Protocol of recorders: a recorder is a part of the tracer that is switched on by itself and writes its own tables.

A recorder declares its name, the option it is asked for with and its tables, and has a method for each event that it
wants to be told of. The tracer does the rest: it starts and stops it, hides it while torch compiles, writes its rows,
adds up its cost, and takes it off when it fails, with a gap; everything else is recorded on.

Nothing here imports torch: `modtrace run` reads the options before the script starts. A recorder imports what it needs
of torch in `start`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from modtrace.capture.engine.event_names import EVENTS
from modtrace.trace.schema import Column

if TYPE_CHECKING:
    from modtrace.capture.engine.context import TraceContext

Rows = Mapping[str, list[Any]]
"""Columns of new rows of one table, by name."""


@dataclass(frozen=True)
class RecorderOption:
    """The option by which a recorder is asked for.

    argument: its name in `modtrace.trace()`.
    flag: the option of `modtrace run`; its mirror in the environment is named after it.
    value: how help calls its value (`STEPS`); None for a switch.
    default: of the argument, which a switch on the command line turns into the contrary.
    help: its line in `modtrace run --help`.
    doc: its sentence in the docstring of `modtrace.trace()`.
    check: raises UsageError for a value that makes no sense.
    repeated: it can be given several times: the value has a line each.
    """

    argument: str
    flag: str
    value: str | None
    default: bool | str | None
    help: str
    doc: str
    check: Callable[[str], object] | None = None
    repeated: bool = False


class Recorder:
    """One recorder of one trace. A subclass overrides what it needs.

    Args:
        context: what it shares with the tracer: clock, thread buffers, modules, signatures.
        value: what its option was given; True or None for one without an option.
    """

    name: ClassVar[str]
    """The same in options, gaps, costs and docs."""
    tables: ClassVar[tuple[str, ...]] = ()
    """Names of the tables it writes, as in trace/schema.py."""
    new_tables: ClassVar[Mapping[str, tuple[Column, ...]]] = {}
    """Columns of tables that stand in no schema yet: of a recorder outside of modtrace."""
    option: ClassVar[RecorderOption | None] = None
    """None: it always runs."""
    further_options: ClassVar[tuple[RecorderOption, ...]] = ()
    """Options that say more of how it records; their values are `further`, by argument."""
    order: ClassVar[int] = 50
    """Recorders start, hand out rows and stop in this order."""
    may_pause: ClassVar[bool] = False
    """It may let the program wait for a person: the clock of such a trace stands still meanwhile."""
    lost: ClassVar[str] = ""
    """Text of the gap after a fault: `{lost} from here on`."""

    def __init__(self, context: TraceContext, value: bool | str | None) -> None:
        self.context = context
        self.value = value
        self.further: Mapping[str, bool | str | None] = {}
        self.gaps: list[str] = []

    @classmethod
    def is_asked(cls, value: bool | str | None) -> bool:
        """True if the value of its option asks for it."""
        return value is not None and value is not False and value != ""

    @classmethod
    def is_implied(cls, further: Mapping[str, bool | str | None]) -> bool:
        """True if the values of its further options ask for it."""
        return False

    # life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Recording begins; hooks are not in place yet."""

    def install(self) -> None:
        """The hooks of modules are in place: put others in place."""

    def stop(self) -> None:
        """Recording ends, or this recorder has failed: take everything away. May be called twice."""

    def remove(self) -> None:
        """Take away what stands in the program, before anything is written for the last time. May be called often."""

    def stop_at_fault(self) -> None:
        """Recording ends because of a fault, in the middle of the program: take off at once what a call would meet."""

    def hide(self) -> None:
        """torch begins to compile: record nothing, and have nothing in place that a graph is guarded on."""

    def show(self) -> None:
        """It has ended."""

    def read(self) -> None:
        """A block is about to be written, on a thread of the program: read what devices have come to."""

    def look(self) -> None:
        """Called every quarter of a second, on a thread that is not the program's."""

    def rows(self) -> list[tuple[str, Rows]]:
        """(table, columns) of rows that are new since the last call."""
        return []

    def latest_rows(self) -> list[tuple[str, Rows]]:
        """(table, columns) of rows that take the place of those that this method has handed out before."""
        return []

    @property
    def has_rows(self) -> bool:
        """True if `rows` would hand out any."""
        return False

    @property
    def has_news(self) -> bool:
        """True if its rows are to be written although no call has begun or ended."""
        return False

    @property
    def goes_on(self) -> bool:
        """True if it goes on where single calls have reached their limit."""
        return False

    @property
    def cost_ns(self) -> int:
        """Nanoseconds that it has cost so far, inside of calls and outside."""
        return 0

    @property
    def call_cost_ns(self) -> int:
        """Nanoseconds that each module call costs more because of it, outside of the call's measured time."""
        return 0

    @property
    def stands_in(self) -> bool:
        """True if frames of ours may stand between the program's in a traceback now."""
        return False

    def owns_error(self, error: BaseException) -> bool:
        """True if an exception may have left a call without leaving a frame in its traceback."""
        return False

    def events(self) -> Mapping[str, Callable[..., Any]]:
        """Handlers by the name of the event: its methods of those names."""
        cls, base = type(self), Recorder
        return {name: getattr(self, name) for name in EVENTS if getattr(cls, name) is not getattr(base, name)}

    # events: arguments as written here ------------------------------------------------------------------------------

    def module_entered(self, number: int, module: Any) -> None:
        """A module was seen for the first time; its number in the trace."""

    def signature_seen(self, number: int, key: Any) -> None:
        """A signature was seen for the first time: its number, and its structure with dtypes, devices and shapes."""

    def root_began(self, buffer: Any, module: Any, entry: Any, args: int, mode: int, frame: Any) -> int:
        """A root call is about to begin.

        Args:
            buffer: the thread buffer.
            module: the module.
            entry: what is known of it.
            args: signature of the positional arguments.
            mode: bits of `calls.mode`, in their place.
            frame: that of `_call_impl`, which knows the keyword arguments.

        Returns:
            More bits of `calls.mode`, in their place; 0 for none.
        """
        raise NotImplementedError

    def call_began(
        self, buffer: Any, call: int, args_sig: int, number: int, module: Any, args: Any, frame: Any
    ) -> None:
        """A module call is about to begin.

        Args:
            buffer: the thread buffer.
            call: its number in the thread.
            args_sig: signature of the positional arguments.
            number: of the module.
            module: the module.
            args: its positional arguments.
            frame: the one that runs the call, with the keyword arguments as `kwargs` among its locals.
        """

    def call_ended(
        self,
        buffer: Any,
        call: int,
        number: int,
        kwargs_sig: int,
        output_sig: int,
        module: Any,
        args: Any,
        kwargs: Any,
        output: Any,
    ) -> None:
        """A module call has returned and is still open in the buffer: signatures of its keyword arguments and output,
        and these themselves. One that raised is not told; `buffer.await_close` tells of any end.
        """

    def batch_loaded(self, buffer: Any, call: int, batch: Any) -> None:
        """A DataLoader has handed out a batch: the thread buffer, the number of the wait for it (below 0 for none)."""

    def phase_began(self, buffer: Any, call: int, entry: Any) -> None:
        """A phase or a span is about to begin; not one in which the host waits for data."""

    def phase_ended(self, buffer: Any, call: int, entry: Any, error: BaseException | None) -> None:
        """A phase or a span has ended and is still open in the buffer."""

    def backward_requested(self) -> None:
        """The program has called backward."""

    def backward_opened(self, buffer: Any, call: int, outputs: Any) -> None:
        """The row of a backward is open; the engine is about to run on this thread, from these tensors."""

    def backward_began(self, graph: Any) -> None:
        """It is about to run over a graph whose nodes are known to be of module calls: a `BackwardGraph`."""

    def backward_paths(self, watch: Any, nodes: Any, paths: Any) -> Any:
        """The calls around each node of that graph, which may be longer by rows of the recorder's own."""

    def gradients_arrived(
        self, buffer: Any, call: int, forward: int, number: int, node: int, gradients: Any
    ) -> None:
        """A node is about to run that belongs to another module call than the one before.

        Args:
            buffer: the thread buffer of the backward.
            call: the number of the innermost row that is open there.
            forward: id of the call that made the node; below 0 for one made outside of any.
            number: of its module; below 0 likewise.
            node: autograd's number of the node.
            gradients: a tuple of tensors and None, by the node's outputs.
        """

    def backward_ended(self, buffer: Any, call: int, error: BaseException | None) -> None:
        """The engine has returned, or raised; rows of modules are still open."""

    def backward_closed(self) -> None:
        """The row of a backward is closed; it did not raise."""

    def module_backward_began(self, buffer: Any, call: int, number: int) -> None:
        """The backward of a module's call is about to begin."""

    def module_backward_ended(self, buffer: Any, call: int) -> None:
        """It has ended, and did not raise."""

    def call_taken_back(self, buffer: Any, call: int) -> None:
        """A call that had been opened, and those in it, are taken back: nothing has run in them."""

    def optimizer_began(self, optimizer: Any, call: int) -> None:
        """An optimizer is about to step; the number of its phase, below 0 where that is no row."""

    def optimizer_stepped(self, optimizer: Any) -> None:
        """An optimizer has stepped; its phase is open still."""

    def optimizer_ended(self, optimizer: Any, number: int, end_ns: int) -> None:
        """An optimizer has stepped inside of no other's step: its number among optimizers, and the clock."""

    def optimizer_skipped(self, optimizer: Any, call: int) -> None:
        """A GradScaler has left out an optimizer's step: gradients were not finite. The number of its phase."""

    def step_marked(self, end_ns: int) -> None:
        """The program says that a step ends."""

    def step_ended(self, step: int) -> None:
        """The step in progress has got this number: those below it are over."""

    def blocks_decoded(self, blocks: Any, at_ns: int) -> None:
        """Blocks of all thread buffers are about to be written: pairs of (number of the buffer, `DecodedCalls`), and
        when they began to be taken, nanoseconds since the start of recording.
        """
