"""Tells recorders what happens: for each event a tuple of callables, empty where nobody wants to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.engine.event_names import EVENTS
from modtrace.capture.engine.recursion_limit import check_room

Handler = Callable[..., Any]
_OF_CALLS: Final = (
    "call_began", "call_ended", "module_backward_began", "module_backward_ended", "gradients_arrived",
)  # fmt: skip
"""Told of every call, so that looking for room is too dear: the call is not recorded where there is none."""


class Halt(BaseException):
    """Raised by a handler to let the program go on with an exception of its own, at the place of the event.

    error: that exception.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Listener(Protocol):
    """A recorder, as events know it."""

    @property
    def name(self) -> str: ...


class Events:
    """The events of one trace. Each attribute named as in EVENTS is what is called when that happens.

    Args:
        take_off: called with a recorder and its exception when a handler of it has failed.
    """

    __slots__ = (*EVENTS, "_handlers", "_take_off", "missed")

    module_entered: tuple[Handler, ...]
    signature_seen: tuple[Handler, ...]
    root_began: tuple[Handler, ...]
    call_began: tuple[Handler, ...]
    call_ended: tuple[Handler, ...]
    batch_loaded: tuple[Handler, ...]
    phase_began: tuple[Handler, ...]
    phase_ended: tuple[Handler, ...]
    backward_requested: tuple[Handler, ...]
    backward_opened: tuple[Handler, ...]
    backward_paths: tuple[Handler, ...]
    backward_began: tuple[Handler, ...]
    gradients_arrived: tuple[Handler, ...]
    backward_ended: tuple[Handler, ...]
    backward_closed: tuple[Handler, ...]
    module_backward_began: tuple[Handler, ...]
    module_backward_ended: tuple[Handler, ...]
    call_taken_back: tuple[Handler, ...]
    optimizer_began: tuple[Handler, ...]
    optimizer_stepped: tuple[Handler, ...]
    optimizer_ended: tuple[Handler, ...]
    optimizer_skipped: tuple[Handler, ...]
    step_marked: tuple[Handler, ...]
    step_ended: tuple[Handler, ...]
    blocks_decoded: tuple[Handler, ...]

    def __init__(self, take_off: Callable[[Listener, BaseException], None]) -> None:
        self._take_off = take_off
        self.missed = 0
        """Calls without a row or times, and handlers not called, because python's limit of recursion was met."""
        self._handlers: list[tuple[Listener, str, Handler]] = []
        for name in EVENTS:
            setattr(self, name, ())

    def add(self, recorder: Listener, **handlers: Handler) -> None:
        """Tell a recorder of these events from now on."""
        for name, handler in handlers.items():
            if name not in EVENTS:
                raise ValueError(f"{recorder.name}: there is no event {name}")
            guarded = self._of_call if name in _OF_CALLS else self.guarded
            self._handlers.append((recorder, name, guarded(recorder, handler)))
            self._gather(name)

    def remove(self, recorder: Listener, *names: str) -> None:
        """Tell a recorder of these events no more; of none, where no name is given."""
        chosen = names or EVENTS
        self._handlers = [
            entry for entry in self._handlers if entry[0] is not recorder or entry[1] not in chosen
        ]
        for name in chosen:
            self._gather(name)

    def guarded(self, recorder: Listener, handler: Handler) -> Handler:
        """The handler, out of the compiler's sight; when it fails its recorder is taken off and None is returned.

        Next to python's limit of recursion it is not called, so that nothing is left half done.
        """

        def told(*args: Any, **kwargs: Any) -> Any:
            try:
                check_room()
            except RecursionError:
                self.missed += 1
                return None
            try:
                return handler(*args, **kwargs)
            except Halt:
                raise
            except Exception as fault:
                self._take_off(recorder, fault)
                return None

        unseen(told)
        return told

    def _of_call(self, recorder: Listener, handler: Handler) -> Handler:
        """As `guarded`, for what is told of every call; a `RecursionError` costs that call alone."""

        def told(*args: Any, **kwargs: Any) -> Any:
            try:
                return handler(*args, **kwargs)
            except (Halt, RecursionError):
                raise
            except Exception as fault:
                self._take_off(recorder, fault)
                return None

        unseen(told)
        return told

    def _gather(self, name: str) -> None:
        setattr(self, name, tuple(handler for _, event, handler in self._handlers if event == name))
