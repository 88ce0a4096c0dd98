"""Puts the played functions where torch and the recorder look for those of CUDA, and takes them away again."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import pkgutil
import sys
from pathlib import Path
from types import CellType, FunctionType, SimpleNamespace
from unittest import mock

import torch
from torch.utils.weak import WeakTensorKeyDictionary

import modtrace.capture
from modtrace.capture.engine import tensor_guards as seen
from modtrace.capture.mechanisms import value_readings
from modtrace.capture.torch_private import lookup, names
from tests.fake_cuda.allocator import Allocator
from tests.fake_cuda.gpu import OWN, Gpu, _number_of, event_base, graph_base, stream_base

CUDA_PARTS = {lookup.CUDA_MEMORY, lookup.CUDA_HISTORY, lookup.CUDA_MARKS, lookup.CUDA_TIMES}
ABSENT = object()
TOTAL = 80 << 30
_REAL_DEVICE = torch._C.TensorBase.device


class Played(Gpu):
    """What a test has in hand."""

    def __init__(self, devices, home, plays, limit, drift_ppm, follows_host):
        super().__init__(devices, home, drift_ppm, follows_host)
        self.allocators = [Allocator(self, index, limit) for index in range(devices)]
        self.initialised = False
        self._plays = plays
        self._places = WeakTensorKeyDictionary()
        self._pid = os.getpid()

    def tensor(self, *sizes, device=None, **more):
        """A tensor on a device, the one at home unless said."""
        made = torch.ones(*sizes, device=self._plays, **more)
        return self.place(made, device) if device is not None else made

    def place(self, thing, device):
        """Say that a tensor, or all of a module, is on a device, or on the "cpu"."""
        tensors = [thing] if isinstance(thing, torch.Tensor) else [*thing.parameters(), *thing.buffers()]
        for tensor in tensors:
            self._places[tensor] = device
        if device != "cpu":
            self.devices[device].context = True
        return thing

    def place_of(self, tensor):
        """The device a tensor is on."""
        real = _REAL_DEVICE.__get__(tensor)
        found = self._places.get(tensor) if len(self._places) else None
        if found is None:
            return torch.device("cuda", self.home) if real.type == self._plays else real
        return torch.device(found) if found == "cpu" else torch.device("cuda", found)

    def allocate(self, size, device=None):
        """An address of memory of a device."""
        return self.allocators[self.home if device is None else device].allocate(size)

    def free(self, address):
        next(one for one in self.allocators if address in one.held).free(address)


@contextlib.contextmanager
def fake_cuda(
    devices=1, *, home=0, plays="meta", initialized=True, limit=TOTAL, drift_ppm=0, follows_host=False
):
    """Play some devices.

    Args:
        devices: how many there are.
        home: the one that tensors are on of which nothing else is said.
        plays: the torch device whose tensors stand for those on a GPU: "meta", or "cpu" where values matter.
        initialized: the program has used CUDA before.
        limit: bytes of each device.
        drift_ppm: how much faster the devices' clocks run than the host's.
        follows_host: a device does nothing before the host asks for it, by the real clock.
    """
    _import_all()
    gpu = Played(devices, home, plays, limit, drift_ppm, follows_host)
    gpu.initialised = initialized
    with contextlib.ExitStack() as stack:
        for owner, name, value in _played(gpu):
            if owner is None:
                continue
            if getattr(owner, name, ABSENT) is ABSENT:
                setattr(owner, name, value)
                stack.callback(delattr, owner, name)
            else:
                stack.enter_context(mock.patch.object(owner, name, value))
        for played, base in (
            ("Event", "_CudaEventBase"),
            ("Stream", "_CudaStreamBase"),
            ("CUDAGraph", "_CUDAGraph"),
        ):
            _give_base(getattr(torch.cuda, played), getattr(torch._C, base), stack)
        _bind(stack)
        _show_places(gpu, stack)
        yield gpu


def _give_base(found, base, stack):
    """torch's class over a played base. Over the real base of a torch that is built for CUDA it is made anew."""
    before = found.__bases__
    try:
        found.__bases__ = (base,)
    except TypeError:
        made = _made_anew(found, base)
        for name, module in list(sys.modules.items()):
            if name.startswith("torch.cuda") and vars(module).get(found.__name__) is found:
                stack.enter_context(mock.patch.object(module, found.__name__, made))
    else:
        stack.callback(setattr, found, "__bases__", before)


def _made_anew(found, base):
    """A class with the methods of another; `super()` in them goes by a cell that holds their class."""
    cell = CellType()

    def moved(value):
        if not isinstance(value, FunctionType) or "__class__" not in value.__code__.co_freevars:
            return value
        pairs = zip(value.__code__.co_freevars, value.__closure__, strict=True)
        closure = tuple(cell if name == "__class__" else held for name, held in pairs)
        function = FunctionType(
            value.__code__, value.__globals__, value.__name__, value.__defaults__, closure
        )
        function.__kwdefaults__ = value.__kwdefaults__
        return function

    def anew(value):
        return type(value)(moved(value.__func__)) if isinstance(value, staticmethod) else moved(value)

    members = {
        name: anew(value) for name, value in vars(found).items() if name not in ("__dict__", "__weakref__")
    }
    cell.cell_contents = made = type(found.__name__, (base,), members)
    return made


def _played(gpu):
    """(owner, name, value) of all that is replaced."""
    core, cuda = torch._C, torch.cuda

    def named(name, run):
        def played(*args, **kwargs):
            gpu.asked(name)
            return run(*args, **kwargs)

        return played

    def pinned(tensor):
        gpu.unsafe("pinned memory", gpu.asked("pinned_memory"))
        return torch.empty(tensor.shape, dtype=tensor.dtype)

    capturing = named("is_current_stream_capturing", lambda: gpu.queue().graph is not None)
    graph = graph_base(gpu)
    yield core, "_CudaEventBase", event_base(gpu)
    yield core, "_CudaStreamBase", stream_base(gpu)
    yield core, "_CUDAGraph", graph
    yield cuda.graphs, "_CUDAGraph", graph
    for owner in (core, cuda.graphs):
        yield owner, "_cuda_isCurrentStreamCapturing", capturing
        yield owner, "_graph_pool_handle", lambda: (0, 1)
    yield (
        core,
        "_cuda_getCurrentRawStream",
        named("current_raw_stream", lambda device: gpu.queue(device).handle),
    )
    yield core, "_cuda_getDevice", named("current_device", lambda: gpu.current_device)
    yield from _of_devices(gpu, named)
    yield from _of_streams(gpu, named)
    yield from _of_memory(gpu, named)
    yield value_readings, "pinned_like", pinned
    yield torch.backends.cuda, "is_built", lambda: True
    yield cuda, "_initialized", gpu.initialised
    yield cuda, "_cudart", object()
    yield cuda, "_cached_device_count", None
    yield cuda, "_queued_calls", []
    yield cuda, "default_generators", tuple(torch.Generator() for _ in gpu.devices)
    yield cuda, "_lazy_seed_tracker", type(cuda._lazy_seed_tracker)()
    yield cuda, "_device_count_nvml", lambda: -1
    yield cuda, "_is_in_bad_fork", lambda: gpu.initialised and os.getpid() != gpu._pid
    yield cuda, "_get_device_properties", named("properties", lambda _: SimpleNamespace(
        name="Played GPU", total_memory=gpu.allocators[0].limit, major=9, minor=0, multi_processor_count=132,
        uuid="played", gcnArchName="",
    ))  # fmt: skip


def _of_devices(gpu, named):
    core, cuda = torch._C, torch.cuda

    def initialise():
        if gpu.asked("init"):
            gpu.wrong("CUDA is initialised")
        gpu.initialised = True

    def count():
        if gpu.asked("device_count") and not gpu.initialised:
            gpu.wrong("the driver is started to count devices")
        return len(gpu.devices)

    def exchange(device):
        before, gpu.current_device = gpu.current_device, device if device >= 0 else gpu.current_device
        return before

    def synchronize():
        gpu.waits("synchronize")
        for queue in list(gpu.devices[gpu.current_device].streams.values()):
            if queue.passed is not None:
                queue.passed = queue.tail

    def set_device(device):
        gpu.current_device = device
        gpu.touch(device, "set_device")

    yield core, "_cuda_init", initialise
    yield core, "_cuda_getDeviceCount", count
    yield core, "_cuda_setDevice", named("set_device", set_device)
    for owner, name in ((core, "_cuda_exchangeDevice"), (core, "_cuda_maybeExchangeDevice")):
        yield owner, name, named("exchange_device", exchange)
    for name in ("_exchange_device", "_maybe_exchange_device"):
        yield cuda, name, named("exchange_device", exchange)
    yield core, "_cuda_synchronize", synchronize
    yield core, "_accelerator_getAccelerator", lambda: torch.device("cuda")
    yield core, "_accelerator_getDeviceIndex", named("current_device", lambda: gpu.current_device)
    yield core, "_accelerator_getStream", lambda device: torch.cuda.current_stream(device)
    yield core, "_accelerator_synchronizeDevice", lambda _: synchronize()


def _of_streams(gpu, named):
    core = torch._C

    def current(device):
        return gpu.queue(device).number, gpu.current_device if device < 0 else device, 1

    def set_stream(stream_id, device_index, device_type):
        gpu.current_device = device_index
        gpu.use(device_index, stream_id)

    yield core, "_cuda_getCurrentStream", named("current_stream", current)
    yield core, "_cuda_getDefaultStream", lambda device: (0, max(device, 0), 1)
    yield core, "_cuda_getStreamFromExternal", lambda handle, device: (_number_of(handle), device, 1)
    yield core, "_cuda_setStream", set_stream


def _of_memory(gpu, named):
    core = torch._C

    def record(enabled, *args, **kwargs):
        for one in gpu.allocators:
            one.entries = (one.entries or []) if enabled else None

    def snapshot(_=None):
        segments = [
            {
                "device": at,
                "address": segment.address,
                "total_size": segment.size,
                "allocated_size": segment.used,
            }
            for at, one in enumerate(gpu.allocators)
            for segment in one.segments
        ]
        return {"segments": segments, "device_traces": [list(one.entries or []) for one in gpu.allocators]}

    def set_metadata(text):
        gpu.metadata = text if gpu.keeps_metadata else ""

    yield core, "_cuda_memoryStats", named("memory_stats", lambda device: gpu.allocators[device].read())
    for kind in ("cuda", "accelerator"):
        peak = "_cuda_resetPeakMemoryStats" if kind == "cuda" else "_accelerator_resetPeakStats"
        total = (
            "_cuda_resetAccumulatedMemoryStats" if kind == "cuda" else "_accelerator_resetAccumulatedStats"
        )
        yield core, peak, lambda device: gpu.allocators[device].reset_peak()
        yield core, total, lambda device: gpu.allocators[device].reset_accumulated()
    yield core, "_cuda_emptyCache", lambda: [one.empty() for one in gpu.allocators]
    yield core, "_host_emptyCache", lambda: None
    yield core, "_cuda_isHistoryEnabled", lambda: gpu.allocators[0].entries is not None
    yield core, "_cuda_record_memory_history", record
    yield core, "_cuda_record_memory_history_legacy", record
    yield core, "_cuda_memorySnapshot", snapshot
    yield core, "_cuda_setMemoryMetadata", named("set_metadata", set_metadata)
    yield core, "_cuda_getMemoryMetadata", named("get_metadata", lambda: gpu.metadata)
    yield core, "_cuda_memoryMetadataSupported", lambda: gpu.keeps_metadata
    yield core, "_cuda_getAllocatorBackend", lambda: "native"


def _import_all():
    """What is imported later would keep what is played."""
    for found in pkgutil.walk_packages(modtrace.capture.__path__, "modtrace.capture."):
        importlib.import_module(found.name)


def _bind(stack):
    """Look up again what the recorder has looked up when it was imported, in a torch without CUDA."""
    variables = _variables()
    for row in lookup.TABLE:
        found = next(filter(None, map(lookup.find, row.paths)), None)
        if row.part not in CUDA_PARTS or found is None:
            continue
        stack.enter_context(mock.patch.object(row, "present", True))
        variable = variables.get(row.paths[0])
        if variable is not None:
            before, value = getattr(names, variable), getattr(*found)
            for module in _recorders():
                if vars(module).get(variable, ABSENT) is before:
                    stack.enter_context(mock.patch.object(module, variable, value))


def _recorders():
    return [module for name, module in list(sys.modules.items()) if name.startswith("modtrace.capture.")]


def _variables():
    """First path of a private name -> the variable of `names` that holds it."""
    found = {}
    for node in ast.parse(Path(names.__file__).read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call) and node.value.args:
            first = node.value.args[0]
            if isinstance(first, ast.Constant):
                found[first.value] = node.target.id
    return found


def _show_places(gpu, stack):
    """The recorder reads the played device of a tensor; everybody else that which it has in torch."""

    @property
    def device(tensor):
        if sys._getframe(1).f_code.co_filename.startswith(OWN):
            return gpu.place_of(tensor)
        return _REAL_DEVICE.__get__(tensor)

    torch.Tensor.device = device
    stack.callback(delattr, torch.Tensor, "device")
    if len(gpu.devices) > 1 or gpu._plays == "cpu":
        before = seen.guard_of

        def guard_of(value):
            check, place = before(value), gpu.place_of(value)
            return lambda other: check(other) and gpu.place_of(other) == place

        for module in _recorders():
            if vars(module).get("guard_of") is before:
                stack.enter_context(mock.patch.object(module, "guard_of", guard_of))
