"""The devices: their streams, events and captures of graphs, and what may be asked of them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter

import numpy as np
import torch

import modtrace

OWN = os.path.dirname(modtrace.__file__)
PLAYED = os.path.dirname(__file__)
BETWEEN = tuple(os.path.join(os.path.dirname(torch.__file__), name) for name in ("cuda", "accelerator"))
NS_PER_MS = 1_000_000
STREAM_HANDLES = 0x7F00_0000_0000


class Device:
    """One device. `context` says whether the driver has made one on it."""

    def __init__(self, index):
        self.index = index
        self.context = False
        self.streams = {0: Queue(self, 0)}

    def queue(self, number):
        return self.streams.setdefault(number, Queue(self, number))


class Queue:
    """A stream as the device sees it. `tail` is when it will be done; `passed` how far it is, None for all of it."""

    def __init__(self, device, number):
        self.device, self.number = device, number
        self.tail = 0
        self.passed = None
        self.graph = None

    @property
    def handle(self):
        """The default stream of every device is 0."""
        return 0 if self.number == 0 else STREAM_HANDLES + (self.device.index << 32) + (self.number << 8)


class Gpu:
    """The devices of one process, and what the program and the recorder have done to them."""

    def __init__(self, devices, home, drift_ppm, follows_host):
        self.devices = [Device(index) for index in range(devices)]
        self.devices[home].context = True
        self.home = home
        self.drift = 1 + drift_ppm / 1e6
        self.follows_host = follows_host
        self.illegal = []
        self.calls = Counter()
        self.may_sync = False
        """Whether the recorder may wait for a device now."""
        self.on_record = None
        """Called by each `record` after it has let go of the interpreter's lock."""
        self.broken = {}
        """Errors that functions raise from now on, by their names."""
        self.keeps_metadata = True
        """Whether histories carry texts: those of other allocators than torch's own do not."""
        self.history_clock_us = lambda: time.time_ns() // 1_000
        """The clock of entries of histories."""
        self.captures = {}
        self._local = threading.local()
        self._made_streams = 0
        self._lock = threading.RLock()

    # what the test says ---------------------------------------------------------------------------------------------

    def work(self, nanoseconds, stream=None):
        """Give the stream in use some work."""
        queue = self.queue_of(stream) if stream is not None else self.queue()
        queue.device.context = True
        if queue.graph is not None:
            queue.graph.nanoseconds += nanoseconds
            return
        self._catch_up(queue)
        queue.tail += nanoseconds

    def hold(self, stream=None):
        """The device does not come further on a stream than it is, until it is let go."""
        queue = self.queue_of(stream) if stream is not None else self.queue()
        queue.passed = queue.tail

    def let_go(self, stream=None):
        queue = self.queue_of(stream) if stream is not None else self.queue()
        queue.passed = None

    def wait(self):
        """As `torch.cuda.synchronize` of the program's, for all devices."""
        for device in self.devices:
            for queue in list(device.streams.values()):
                if queue.passed is not None:
                    queue.passed = queue.tail

    @property
    def contexts(self):
        """The devices on which the driver has made a context."""
        return [device.index for device in self.devices if device.context]

    # what the played functions use ----------------------------------------------------------------------------------

    def queue_of(self, stream):
        return self.devices[max(int(stream.device_index), 0)].queue(int(stream.stream_id))

    def queue(self, device=None):
        """The stream in use on this thread."""
        device = self.current_device if device is None or device < 0 else device
        return self.devices[device].queue(self._streams().get(device, 0))

    def use(self, device, number):
        self._streams()[device] = number

    @property
    def metadata(self):
        """The text of this thread that entries of the allocators' histories carry: one a thread, as in torch."""
        return getattr(self._local, "metadata", "")

    @metadata.setter
    def metadata(self, text):
        self._local.metadata = text

    @property
    def current_device(self):
        return getattr(self._local, "device", 0)

    @current_device.setter
    def current_device(self, index):
        self._local.device = index

    def new_stream(self, device):
        self._made_streams += 1
        return self.devices[device].queue(self._made_streams)

    def _streams(self):
        if not hasattr(self._local, "streams"):
            self._local.streams = {}
        return self._local.streams

    def _catch_up(self, queue):
        if self.follows_host:
            queue.tail = max(queue.tail, round(time.perf_counter_ns() * self.drift))

    def asked(self, name):
        """A function is called; whether by the recorder."""
        ours = _is_ours()
        if ours:
            self.calls[name] += 1
        error = self.broken.get(name)
        if error is not None:
            raise type(error)(
                *error.args
            )  # a new one: the frames that it has come through live no longer than it
        return ours

    def wrong(self, what, error=None):
        """Note something that may not be; raises as CUDA would where it would."""
        with self._lock:
            self.illegal.append(f"{what} [{_where()}]")
        if error is not None:
            raise RuntimeError(f"CUDA error: {error}")

    def unsafe(self, name, ours):
        """A function that breaks the capture of a graph on this thread, or in the mode "global" on any."""
        for graph in list(self.captures.values()):
            if graph.mode == "global" or (
                graph.mode == "thread_local" and graph.thread == threading.get_ident()
            ):
                graph.broken = True
                self.wrong(f"{name} during a capture", "operation not permitted when stream is capturing")
            if ours:
                self.wrong(f"{name} while a thread captures")

    def touch(self, device, what):
        """Something makes a context on a device where there is none."""
        found = self.devices[device]
        if not found.context:
            if _is_ours():
                self.wrong(f"{what} makes a context on cuda:{device}")
            found.context = True

    def waits(self, name):
        ours = self.asked(name)
        if ours and not self.may_sync:
            self.wrong(f"{name} waits for the device")
        self.unsafe(name, ours)

    def begin_capture(self, graph):
        queue = self.queue()
        if queue.number == 0:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        graph.thread, graph.queue, graph.broken, graph.nanoseconds = threading.get_ident(), queue, False, 0
        queue.graph = graph
        self.captures[id(graph)] = graph

    def end_capture(self, graph):
        self.captures.pop(id(graph), None)
        graph.queue.graph = None
        if graph.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


BETWEEN_US, OURS, OTHERS = range(3)
_whose = {}


def _whose_is(code):
    """Whether code is played or torch.cuda's, the recorder's, or another's."""
    file = code.co_filename
    found = _whose.get(file)
    if found is None:
        ours = OURS if file.startswith(OWN) else OTHERS
        found = _whose[file] = BETWEEN_US if file.startswith((PLAYED, *BETWEEN)) else ours
    return found


def _is_ours():
    """Whether the innermost frame that is not played or of torch.cuda is one of the recorder's."""
    return _whose_is(_caller().f_code) == OURS


def _caller():
    frame = sys._getframe(1)
    while frame.f_back is not None and _whose_is(frame.f_code) == BETWEEN_US:
        frame = frame.f_back
    return frame


def _where():
    frame = _caller()
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"


def event_base(gpu):
    """What stands for `torch._C._CudaEventBase`."""

    class EventBase:
        def __new__(cls, enable_timing=False, blocking=False, interprocess=False, external=False):
            gpu.asked("event")
            self = object.__new__(cls)
            self.timed = enable_timing
            self.at = self.queue = None
            self.captured = False
            return self

        def record(self, stream):
            ours = gpu.asked("record")
            queue = gpu.queue_of(stream)
            gpu.touch(queue.device.index, "record")
            if self.queue is not None and self.queue.device is not queue.device:
                gpu.wrong("record on another device than before", "invalid resource handle")
            if queue.graph is not None and ours:
                gpu.wrong("record on a capturing stream")
            time.sleep(0)  # lets go of the interpreter's lock, as torch does
            if gpu.on_record is not None:
                gpu.on_record()
            gpu._catch_up(queue)
            self.at, self.queue, self.captured = queue.tail, queue, queue.graph is not None

        def query(self):
            ours = gpu.asked("query")
            gpu.unsafe("query", ours)
            return self._complete("query", ours)

        def _complete(self, name, ours):
            if self.captured:
                gpu.wrong(
                    f"{name} of an event in a graph",
                    "operation not permitted on an event last recorded in a capture",
                )
            if self.queue is None:
                if ours:
                    gpu.wrong(f"{name} of an event that was not recorded")
                return True
            return self.queue.passed is None or self.at <= self.queue.passed

        def elapsed_time(self, other):
            ours = gpu.asked("elapsed_time")
            if ours and gpu.captures:
                gpu.wrong("elapsed_time while a thread captures")
            if not (self.timed and other.timed):
                raise ValueError("Both events must be created with argument 'enable_timing=True'.")
            if self.queue is None or other.queue is None:
                raise ValueError("Both events must be recorded before calculating elapsed time.")
            if self.queue.device is not other.queue.device:
                gpu.wrong("elapsed_time between devices", "invalid resource handle")
            if not (self._complete("elapsed_time", ours) and other._complete("elapsed_time", ours)):
                gpu.wrong("elapsed_time before both ends", "device not ready")
            return float(np.float32((other.at - self.at) / NS_PER_MS))

        def wait(self, stream):
            queue = gpu.queue_of(stream)
            if self.queue is not None:
                queue.tail = max(queue.tail, self.at)

        def synchronize(self):
            gpu.waits("Event.synchronize")
            if self.queue is not None and self.queue.passed is not None:
                self.queue.passed = max(self.queue.passed, self.at)

        @property
        def device(self):
            return None if self.queue is None else torch.device("cuda", self.queue.device.index)

        @property
        def cuda_event(self):
            return 0 if self.queue is None else id(self)

    return EventBase


def stream_base(gpu):
    """What stands for `torch._C._CudaStreamBase`."""

    class StreamBase:
        def __new__(cls, priority=0, stream_id=0, device_index=0, device_type=0, stream_ptr=0):
            gpu.asked("stream")
            self = object.__new__(cls)
            if stream_ptr or device_type:
                self.device_index = device_index if device_type else gpu.current_device
                number = stream_id if device_type else _number_of(stream_ptr)
            else:
                self.device_index = gpu.current_device
                number = gpu.new_stream(self.device_index).number
            self.stream_id, self.device_type, self.priority = number, 1, priority
            return self

        @property
        def cuda_stream(self):
            return gpu.queue_of(self).handle

        @property
        def device(self):
            return torch.device("cuda", self.device_index)

        def __eq__(self, other):
            return (self.device_index, self.stream_id) == (other.device_index, other.stream_id)

        def __hash__(self):
            return hash((self.device_index, self.stream_id))

        def query(self):
            ours = gpu.asked("Stream.query")
            gpu.unsafe("Stream.query", ours)
            queue = gpu.queue_of(self)
            return queue.passed is None or queue.tail <= queue.passed

        def is_capturing(self):
            gpu.asked("Stream.is_capturing")
            return gpu.queue_of(self).graph is not None

        def synchronize(self):
            gpu.waits("Stream.synchronize")
            queue = gpu.queue_of(self)
            if queue.passed is not None:
                queue.passed = queue.tail

    return StreamBase


def _number_of(handle):
    return (handle >> 8) & 0xFF_FFFF


def graph_base(gpu):
    """What stands for `torch._C._CUDAGraph`."""

    class GraphBase:
        def __new__(cls, keep_graph=False):
            self = object.__new__(cls)
            self.nanoseconds, self.mode, self.broken = 0, "global", False
            return self

        def capture_begin(self, pool=None, capture_error_mode="global"):
            self.mode = capture_error_mode
            gpu.begin_capture(self)

        def capture_end(self):
            gpu.end_capture(self)

        capture_end_pre = capture_end  # from torch 2.14 on, as the two that follow
        _has_graph_exec = True

        def capture_end_post(self):
            pass

        def replay(self):
            gpu.work(self.nanoseconds)

        def instantiate(self):
            pass

        def reset(self):
            self.nanoseconds = 0

        def pool(self):
            return (0, id(self))

    return GraphBase
