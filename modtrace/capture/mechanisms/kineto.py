"""torch's profiler as modtrace asks for it: no more than is read, and never where that would start CUDA."""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any, Final

import torch

from modtrace.systems.this_process import may_have_gpu

VISIBLE: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
HOST_ACTIVITIES: Final = frozenset({"CPU_OP", "CPU_INSTANT_EVENT", "USER_ANNOTATION"})
"""Operators, allocations and ranges; not calls of CUDA's runtime, which CUPTI tells and torch counts to the host."""
_FALLBACK: Final = "FALLBACK"


def would_start_cuda() -> bool:
    """True if starting torch's profiler, even for the host alone, would start CUDA before the program does.

    A torch that is built for CUDA asks the driver for its devices then (2.14: `cuInit` is called), and no child process
    that is forked later can use them.
    """
    cuda: Any = torch.cuda
    built = torch.version.cuda is not None or torch.version.hip is not None
    if not built or cuda.is_initialized() or any(os.environ.get(name) in ("", "-1") for name in VISIBLE):
        return False
    return may_have_gpu()


def new_profiler(*, memory: bool, devices: bool) -> Any:
    """A profiler that is not prepared yet; `devices` asks for what runs on them, `memory` for allocations."""
    profile: Any = torch.autograd.profiler.profile
    if devices:
        # Without `use_kineto` torch records two events around each operator instead, and tells of no kernel.
        return profile(profile_memory=memory, use_device="cuda", use_kineto=True)
    if _takes_filters(profile):
        host = {torch.profiler.ProfilerActivity.CPU: set(HOST_ACTIVITIES)}
        return profile(profile_memory=memory, activity_filters=host)
    return profile(profile_memory=memory)


def tells_of_devices(profiler: Any) -> bool:
    """True if what runs on devices is told, and not only how long operators have the device."""
    return _FALLBACK not in str(getattr(profiler, "profiler_kind", ""))


@functools.cache
def _takes_filters(profile: Any) -> bool:
    return "activity_filters" in inspect.signature(profile.__init__).parameters
