"""Run a case and write down everything about it that a tool could have changed."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import pickle
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace, TracebackType

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tests.torture.case import Case
from tests.torture.fingerprint import Bits, fingerprint
from tests.torture.tree_walk import attributes_of, named_modules, named_parameters

Observation = dict[str, Bits]
Around = Callable[[], AbstractContextManager[object]]

_HOOK_REGISTRIES = [
    name
    for name in vars(nn.modules.module)
    if name.startswith("_global_") and name.endswith(("hooks", "called", "kwargs"))
]
_TORCH_MODULE_FILE = nn.modules.module.__file__


def seed() -> None:
    """The random number generators a program may use, and torch's counter of hooks, which is pickled."""
    RemovableHandle.next_id = 1_000
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def observe(case: Case, around: Around = contextlib.nullcontext) -> Observation:
    """Make the model, run, save and copy it inside `around()`, and look at it again afterwards."""
    seed()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found: Observation = {}
        with around():
            model = case.make()
            found |= _run(case, model)
            found |= _copies(model)
            found["modes"] = _modes()
        found["state afterwards"] = _state(model)
        found["attributes"] = [(name, _attributes(module)) for name, module in named_modules(model)]
        found["process"] = _process()
        found["global hooks"] = global_hooks()
    found["warnings"] = sorted((item.category.__name__, str(item.message)) for item in caught)
    return found


def _run(case: Case, model: nn.Module) -> Observation:
    found: Observation = {}
    try:
        output = case.run(model)
    except BaseException as error:
        found["exception"] = [_exception(item) for item in _chain(error)]
    else:
        found["output"] = fingerprint(output)
        if case.grad:
            with contextlib.suppress(Exception):
                _backward(output)
    found["gradients"] = [(name, fingerprint(parameter.grad)) for name, parameter in named_parameters(model)]
    found["random numbers"] = _random_state()
    found["training"] = [attributes_of(module).get("training") for _, module in named_modules(model)]
    return found


def _backward(output: object) -> None:
    tensors = [
        tensor for tensor in torch.utils._pytree.tree_leaves(output) if isinstance(tensor, torch.Tensor)
    ]
    losses = [tensor.float().sum() for tensor in tensors if tensor.requires_grad]
    torch.stack(losses).sum().backward()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _exception(error: BaseException) -> Bits:
    try:
        text = str(error)[:1_000]
    except Exception:
        text = "cannot be printed"
    return type(error).__name__, text, list(_frames(error.__traceback__))


def _frames(traceback: TracebackType | None) -> Iterator[tuple[str, str]]:
    """File and function of each frame but torch's own, which differ when there are hooks."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename not in (_TORCH_MODULE_FILE, __file__):
            yield code.co_filename, code.co_name
        traceback = traceback.tb_next


def _copies(model: nn.Module) -> Observation:
    return {
        "state_dict": _attempt(lambda: fingerprint(nn.Module.state_dict(model))),
        "pickle": _attempt(lambda: _pickled(model)),
        "torch.save": _attempt(lambda: _saved(model)),
        "deepcopy": _attempt(lambda: _state(copy.deepcopy(model))),
    }


class _FastPickler(pickle.Pickler):
    """Writes every object in full: whether two equal strings are one object depends on what else is alive."""

    def __init__(self, file: io.BytesIO, protocol: int | None = None) -> None:
        super().__init__(file, protocol)
        self.fast = True


class _Pickler(_FastPickler):
    """Numbers tensors instead of writing them: outside of `torch.save` that writes their address."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._tensors: dict[int, tuple[int, torch.Tensor]] = {}

    def persistent_id(self, value: object) -> int | None:
        if issubclass(type(value), torch.Tensor):
            return self._tensors.setdefault(id(value), (len(self._tensors), value))[0]
        return None


def _pickled(model: nn.Module) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(model)
    return file.getvalue()


def _saved(model: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(model, file, pickle_module=SimpleNamespace(Pickler=_FastPickler))
    return file.getvalue()


def _attempt(action: Callable[[], Bits]) -> Bits:
    try:
        return action()
    except Exception as error:
        return type(error).__name__


def _state(model: nn.Module) -> Bits:
    """Every attribute of every module that is data."""
    return [
        (name, type.__dict__["__name__"].__get__(type(module)), key, fingerprint(value))
        for name, module in named_modules(model)
        for key, value in attributes_of(module).items()
        if key != "_modules"
    ]


def _attributes(module: nn.Module) -> Bits:
    return [(key, len(value) if key.endswith("hooks") else 0) for key, value in attributes_of(module).items()]


def _random_state() -> Bits:
    numbers = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), repr(numbers)


def _modes() -> Bits:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        str(torch.get_default_dtype()),
        torch.get_num_threads(),
    )


def _process() -> Bits:
    return (
        sys.getrecursionlimit(),
        sys.excepthook,
        sys.getprofile(),
        sys.gettrace(),
        threading.excepthook,
        threading.active_count(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        gc.get_threshold(),
        gc.isenabled(),
        len(gc.callbacks),
        {name: value for name, value in vars(nn.Module).items() if callable(value)},
    )


def global_hooks() -> dict[str, int]:
    """How many entries each of torch's registries of hooks common to all modules has."""
    return {name: len(vars(nn.modules.module)[name]) for name in _HOOK_REGISTRIES}
