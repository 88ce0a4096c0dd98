"""Private names of torch that are told by their spelling: of frames, files, classes and attributes. Needs no torch."""

from __future__ import annotations

from typing import Final

CALL: Final = "_call_impl"
"""The method of `Module` that runs hooks and forward."""
PLAIN_NAMES: Final = ("_compiled_call_impl", CALL)
"""Names in the code of `Module.__call__`: it calls the first where that is not None, else the second."""
INITIALIZE: Final = "_initialize"
"""The method of a compiled module that takes hold of the `__call__` of what it was made of."""
NESTED_CALL: Final = "inner"
"""The function inside of it that runs them where there are any."""
FORWARD: Final = "forward_call"
"""Its local variable that holds what is to be called."""
MODULE_HOOKS: Final = ("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks")
"""Attributes of a module that hold its hooks."""
GLOBAL_HOOKS: Final = (
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
)
"""Those of all modules, in the file of `Module`."""
GLOBAL: Final = "_global_"
"""Start of the names of all tables that hold hooks of all modules."""
PRE_HOOKS: Final = "_global_forward_pre_hooks"
HOOKS: Final = "_global_forward_hooks"
HOOKS_ALWAYS_CALLED: Final = "_global_forward_hooks_always_called"
HOOKS_WITH_KWARGS: Final = "_global_forward_hooks_with_kwargs"
PARAMETERS: Final = "_parameters"
BUFFERS: Final = "_buffers"
CHILDREN: Final = "_modules"
"""Attributes of a module: by name what it holds."""
RAW_SAVED: Final = "_raw_saved_"
"""Start of the names of attributes of a node that give out what it has saved for backward, as it lies there."""
COMPILED_SAVED: Final = "_tensors_no_vc_check"
"""Where the backward of a compiled region keeps those of its tensors that autograd does not watch."""
NUM_WORKERS: Final = "_num_workers"
"""Attribute of an iterator of a DataLoader."""
FORWARD_CLASS: Final = "_forward_cls"
"""Attribute of the class of a node: the `autograd.Function` that it is the backward of."""
RAW_FORMULA: Final = "_get_raw"
"""Attribute of a formula for FLOPs that looks at values."""
NAME: Final = "_name"
"""Attribute of an operation of a higher order."""
PACKET: Final = "_overloadpacket"
"""Attribute of an operation: all its overloads together."""
EARLY_STOP: Final = ("torch.utils.checkpoint", "_StopRecomputationError")
"""Module and name of the exception that ends what checkpointing computes again, when that has come far enough."""
COMPILER: Final = "_dynamo"
"""The folder of torch's compiler."""
OPERATIONS: Final = ("torch", "_ops.py")
"""The end of the path of the file that calls operations."""
OF_NN: Final = "torch._C._nn"
OF_TORCH: Final = ("_VariableFunctions", "torch._C")
OF_OPERATIONS: Final = "torch._ops."
OF_TENSOR: Final = ("torch._tensor", "torch.Tensor")
"""Modules and owners of functions that people know by another name."""
HANDING_OVER: Final = (
    "torch.nn.functional",
    "torch.overrides",
    "torch.functional",
    "torch._jit_internal",
    "torch.nn.init",
    "torch._tensor",
    "torch._VF",
    "contextlib",
)
"""Modules whose functions hand themselves over to a mode before they do anything."""
CALLING_OPERATIONS: Final = ("torch._ops", "torch._compile")
"""Modules that stand between who asks for an operation and a mode."""
CUDA_RESETS: Final = (
    "_cuda_resetPeakMemoryStats",
    "_accelerator_resetPeakStats",
    "_cuda_resetAccumulatedMemoryStats",
    "_accelerator_resetAccumulatedStats",
)
"""In `torch._C`: what every public function that resets a counter of an allocator calls, looked up there each time. The
first two reset the peak.
"""
PROFILER_STARTS: Final = tuple(
    f"torch.autograd.{name}"
    for name in (
        "profiler._prepare_profiler",
        "profiler._enable_profiler",
        "_prepare_profiler",
        "_enable_profiler",
        "_enable_profiler_legacy",
        "profiler_legacy._enable_profiler_legacy",
    )
)
"""Functions that every profiler of torch calls to be prepared and started, where it looks it up."""
PROFILER_ENDS: Final = tuple(
    f"torch.autograd.{name}"
    for name in (
        "profiler._disable_profiler",
        "_disable_profiler",
        "_disable_profiler_legacy",
        "profiler_legacy._disable_profiler_legacy",
    )
)
CUDA_HISTORY_STARTS: Final = ("_cuda_record_memory_history", "_cuda_record_memory_history_legacy")
"""In `torch._C`: what the public function that begins a history of CUDA's allocator calls, looked up each time."""
CUDA_MARKS_ANYTHING: Final = "_cuda_memoryMetadataSupported"
"""In `torch._C`, from 2.14 on: whether the allocator in use keeps marks. torch warns where it is given one in vain."""
COMPILING_MODULES: Final = ("torch._C*", "torch._dynamo*")
"""Patterns of the names of modules of Python in which torch runs compiled code."""
