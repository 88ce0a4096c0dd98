"""Ranges of tensors: one reduction a tensor into a buffer on its device, read back when a step is over.

No reading waits for a device: what a step has written is copied to the host asynchronously, and is handed out when that
copy has ended. Reductions run without autograd and out of sight of modes, and draw no random numbers. While a graph is
captured, on any thread, nothing is read, copied or asked.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch

from modtrace.capture.engine.context import TraceContext
from modtrace.capture.mechanisms.content_hash import ContentHash
from modtrace.capture.mechanisms.graph_captures import Captures
from modtrace.capture.mechanisms.value_tensors import EMPTY, as_real, elements_of, is_floating, why_unread
from modtrace.capture.torch_private.contexts import without_dispatch, without_functions
from modtrace.capture.torch_private.names import current_level

SLOTS: Final = 512
"""Tensors that one buffer has room for."""
MANY_REASONS: Final = 1_000
"""Places that were not read of which one is told."""


class Reading(NamedTuple):
    """The range of one tensor: a row of `values`.

    order: counts the readings of a trace in the order in which the tensors came to be.
    call, module, path, kind, dtype, elements, at_ns: as in the schema; module is -1 for none.
    parent, root: ids of the innermost and the outermost module call around it, -1 for none.
    minimum, maximum, norm, hash: None where it was not read, or not asked for.
    reason: why it was not.
    source: (file, line) of the program's code that makes the call; None where that is not asked.
    nodes: of a gradient: (module, name of autograd's function) of what made it.
    """

    order: int
    kind: int
    call: int
    parent: int
    root: int
    module: int
    path: str
    dtype: str
    elements: int | None
    at_ns: int
    minimum: float | None = None
    maximum: float | None = None
    norm: float | None = None
    hash: int | None = None
    reason: str | None = None
    source: tuple[str, int] | None = None
    nodes: tuple[tuple[int, str], ...] = ()

    @property
    def has_nan(self) -> bool:
        """True if an element is NaN."""
        return self.minimum is not None and math.isnan(self.minimum)

    @property
    def is_finite(self) -> bool:
        """True if every element is finite; also where it was not read."""
        return self.minimum is None or (math.isfinite(self.minimum) and math.isfinite(self.maximum or 0.0))


class _Buffer:
    """Room for the ranges of tensors like one, of one type on one device and stream; if `hashed`, for hashes too."""

    def __init__(self, tensor: Any, stream: Any, *, hashed: bool) -> None:
        self.values = tensor.new_empty((SLOTS, 2))
        self.slots: list[tuple[Any, Any]] = [(row[0], row[1]) for row in self.values]
        wide = (
            torch.float64 if tensor.dtype is torch.float64 else torch.float32
        )  # squares of half precision need the room
        self.norms = tensor.new_empty(SLOTS, dtype=wide)
        self.norm_slots = self.norms.unbind()
        self.hashes = tensor.new_empty(SLOTS if hashed else 0, dtype=torch.int64)
        self.hash_slots = self.hashes.unbind()
        self.stream = stream
        self.taken = 0

    def numbers(self) -> Callable[[], list[list[Any]] | None]:
        """(minimum, maximum, norm, hash) on the host: a function that returns None until they have arrived."""
        parts = [part[: self.taken] for part in (self.values, self.norms, self.hashes) if len(part)]
        if self.stream is None:
            numbers = _rows(*parts)
            return lambda: numbers
        cuda: Any = torch.cuda
        hosts = [pinned_like(part) for part in parts]
        done: Any = cuda.Event()
        with torch.cuda.stream(self.stream):
            for host, part in zip(hosts, parts, strict=True):
                host.copy_(part, non_blocking=True)
            done.record(self.stream)
        return lambda: _rows(*hosts) if done.query() else None

    def wait(self) -> None:
        """Wait until all has arrived: recording has ended."""
        if self.stream is not None:
            self.stream.synchronize()


def pinned_like(tensor: Any) -> Any:
    """Room on the host that a device writes into by itself, for a tensor's elements."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)


def _rows(values: Any, norms: Any, hashes: Any = None) -> list[list[Any]]:
    contents = hashes.tolist() if hashes is not None else [None] * len(values)
    rows = zip(values.tolist(), norms.tolist(), contents, strict=True)
    return [[*pair, norm, content] for pair, norm, content in rows]


class _Batch:
    """The readings of one step: their numbers arrive together.

    `arrivals` gives them by the ids of buffers; None where they are not on their way, as a graph was being captured.
    """

    def __init__(self, readings: list[tuple[Reading, _Buffer | None, int]]) -> None:
        self.readings = readings
        self.buffers = {id(buffer): buffer for _, buffer, _ in readings if buffer is not None}
        self.arrivals: dict[int, Callable[[], list[list[Any]] | None]] | None = None

    def send(self) -> dict[int, Callable[[], list[list[Any]] | None]]:
        """Have the numbers copied to the host."""
        if self.arrivals is None:
            self.arrivals = {key: buffer.numbers() for key, buffer in self.buffers.items()}
        return self.arrivals


class ValueReadings:
    """Readings of one trace. Methods may be called on any thread of the program.

    Args:
        context: of the trace.
        norm: the 2-norm is asked for too.
    """

    def __init__(self, context: TraceContext, *, norm: bool = False) -> None:
        self.spent_ns = 0
        self.norm = norm
        self.hash: ContentHash | None = None
        """Hashes are asked for too."""
        self._context = context
        self._open: dict[Any, _Buffer] = {}
        self._free: dict[Any, list[_Buffer]] = {}
        self._pending: list[tuple[Reading, _Buffer | None, int]] = []
        self._order = 0
        self._batches: deque[_Batch] = deque()
        self._told: set[tuple[int, int, str, str]] = set()
        self._captures = Captures()
        self._captures_watched = False
        self.lock = threading.RLock()
        """Held while a tensor is reduced and while a step ends. A signal's handler may call modules meanwhile."""

    def close(self) -> None:
        """Nothing is read any more."""
        self._captures.close()

    @property
    def captures(self) -> bool:
        """True if any thread captures a graph by torch's own means."""
        return self._captures.under_way

    def read(
        self,
        kind: int,
        call: int,
        module: int,
        path: str,
        tensor: Any,
        *,
        parent: int = -1,
        root: int = -1,
        source: tuple[str, int] | None = None,
        nodes: tuple[tuple[int, str], ...] = (),
    ) -> tuple[Any, Any] | None:
        """Reduce one tensor, where it is of floating point numbers; the extremes on its device, None where not.

        Called within `Hidden`.
        """
        if not is_floating(tensor):
            return None
        dtype, reason = str(tensor.dtype).removeprefix("torch."), why_unread(tensor)
        if reason == EMPTY or (reason is not None and self._is_told(kind, module, path, reason)):
            return None
        with self.lock:
            buffer, slot = (None, 0) if reason is not None else self._reduced(tensor)
            self._order += 1
            at_ns = self._context.clock() - self._context.origin_ns
            reading = Reading(
                self._order, kind, call, parent, root, module, path, dtype, elements_of(tensor), at_ns, reason=reason,
                source=source, nodes=nodes,
            )  # fmt: skip
            self._pending.append((reading, buffer, slot))
        return None if buffer is None else buffer.slots[slot]

    def _reduced(self, tensor: Any) -> tuple[_Buffer, int]:
        """Buffer and slot with the extremes of a tensor."""
        real = as_real(tensor)
        buffer, slot = self._slot(real)
        torch.aminmax(real, out=buffer.slots[slot])
        if self.norm:
            norm = buffer.norm_slots[slot]
            torch.linalg.vector_norm(real, dtype=norm.dtype, out=norm)
        if self.hash is not None:
            self.hash.into(tensor, buffer.hash_slots[slot])
        return buffer, slot

    @property
    def waiting(self) -> int:
        """Readings since the end of the last step."""
        return len(self._pending)

    @property
    def unread_steps(self) -> int:
        """Steps that have ended and whose ranges have not arrived."""
        return len(self._batches)

    def _is_told(self, kind: int, module: int, path: str, reason: str) -> bool:
        key = (kind, module, path, reason)
        if key in self._told or len(self._told) >= MANY_REASONS:
            return True
        self._told.add(key)
        return False

    def _slot(self, tensor: Any) -> tuple[_Buffer, int]:
        device, stream = tensor.device, None
        if device.type == "cuda":
            if not self._captures_watched:
                self._captures_watched = True
                self._captures.watch(self.lock)
            stream = torch.cuda.current_stream(device)
        key = (tensor.dtype, device, None if stream is None else stream.cuda_stream)
        buffer = self._open.get(key)
        if buffer is None or buffer.taken >= SLOTS:
            free = self._free.get(key)
            # A normal tensor, whatever mode the program is in.
            with torch.inference_mode(mode=False):
                buffer = free.pop() if free else _Buffer(tensor, stream, hashed=self.hash is not None)
            self._open[key] = buffer
        slot = buffer.taken
        buffer.taken = slot + 1
        return buffer, slot

    def end_step(self, *, send: bool) -> None:
        """The step is over: its ranges are on their way, or may not be asked for now. Within `Hidden`, `lock` held."""
        batch = _Batch(self._pending)
        self._pending, self._open = [], {}
        self._batches.append(batch)
        if send:
            batch.send()

    def arrived(self, *, wait: bool = False) -> list[list[Reading]]:
        """Readings of the steps whose ranges have arrived, step by step. Within `Hidden`, `lock` held."""
        steps: list[list[Reading]] = []
        while self._batches:
            batch = self._batches[0]
            arrivals = batch.send()
            for buffer in batch.buffers.values() if wait else ():
                buffer.wait()
            numbers = {key: arrival() for key, arrival in arrivals.items()}
            if any(values is None for values in numbers.values()):
                break
            self._batches.popleft()
            steps.append([_with_numbers(*entry, numbers, norm=self.norm) for entry in batch.readings])
            for buffer in batch.buffers.values():
                buffer.taken = 0
                key = (
                    buffer.values.dtype,
                    buffer.values.device,
                    None if buffer.stream is None else buffer.stream.cuda_stream,
                )
                self._free.setdefault(key, []).append(buffer)
        return steps


def _with_numbers(
    reading: Reading, buffer: _Buffer | None, slot: int, numbers: dict[int, Any], *, norm: bool
) -> Reading:
    if buffer is None:
        return reading
    least, most, length, content = numbers[id(buffer)][slot]
    return reading._replace(minimum=least, maximum=most, norm=length if norm else None, hash=content)


def is_capturing() -> bool:
    """True if the stream in use is captured into a graph. Nothing is asked before the program uses a device."""
    cuda: Any = torch.cuda
    return bool(cuda.is_initialized() and cuda.is_current_stream_capturing())


class Hidden:
    """Readings run inside: without autograd, out of sight of the program's modes and of classes of tensors.

    usable: False where torch transforms functions (vmap, grad of torch.func), as tensors have no values of their own,
        and where the stream in use is captured, which `captures` says.
    """

    def __init__(self) -> None:
        self.captures = is_capturing()
        self.usable = not self.captures and current_level() is None

    def __enter__(self) -> Hidden:
        self._functions, self._dispatch = without_functions(), without_dispatch()
        self._functions.__enter__()
        try:
            self._dispatch.__enter__()
            try:
                self._grad = torch.is_grad_enabled()
                if self._grad:
                    torch.set_grad_enabled(False)  # python: fails next to the limit of recursion
            except BaseException:
                self._dispatch.__exit__(None, None, None)
                raise
        except BaseException:
            self._functions.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._grad:
                torch.set_grad_enabled(True)
        finally:
            try:
                self._dispatch.__exit__(*error)
            finally:
                self._functions.__exit__(*error)
