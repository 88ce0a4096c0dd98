"""The operation in a module's forward whose result is not finite: that forward is run once more and looked at.

It runs with the random numbers, buffers and arguments that it had, without autograd, and unrecorded. A forward that has
changed its arguments in place is not run again, nor one of which that is not known.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Final

import torch
from torch.overrides import TorchFunctionMode, resolve_name

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.module_facts import raw
from modtrace.capture.engine.program_lines import program_line
from modtrace.capture.engine.thread_buffer import ThreadBuffer
from modtrace.capture.mechanisms.value_readings import Hidden
from modtrace.capture.mechanisms.value_tensors import as_real, is_floating, tensors_of, why_unread
from modtrace.capture.torch_private.names import version_of

MANY_PINS: Final = 8

Pin = tuple[str, tuple[str, int] | None]
"""Name of the operation, and (file, line) of the program's code that runs it."""


class _Before:
    """State when a call began: random generators, and versions of the tensors it was given; None for unknown."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        self.generators = _generators()
        self.versions = _versions(args, kwargs)


def _generators() -> list[tuple[Any, Any]]:
    """(generator, state) of the default generators."""
    generators = [torch.default_generator]
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        generators += list(cuda.default_generators)
    return [(generator, generator.get_state()) for generator in generators]


def _versions(args: Any, kwargs: Any) -> list[int] | None:
    """Number of changes in place of each tensor; None where torch does not count, as in inference mode."""
    tensors = [tensor for _, tensor in tensors_of((args, kwargs))]
    if version_of is None or any(tensor.is_inference() for tensor in tensors):
        return None
    return [version_of.__get__(tensor) for tensor in tensors]


class OperationPin:
    """Pins of one trace: told of every call, so that it can be run again."""

    def __init__(self, context: TraceContext) -> None:
        self._context = context
        self._before: dict[int, _Before] = {}
        self._pins: dict[int, Pin | None] = {}

    def of(self, call: int) -> Pin | None:
        """The operation in a call; None where it is not known."""
        return self._pins.get(call)

    def call_began(self, buffer: ThreadBuffer, call: int, args: Any, kwargs: Any) -> None:
        """A call is about to begin."""
        self._before[call] = _Before(args, kwargs)
        # One that raises, or is left otherwise, has no end that is told of.
        buffer.await_close(len(buffer.calls), lambda *_: self._forget(call))

    def _forget(self, call: int) -> None:
        self._before.pop(call, None)

    def call_ended(self, call: int, module: Any, args: Any, kwargs: Any, *, faulty: bool) -> None:
        """It has returned; `faulty` is True where its output is not finite."""
        before = self._before.pop(call, None)
        if not faulty or before is None or len(self._pins) >= MANY_PINS:
            return
        self._pins[call] = None
        if before.versions is not None and before.versions == _versions(args, kwargs):
            self._pins[call] = self._run(module, args, kwargs, before)

    def _run(self, module: Any, args: Any, kwargs: Any, before: _Before) -> Pin | None:
        context, now = self._context, _generators()
        buffers = [(tensor, tensor.clone()) for tensor in _buffers(module)]
        watch = _Watch()
        was_off, context.off = context.off, True
        try:
            for generator, state in before.generators:
                generator.set_state(state)
            with torch.no_grad(), watch:
                module.forward(*args, **kwargs)
        except _Seen:
            pass
        except Exception:  # it does not run twice
            return None
        finally:
            context.off = was_off
            for generator, state in now:
                generator.set_state(state)
            with torch.no_grad():
                for tensor, value in buffers:
                    tensor.copy_(value)
        return watch.pin


def _buffers(module: Any) -> list[torch.Tensor]:
    return [
        buffer
        for part in torch.nn.Module.modules(module)
        for buffer in raw(part).get("_buffers", {}).values()
        if isinstance(buffer, torch.Tensor)
    ]


class _Seen(Exception):
    """The operation has been met."""


class _Watch(TorchFunctionMode):
    """Looks at the result of each operation until one is not finite."""

    pin: Pin | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if _is_nonfinite(result) and not _is_nonfinite((args, tuple((kwargs or {}).values()))):
            name = resolve_name(function) or getattr(function, "__name__", "?")
            self.pin = name.removeprefix("torch."), program_line(sys._getframe(1))
            raise _Seen
        return result


def _is_nonfinite(value: Any) -> bool:
    with Hidden():
        for _, tensor in tensors_of(value):
            if is_floating(tensor) and why_unread(tensor) is None:
                least, most = torch.aminmax(as_real(tensor))
                if not (math.isfinite(least.item()) and math.isfinite(most.item())):
                    return True
    return False
