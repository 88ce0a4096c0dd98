"""Recomputation by checkpoints in a backward: a row `recompute` below the backward of the call that asked for it.

torch tells nobody that a checkpoint computes again: that happens when the first saved tensor is unpacked, in the middle
of the backward of whatever module that tensor belongs to. So three names of `torch.utils.checkpoint` are replaced while
recording: the two sets of saved-tensor hooks that a checkpoint without reentry puts in place, in forward and when it
computes again, and what one with reentry does to its inputs before. Each calls the original and has returned before
anything of the program runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.utils.checkpoint

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.dynamo_skip import unseen
from modtrace.capture.torch_private.names import checkpoint_hook, recomputation_hook

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class CheckpointPlace(NamedTuple):
    """Place in forward where a checkpoint was made: the thread buffer, the innermost open call of it (-1 for none) and
    the number that the next node of autograd's graph had.
    """

    buffer: int
    call: int
    node: int


class Recomputing:
    """Tells the backward that runs when a checkpoint begins and ends to compute again. Nothing here raises."""

    def __init__(self, context: TraceContext, idle: Callable[[], bool]) -> None:
        self._context = context
        self._idle = idle
        self._places: weakref.WeakKeyDictionary[Any, CheckpointPlace] = weakref.WeakKeyDictionary()

    def replacements(self) -> Iterator[tuple[Any, str, Wrap]]:
        """(module, name, what makes a replacement) of what is replaced."""
        if checkpoint_hook is not None:
            yield *checkpoint_hook, self._making
        if recomputation_hook is not None:
            yield *recomputation_hook, self._recomputing
        yield torch.utils.checkpoint, "detach_variable", self._detaching

    def _making(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A checkpoint is made, in forward."""

        def making(frame: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._idle():
                self._note(frame)
            return original(frame, *args, **kwargs)

        return making

    def _recomputing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A checkpoint without reentry computes again while these hooks are in place."""

        def recomputing(frame: Any, *args: Any, **kwargs: Any) -> Any:
            hook = original(frame, *args, **kwargs)
            return hook if self._idle() else _Noted(hook, self, frame)

        return recomputing

    def _detaching(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A checkpoint with reentry computes again from here to the backward inside its backward."""

        def detach_variable(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not self._idle():
                self.begin(None, reentrant=True)
            return result

        return detach_variable

    def _note(self, frame: Any) -> None:
        try:
            buffer = self._context.buffers.current
            call = buffer.calls[-1][1] if buffer.calls else -1
            self._places[frame] = CheckpointPlace(buffer.number, call, self._context.next_node())
        except Exception as fault:
            self._context.fault(fault)

    def place_of(self, frame: Any) -> CheckpointPlace | None:
        """Where a checkpoint was made, by a weak reference to what torch keeps of it."""
        try:
            return self._places.get(frame())
        except TypeError:  # another torch
            return None

    def begin(self, place: CheckpointPlace | None, *, reentrant: bool = False) -> Any:
        """A checkpoint computes again; the backward that it does so in, None where there is none."""
        watch = self._context.buffers.current.watch
        if watch is not None:
            watch.recompute_begins(place, reentrant=reentrant)
        return watch


class _Noted:
    """Hooks of saved tensors, as a `with` statement takes them, that tell when they are put in place and taken away."""

    __slots__ = ("_frame", "_hook", "_recomputing", "_watch")

    def __init__(self, hook: Any, recomputing: Recomputing, frame: Any) -> None:
        self._hook = hook
        self._recomputing = recomputing
        self._frame = frame
        self._watch: Any = None

    def __enter__(self) -> Any:
        self._watch = self._recomputing.begin(self._recomputing.place_of(self._frame))
        return self._hook.__enter__()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Any:
        try:
            return self._hook.__exit__(error_type, error, traceback)
        finally:
            if self._watch is not None:
                self._watch.recompute_ends(error)


unseen(Recomputing._note, Recomputing.begin, _Noted.__enter__, _Noted.__exit__)
