"""The values of torch's private names, and what stands in for those that this torch does not have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import attrgetter, methodcaller
from types import CodeType, FunctionType
from typing import Any, Final

import torch
import torch.utils.flop_counter

from modtrace.capture.torch_private import spelled
from modtrace.capture.torch_private.lookup import (
    COLLECTIVES,
    COMPILING,
    CUDA_HISTORY,
    CUDA_MARKS,
    CUDA_MEMORY,
    CUDA_TIMES,
    CUSTOM_FUNCTIONS,
    DEVICE_ROWS,
    FLOPS,
    FORMULAS,
    FUNCTIONS,
    PHASES,
    PROFILER,
    SAVED,
    XPU_TIMES,
    ask,
    later,
    place,
    take,
)

# module calls -----------------------------------------------------------------------------------------------------


def _runs_hooks() -> Any:
    """The method of `Module` that runs hooks, told by its code speaking of their tables."""
    for value in vars(torch.nn.Module).values():
        if type(value) is FunctionType and spelled.HOOKS in value.__code__.co_names:
            return value
    return None


call_impl: Final[Any] = take(
    f"torch.nn.Module.{spelled.CALL}",
    lost="tracebacks show frames of torch that would not be there",
    instead=_runs_hooks(),
)
CALL_CODE: Final[CodeType] = call_impl.__code__
_TABLES: Final = "torch.nn.modules.module."
_NOT_HIDDEN: Final = "what torch compiles while it is recorded may be compiled again afterwards"
global_pre_hooks: Final[Any] = take(_TABLES + spelled.PRE_HOOKS, lost=_NOT_HIDDEN)
global_hooks: Final[Any] = take(_TABLES + spelled.HOOKS, lost=_NOT_HIDDEN)
global_hooks_with_kwargs: Final[Any] = take(
    _TABLES + spelled.HOOKS_WITH_KWARGS,
    lost="the number of a hook may stay in a table of torch's",
    instead={},
)
asks_for_hooks: Final = place(
    _TABLES + "_has_any_global_hook",
    lost="torch may warn of global hooks where a compiled module is called",
    part=COMPILING,
)
"""The function by which torch asks if there are global hooks."""
_NO_COSTS: Final = "what recording a call costs is not known, and is missing in the tracing cost"
MEASURES_COSTS: Final[bool] = None not in (
    global_pre_hooks,
    global_hooks,
    take(_TABLES + spelled.HOOKS_WITH_KWARGS, lost=_NO_COSTS),
    take(_TABLES + spelled.HOOKS_ALWAYS_CALLED, lost=_NO_COSTS),
)
"""True if hooks can be timed with tables of their own: see `calibrate`."""
plain_call: Final[Any] = take(
    "torch.nn.Module._wrapped_call_impl",
    lost="beside `--engine calls` a module call has one frame of python more",
)
"""`Module.__call__` as it is where nothing has replaced it."""
_OWN_HOOKS: Final = ("_forward_hooks", "_forward_hooks_always_called")
HAS_OWN_HOOKS: Final[bool] = None not in [
    take(f"torch.nn.Module().{name}", lost="the time of a module's own hooks is not told apart")
    for name in _OWN_HOOKS
]
"""True if a module's own forward hooks lie where `own_hooks`, and the hot path itself, looks for them."""
forward_hooks_of: Final[Callable[[Any], tuple[Any, Any]]] = attrgetter(*_OWN_HOOKS)
"""The tables of a module's own forward hooks, and of those that are called even if forward fails."""
for _name in (spelled.PARAMETERS, spelled.BUFFERS, spelled.CHILDREN):
    take(f"torch.nn.Module().{_name}", lost="sizes and names of modules are not known")
version_of: Final[Any] = take(
    "torch.Tensor._version",
    lost="layers that the program trains by hand are not told from those that nothing trains",
)
"""The descriptor of a tensor's count of changes in place."""
next_hook_id: Final = place(
    "torch.utils.hooks.RemovableHandle.next_id",
    lost="hooks that the program registers while it is recorded have higher numbers, also in its checkpoints",
)
tensor_guards: Final[Any] = take(
    "torch._C._dynamo.guards.TensorGuards",
    lost="recording a call costs more: tensors are compared one by one",
)
uninitialized_mixin: Final[type] = take(
    "torch.nn.parameter.UninitializedTensorMixin",
    lost="the sizes of lazy modules are those before their first call",
    instead=type("Nothing", (), {}),
)
current_level: Final[Callable[[], Any]] = ask(
    "torch._C._functorch.maybe_current_level",
    lost="calls inside vmap and grad are not told apart from others",
    instead=None,
)
is_batched: Final[Callable[[Any], bool]] = take(
    "torch._C._functorch.is_batchedtensor",
    lost="tensors inside vmap are not marked as such",
    instead=lambda _: False,
)
graph_task: Final[Callable[[], int]] = ask(
    "torch._C._current_graph_task_id", lost="calls made by a backward are not marked as such", instead=-1
)
take(
    ".".join(spelled.EARLY_STOP),
    lost="calls that checkpointing ends early when it computes them again count as failed",
    loads=spelled.EARLY_STOP[0],
)

# what runs around the forward of a training step ------------------------------------------------------------------

next_node: Final[Callable[[], int]] = ask(
    "torch.autograd._get_sequence_nr", lost="backward is not told apart by module", part=PHASES, instead=-1
)
_NUMBER: Final = "_sequence_nr"
numbers_nodes: Final[bool] = (
    take(
        f"torch._C._functions.AddBackward0.{_NUMBER}",
        lost="backward is not told apart by module",
        part=PHASES,
    )
    is not None
)
number_of_node: Final[Callable[[Any], int]] = methodcaller(_NUMBER)
"""The number of a node of autograd's graph: they rise in the order in which a thread makes them."""
run_backward: Final = place(
    "torch.autograd._engine_run_backward", lost="backward is not recorded", part=PHASES
)
queue_callback: Final[Any] = take(
    "torch.autograd.Variable._execution_engine.queue_callback",
    lost="waiting for other ranks at the end of a backward counts as backward of the module that ran last",
    part=PHASES,
)
"""Has a function called behind the last node of the backward that runs, before those that are asked for later."""
checkpoint_hook: Final = place(
    "torch.utils.checkpoint._checkpoint_hook",
    lost="what checkpointing computes again stands below the backward of the module in which it does",
    part=PHASES,
)
recomputation_hook: Final = place(
    "torch.utils.checkpoint._recomputation_hook",
    lost="what checkpointing computes again counts as backward of the module in which it does",
    part=PHASES,
)
running_node: Final[Callable[[], Any]] = ask(
    "torch._C._current_autograd_node",
    lost="the backward of a module that a checkpoint interrupts is always in two parts",
    part=PHASES,
    instead=None,
)
loader_iterator: Final[Any] = take(
    "torch.utils.data.dataloader._BaseDataLoaderIter",
    lost="the wait for each batch of a DataLoader is not recorded",
    part=PHASES,
)
_NO_STEPS: Final = "steps of optimizers are not recorded"
optimizer_pre_hooks: Final[Any] = take(
    "torch.optim.optimizer._global_optimizer_pre_hooks", lost=_NO_STEPS, part=PHASES
)
optimizer_post_hooks: Final[Any] = take(
    "torch.optim.optimizer._global_optimizer_post_hooks", lost=_NO_STEPS, part=PHASES
)

# torch's compiler -------------------------------------------------------------------------------------------------

_SEEN: Final = "torch.compile may look at functions of modtrace"
_FRAMES: Final = "torch._C._dynamo.eval_frame."
_LOADED: Final = "torch._dynamo.eval_frame"
set_code_strategy: Final[Any] = take(
    f"{_FRAMES}set_code_exec_strategy", lost=_SEEN, part=COMPILING, loads=_LOADED
)
frame_action: Final[Any] = take(f"{_FRAMES}_FrameAction", lost=_SEEN, part=COMPILING, loads=_LOADED)
frame_strategy: Final[Any] = take(f"{_FRAMES}_FrameExecStrategy", lost=_SEEN, part=COMPILING, loads=_LOADED)
frame_callback: Final[Callable[[], Any]] = ask(
    "torch._C._dynamo.eval_frame.get_eval_frame_callback",
    lost="what torch compiles piece by piece beside `--engine calls` may be compiled again afterwards",
    part=COMPILING,
    instead=None,
)
"""The function that looks at each frame of python that runs on this thread; None where nothing compiles."""
COMPILED_MODULES: Final = "torch._dynamo.eval_frame"
_initialize: Final[Callable[[], Any]] = later(
    f"{COMPILED_MODULES}.OptimizedModule.{spelled.INITIALIZE}",
    COMPILED_MODULES,
    lost="with `--engine calls` a module that is compiled during a trace has two rows",
    part=COMPILING,
)
COMPILER_CALL: Final = "unpatched_nn_module_call"
"""Name of what torch's compiler takes for `Module.__call__`: what that was when `COMPILER_COUNTERS` was imported."""
COMPILATIONS: Final = "torch._dynamo.callback"
"""The module that tells of compilations."""
compilations: Final[Callable[[], Any]] = later(
    f"{COMPILATIONS}.callback_handler", COMPILATIONS, lost=_NOT_HIDDEN, part=COMPILING
)
COMPILED_AUTOGRAD: Final = "torch._dynamo.compiled_autograd"
compiled_autograd: Final[Callable[[], Any]] = later(
    f"{COMPILED_AUTOGRAD}.compiled_autograd_enabled",
    COMPILED_AUTOGRAD,
    lost="backward is not told apart by module after the first use of torch.compile",
    part=COMPILING,
)
COMPILER_COUNTERS: Final = "torch._dynamo.utils"
compiler_counters: Final[Callable[[], Any]] = later(
    f"{COMPILER_COUNTERS}.counters",
    COMPILER_COUNTERS,
    lost="whether the program had compiled anything before is not known",
    part=FUNCTIONS,
)
compiler_call: Final[Callable[[], Any]] = later(
    f"{COMPILER_COUNTERS}.{COMPILER_CALL}",
    COMPILER_COUNTERS,
    lost="torch may take another way to compile where it is first used beside `--engine calls`",
    part=COMPILING,
)
compilation_metrics: Final[Callable[[], Any]] = later(
    f"{COMPILER_COUNTERS}.get_compilation_metrics",
    COMPILER_COUNTERS,
    lost="how often and why torch compiled is not recorded",
    part=COMPILING,
)


def compiled_module() -> Any:
    """The class of what `torch.compile` makes of a module; None where it is not loaded, or begins in another way."""
    return sys.modules[COMPILED_MODULES].OptimizedModule if _initialize() is not None else None


# functions of torch -----------------------------------------------------------------------------------------------

_NO_FUNCTIONS: Final = "functions are not recorded"
count_function_modes: Final[Any] = take(
    "torch._C._len_torch_function_stack", lost=_NO_FUNCTIONS, part=FUNCTIONS
)
function_mode_at: Final[Any] = take("torch._C._get_function_stack_at", lost=_NO_FUNCTIONS, part=FUNCTIONS)
pop_function_mode: Final[Any] = take("torch._C._pop_torch_function_stack", lost=_NO_FUNCTIONS, part=FUNCTIONS)
push_function_mode: Final[Any] = take(
    "torch._C._push_on_torch_function_stack", lost=_NO_FUNCTIONS, part=FUNCTIONS
)
function_node: Final[type] = take(
    "torch.autograd.function.BackwardCFunction",
    lost="the backward of the program's own autograd.Functions is not recorded",
    part=CUSTOM_FUNCTIONS,
    instead=type("Nothing", (), {}),
)
for _name in (
    "torch._jit_internal.__file__",
    "torch._tensor.__file__",
    "torch._ops.__file__",
    "torch._compile.__file__",
    "torch._VF.vf",
):
    take(_name, lost="the line that calls some functions is one of torch's", part=CUSTOM_FUNCTIONS)

# operations and FLOPs ---------------------------------------------------------------------------------------------

_NO_FLOPS: Final = "FLOPs and operations are not counted"
count_dispatch_modes: Final[Any] = take("torch._C._len_torch_dispatch_stack", lost=_NO_FLOPS, part=FLOPS)
dispatch_mode_at: Final[Any] = take("torch._C._get_dispatch_stack_at", lost=_NO_FLOPS, part=FLOPS)
pop_dispatch_mode: Final[Any] = take("torch._C._pop_torch_dispatch_stack", lost=_NO_FLOPS, part=FLOPS)
push_dispatch_mode: Final[Any] = take("torch._C._push_on_torch_dispatch_stack", lost=_NO_FLOPS, part=FLOPS)
without_subclasses: Final[Any] = take("torch._C.DisableTorchFunctionSubclass", lost=_NO_FLOPS, part=FLOPS)
take("torch._C._autograd._profiler_enabled", lost=_NO_FLOPS, part=FLOPS)
_SOME_FLOPS: Final = "the FLOPs of some operations are not known"
_COUNTER: Final = "torch.utils.flop_counter."
formulas: Final[dict[Any, Any]] = take(
    f"{_COUNTER}flop_registry", lost=_SOME_FLOPS, part=FORMULAS, instead={}
)
mkldnn_layout: Final[Any] = take("torch._mkldnn", lost=_SOME_FLOPS, part=FORMULAS, instead=torch.strided)
_AN_OPERATION: Final = "torch.ops.aten.neg.default."
take(_AN_OPERATION + spelled.PACKET, lost=_SOME_FLOPS, part=FORMULAS)
_AS_ONE: Final = "in inference mode operations that are made of others are counted as one"
_has_kernel: Final[Any] = take("torch._C._dispatch_has_kernel_for_dispatch_key", lost=_AS_ONE, part=FORMULAS)
_composite_key: Final[Any] = take(
    "torch._C.DispatchKey.CompositeImplicitAutograd", lost=_AS_ONE, part=FORMULAS
)
_KERNEL: Final = "_op_dk"
TAKES_APART: Final[bool] = None not in (
    _has_kernel,
    _composite_key,
    take(_AN_OPERATION + _KERNEL, lost=_AS_ONE, part=FORMULAS),
)
"""True if operations that are made of others can be told, and run as what they are made of."""


def has_kernel(name: str, key: str) -> bool:
    """True if an operation has a kernel of its own for a dispatch key."""
    return bool(_has_kernel(name, key))


def run_composite(function: Any, args: Any, kwargs: Any) -> Any:
    """The kernel itself that an operation is made of others by: torch has more of the same name for its compiler, with
    other results.
    """
    return getattr(function, _KERNEL)(_composite_key, *args, **kwargs)


# torch's profiler, and what autograd keeps ------------------------------------------------------------------------

_NOT_WATCHED: Final = "memory and kernels are not watched"
_PROFILER: Final = "torch.autograd.profiler."
prepare_trace: Final[Any] = take(f"{_PROFILER}profile._prepare_trace", lost=_NOT_WATCHED, part=PROFILER)
start_trace: Final[Any] = take(f"{_PROFILER}profile._start_trace", lost=_NOT_WATCHED, part=PROFILER)
disable_profiler: Final[Any] = take(f"{_PROFILER}_disable_profiler", lost=_NOT_WATCHED, part=PROFILER)
fast_range: Final[Any] = take("torch._C._profiler._RecordFunctionFast", lost=_NOT_WATCHED, part=PROFILER)
device_type: Final[Any] = take("torch._C._autograd.DeviceType", lost=_NOT_WATCHED, part=PROFILER)
profiler_runs: Final[Any] = take("torch._C._autograd._profiler_enabled", lost=_NOT_WATCHED, part=PROFILER)
profiler_flag: Final = ask(
    f"{_PROFILER}_is_profiler_enabled",
    lost="a profiler of the program's own on another thread is not noticed",
    part=PHASES,
    instead=False,
)
set_profiler_flag: Final[Any] = take(
    f"{_PROFILER}_set_is_profiler_enabled",
    lost="torch's compiler sees that a profiler runs in watched steps",
    part=PHASES,
)
activity_type: Final[Any] = take(
    "torch._C._autograd._KinetoEvent.activity_type",
    lost="kernels of devices are not noted",
    part=DEVICE_ROWS,
)

_NOT_FREED: Final = (
    "memory of the host that was held before watching began stays in what is held when it is freed"
)
weak_storage: Final[Any] = take("torch.UntypedStorage._weak_ref", lost=_NOT_FREED, part=PHASES)
storage_is_gone: Final[Any] = take("torch.UntypedStorage._expired", lost=_NOT_FREED, part=PHASES)
forget_storage: Final[Any] = take("torch.UntypedStorage._free_weak_ref", lost=_NOT_FREED, part=PHASES)

_NOT_COUNTED: Final = "what is kept for backward is not counted"
for _name in ("data", "unpack_hook"):
    take(f"torch._C._autograd.SavedTensor.{_name}", lost=_NOT_COUNTED, part=SAVED)
take("torch.UntypedStorage._cdata", lost=_NOT_COUNTED, part=SAVED)
storage_id: Final[Callable[[Any], int]] = attrgetter("_cdata")
"""The number of a storage: not its address, which to ask for would copy what is to be copied on the first write."""

# CUDA ---------------------------------------------------------------------------------------------------------------

cuda_memory_stats: Final[Any] = take(
    "torch._C._cuda_memoryStats", lost="memory of devices is not read", part=CUDA_MEMORY
)
for _name in spelled.CUDA_RESETS:
    take(
        f"torch._C.{_name}",
        lost="peaks of the memory of devices are wrong where the program resets them",
        part=CUDA_MEMORY,
    )
_NO_HISTORY: Final = "memory of devices is not watched while the program runs torch's profiler"
cuda_has_history: Final[Any] = take("torch._C._cuda_isHistoryEnabled", lost=_NO_HISTORY, part=CUDA_HISTORY)
record_cuda_history: Final[Any] = take(
    "torch.cuda.memory._record_memory_history", lost=_NO_HISTORY, part=CUDA_HISTORY
)
cuda_snapshot: Final[Any] = take("torch.cuda.memory._snapshot", lost=_NO_HISTORY, part=CUDA_HISTORY)
_NO_THREADS: Final = (
    "allocations on devices are tied to modules by time alone, "
    "and beside a profiler of the program's other threads' are taken to be the loop's"
)
mark_allocations: Final[Any] = take("torch._C._cuda_setMemoryMetadata", lost=_NO_THREADS, part=CUDA_MARKS)
mark_of_allocations: Final[Any] = take("torch._C._cuda_getMemoryMetadata", lost=_NO_THREADS, part=CUDA_MARKS)
_COSTS_MORE: Final = "recording the time on a device costs more"
cuda_raw_stream: Final[Any] = take("torch._C._cuda_getCurrentRawStream", lost=_COSTS_MORE, part=CUDA_TIMES)
cuda_is_capturing: Final[Any] = take(
    "torch._C._cuda_isCurrentStreamCapturing", lost=_COSTS_MORE, part=CUDA_TIMES
)
cuda_record: Final[Any] = take("torch._C._CudaEventBase.record", lost=_COSTS_MORE, part=CUDA_TIMES)
cuda_query: Final[Any] = take("torch._C._CudaEventBase.query", lost=_COSTS_MORE, part=CUDA_TIMES)
cuda_elapsed: Final[Any] = take("torch._C._CudaEventBase.elapsed_time", lost=_COSTS_MORE, part=CUDA_TIMES)
xpu_raw_stream: Final[Any] = take("torch._C._xpu_getCurrentRawStream", lost=_COSTS_MORE, part=XPU_TIMES)

# collectives of ranks -----------------------------------------------------------------------------------------------

_GROUPS: Final = "torch.distributed.distributed_c10d"
_FLIGHT_RECORDER: Final = "torch._C._distributed_c10d"
dump_collectives: Final[Callable[[], Any]] = later(
    f"{_FLIGHT_RECORDER}._dump_fr_trace_json",
    _FLIGHT_RECORDER,
    lost="collectives are not recorded",
    part=COLLECTIVES,
)
"""The function that gives out, as JSON, what torch's Flight Recorder has kept of collectives on Gloo."""
process_groups: Final[Callable[[], Any]] = later(
    f"{_GROUPS}._world", _GROUPS, lost="which ranks a process group has is not known", part=COLLECTIVES
)
"""The object with the process groups of this process: their names in `pg_names`, their ranks in `pg_group_ranks`."""
