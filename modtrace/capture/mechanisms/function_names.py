"""Names of torch's functions, those that are worth a row, and the places where torch hands them to a mode."""

from __future__ import annotations

import sys
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import class_name, inherits
from modtrace.capture.torch_private.names import COMPILER_COUNTERS, compiler_counters
from modtrace.capture.torch_private.spelled import HANDING_OVER, OF_NN, OF_OPERATIONS, OF_TENSOR, OF_TORCH

ASKING: Final = frozenset((
    "size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size",
    "data_ptr", "is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_conj", "is_neg",
    "is_inference", "is_same_size", "is_storage", "is_tensor", "is_set_to", "get_device", "has_names",
    "untyped_storage", "_set_grad_enabled", "is_grad_enabled", "is_inference_mode_enabled", "storage",
    "storage_type", "type_as_shape", "register_hook", "register_post_accumulate_grad_hook", "retain_grad",
    "backward", "dim_order", "result_type", "can_cast", "__len__", "__hash__", "__repr__", "__format__",
    "__dir__", "__reduce_ex__", "__deepcopy__", "__setstate__", "__cuda_array_interface__", "_is_view",
    "_nested_tensor_size", "is_shared", "refine_names",
))  # fmt: skip
"""Functions that compute nothing, or whose work is a phase of its own: they are no rows."""


def function_name(function: Any) -> str:
    """The name of a function of torch as people write it: torch.pow, Tensor.view, F.relu."""
    short = str(getattr(function, "__name__", "?"))
    owner = getattr(function, "__objclass__", None)
    if owner is not None and isinstance(owner, type):
        return f"Tensor.{short}" if inherits(torch.Tensor, owner) else f"{class_name(owner)}.{short}"
    module = getattr(function, "__module__", None)
    if module == "torch.functional":
        return f"torch.{short}"
    if module == "torch.nn.functional":
        return f"F.{short}"
    qualified = str(getattr(function, "__qualname__", short))
    if module in OF_TENSOR or qualified.startswith("Tensor."):
        return f"Tensor.{short}"
    holder = getattr(function, "__self__", None)
    if getattr(holder, "__name__", None) == OF_NN:
        return f"F.{short}"
    if holder is not None and getattr(holder, "__name__", "").startswith(OF_TORCH):
        return f"torch.{short}"
    if isinstance(module, str) and module.startswith(OF_OPERATIONS):
        return f"torch.ops.{module.removeprefix(OF_OPERATIONS)}.{short}"
    return f"{module}.{short}" if isinstance(module, str) and module.startswith("torch") else f"torch.{short}"


def lasts(function: Any) -> bool:
    """True if a function may be remembered: one that closes over values and is in no module would keep them alive."""
    if getattr(function, "__closure__", None) is None:
        return True
    module = sys.modules.get(str(getattr(function, "__module__", "")))
    return getattr(module, "__dict__", {}).get(getattr(function, "__name__", None)) is function


def _files() -> frozenset[str]:
    """Files of torch whose functions hand themselves over to the mode before they do anything."""
    modules: list[Any] = [sys.modules.get(name) for name in HANDING_OVER]
    return frozenset(str(module.__file__) for module in modules if getattr(module, "__file__", None))


DISPATCHING: Final = _files()


def has_compiled() -> bool:
    """True if torch's compiler may have compiled anything yet: what it made is guarded on the function modes."""
    if COMPILER_COUNTERS not in sys.modules:
        return False
    counters = compiler_counters()
    return counters is None or bool(counters.get("frames", {}).get("total", 0))
