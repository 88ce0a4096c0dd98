"""Torch's functions as calls: what a module computes itself, between its submodules.

A function mode on the thread that starts the recording is handed every function of torch that Python calls there, the
outermost ones only: what `F.cross_entropy` calls in turn is its own affair. `autograd.Function.apply` is no such
function, so it is replaced while recording. A call is known by the place in the code that makes it: its name, the line
and the signatures it saw last are kept with that place, so a call that is like the last one there costs two comparisons.

The program's functions run as they were called, once. What asks whether a tensor is overridden is answered as if
nothing were there: torch leaves its fused kernels where it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from types import CodeType, FrameType
from typing import Any, Final

import torch

from modtrace.capture.classes import class_name, inherits
from modtrace.capture.hooks import RUNNERS, error_number, unwind
from modtrace.capture.state import State
from modtrace.capture.labels import Labels
from modtrace.capture.lanes import CODE_SHIFT, KIND_SHIFT, RAISED, RETURNED, Lane, OpenCall
from modtrace.capture.own_hooks import UNKNOWN_OUTPUT
from modtrace.capture.raised import is_early_stop
from modtrace.capture.seen import Check, Entry, Memory, guard_of, has_grad, remember
from modtrace.capture.signature import arguments_key, keywords_key, value_key
from modtrace.capture.unseen import unseen
from modtrace.trace.schema import FUNCTION

MANY_SITES: Final = 20_000
"""Places in code that are remembered; a program that writes code as it goes starts the memory again."""
STOPPED: Final = "functions are not recorded any more: the program compiles with torch.compile"
COMPILED_BEFORE: Final = "functions are not recorded: the program had compiled with torch.compile before the trace"
_ACCESSOR: Final = type(torch.Tensor.shape.__get__)
_ASKING: Final = frozenset(
    "size dim ndimension numel nelement stride storage_offset element_size data_ptr is_contiguous is_floating_point"
    " is_complex is_signed is_conj is_neg is_inference is_same_size is_storage is_tensor is_set_to get_device has_names"
    " untyped_storage storage storage_type type_as_shape register_hook register_post_accumulate_grad_hook"
    " retain_grad backward dim_order result_type can_cast __len__ __hash__ __repr__ __format__ __dir__ __reduce_ex__"
    " __deepcopy__ __setstate__ __cuda_array_interface__ _is_view _nested_tensor_size is_shared refine_names".split()
)
"""Functions that compute nothing, or whose work is a phase of its own: they are no rows."""


class Site(Entry):
    """A place in the code that calls a function of torch."""

    __slots__ = ("function", "made_in", "named", "passes")

    def __init__(self, number: int, code: CodeType, function: Any, made_in: CodeType, *, passes: bool) -> None:
        super().__init__(number, FUNCTION, code)
        self.function = function
        self.made_in = made_in
        self.named: tuple[Check, int] = (_never, -1)
        self.passes = passes


def _never(_: Any) -> bool:
    return False


class Functions:
    """Records the functions of one trace between `install` and `remove`."""

    def __init__(self, state: State, labels: Labels) -> None:
        self._state = state
        self._labels = labels
        self._sites: dict[tuple[int, int], Site | None] = {}
        self._more: dict[tuple[int, int, int], Site] = {}
        self._classes: dict[Any, Entry] = {}
        self._mode: Any = None
        self._apply: tuple[Any, Any] | None = None
        self._asks: tuple[Any, Any] | None = None

    @property
    def active(self) -> bool:
        """Whether functions are being recorded."""
        return self._mode is not None

    def install(self) -> str | None:
        """Begin, on this thread. Why it could not is what is returned."""
        if _has_compiled():
            return COMPILED_BEFORE
        self._mode = _mode_class(self._handler())()
        torch._C._push_on_torch_function_stack(self._mode)
        self._replace_apply()
        self._answer()
        return None

    @contextmanager
    def mode_alone(self) -> Iterator[None]:
        """The mode alone, for as long as its cost is measured."""
        self._mode = self._mode or _mode_class(self._handler())()
        torch._C._push_on_torch_function_stack(self._mode)
        try:
            yield
        finally:
            _take_out(self._mode)

    def remove(self) -> None:
        """End; does nothing the second time. On another thread than that of `install` the mode only passes on."""
        mode, self._mode = self._mode, None
        if mode is not None:
            _take_out(mode)
        for owner, name, kept in (
            (torch.autograd.Function, "apply", self._apply),
            (torch.overrides, "has_torch_function", self._asks),
        ):
            if kept is not None and vars(owner).get(name) is kept[1]:
                setattr(owner, name, kept[0])
        self._apply = self._asks = None

    def show(self) -> bool:
        """Put the mode back for a backward: `Tensor.backward` is a function too, so torch has taken it off. Whether
        that was needed is returned, and `hide` must follow then.
        """
        core, mode = torch._C, self._mode
        if mode is None or _stands(mode):
            return False
        core._push_on_torch_function_stack(mode)
        return True

    def hide(self) -> None:
        """Take the mode off again."""
        mode = self._mode
        if mode is not None:
            _take_out(mode)

    def class_of(self, node: Any) -> type | None:
        """The `autograd.Function` that a node of the graph is the backward of; None for a node of torch's own."""
        if not isinstance(node, torch.autograd.function.BackwardCFunction):
            return None
        kind = getattr(type(node), "_forward_cls", None)
        return kind if isinstance(kind, type) else None

    def backward_of(self, kind: type, code: CodeType) -> Entry:
        """What the backward of an `autograd.Function` is an execution of."""
        return self._of_class(kind, "backward", code)

    # the mode ---------------------------------------------------------------------------------------------------

    def _handler(self) -> Callable[..., Any]:
        """`__torch_function__` of the mode, with everything that it touches bound as a local."""
        state, sites = self._state, self._sites
        lanes, clock, get_frame, find_site = state.lanes, state.clock, sys._getframe, self._site
        grad_enabled, accessor, kind = torch._C.is_grad_enabled, _ACCESSOR, FUNCTION << KIND_SHIFT

        def run(_: Any, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if type(function) is accessor or state.off or self._mode is None:
                return function(*args, **kwargs) if kwargs else function(*args)
            mine: OpenCall | None = None
            try:
                frame = get_frame(1)
                site = sites.get((id(frame.f_code), frame.f_lasti))
                if site is None or site.function is not function:
                    site, frame = find_site(function, frame)
                if not site.passes:
                    lane = lanes.lane
                    calls = lane.calls
                    if calls and id(frame.f_back) != calls[-1][0]:
                        unwind(lane, frame)
                    alike, _grads, given = site.given
                    if not alike(args) or not grad_enabled():
                        given = _arguments(state, lane, site, args)
                    mine = (id(get_frame()), lane.next_call(), site, given, clock(), -1)
                    calls.append(mine)
            except Exception as fault:
                state.fault(fault)
            if mine is None:
                return function(*args, **kwargs) if kwargs else function(*args)
            try:
                result = function(*args, **kwargs) if kwargs else function(*args)
            except BaseException as error:
                _raised(state, lane, mine, error)
                raise
            now = clock()
            try:
                if not calls or calls[-1] is not mine:
                    if not _still_open(lane, mine):
                        return result
                alike, requires_grad, returned = site.returned
                if not alike(result) or (not grad_enabled() and has_grad(result) is not requires_grad):
                    returned = _result(state, lane, site, result)
                named = 0
                if kwargs:
                    same, named = site.named
                    if not same(kwargs):
                        named = _keywords(state, lane, site, kwargs)
                _, call, _, given, start, _ = mine
                depth = len(calls) - 1
                lane.extend((call, site.number, given, kind | depth, start, named, returned, now))
                calls.pop()
                if now > state.due:
                    state.flush(lane)
            except Exception as fault:
                state.fault(fault)
            return result

        RUNNERS.add(run.__code__)
        self._code = run.__code__
        unseen(run)
        return run

    def _site(self, function: Any, frame: FrameType) -> tuple[Site, FrameType]:
        """The place that calls a function, and the frame of the code that does: not one of torch's that dispatches."""
        caller = frame
        while caller.f_code.co_filename in _DISPATCHING and caller.f_back is not None:
            caller = caller.f_back
        code = caller.f_code
        place = (id(code), caller.f_lasti)
        site = self._sites.get(place)
        if site is None or site.function is not function:
            site = self._more.get((*place, id(function)))
        if site is None or site.function is not function:
            site = self._new_site(function, caller)
            if len(self._sites) + len(self._more) > MANY_SITES:
                self._sites.clear()
                self._more.clear()
            if caller is frame and place not in self._sites:
                self._sites[place] = site
            else:
                self._more[(*place, id(function))] = site
        return site, caller

    def _new_site(self, function: Any, frame: FrameType) -> Site:
        name = function_name(function)
        passes = name.rpartition(".")[2] in _ASKING or name.startswith("torch.ops.profiler.") or _tracing()
        code = frame.f_code
        number = 0
        if not passes:
            number = self._labels.place(name, code.co_filename, frame.f_lineno, frame.f_lasti)
        return Site(number, self._code, function, code, passes=passes)

    # autograd.Function ------------------------------------------------------------------------------------------

    def _replace_apply(self) -> None:
        owner: Any = torch.autograd.Function
        original = vars(owner).get("apply")
        inner = getattr(original, "__func__", None)
        if inner is None:  # another torch
            return
        begin, end = self._begin, self._end

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            mine = begin(cls, args, sys._getframe())
            if mine is None:
                return inner(cls, *args, **kwargs)
            try:
                result = inner(cls, *args, **kwargs)
            except BaseException as error:
                _raised(self._state, self._state.lanes.lane, mine, error)
                raise
            end(mine, kwargs, result)
            return result

        apply.__doc__, apply.__name__, apply.__qualname__ = inner.__doc__, inner.__name__, inner.__qualname__
        apply.__module__, apply.__wrapped__ = inner.__module__, inner  # type: ignore[attr-defined]
        RUNNERS.add(apply.__code__)
        self._apply_code = apply.__code__
        replacement = classmethod(apply)
        self._apply = (original, replacement)
        owner.apply = replacement

    def _of_class(self, kind: type, verb: str, code: CodeType) -> Entry:
        known = self._classes.get((kind, verb))
        if known is None:
            made = vars(kind).get(verb)
            held = getattr(getattr(made, "__func__", made), "__code__", None)
            file, line = (held.co_filename, held.co_firstlineno) if held is not None else (None, None)
            number = self._labels.place(f"{class_name(kind)}.{verb}", file, line, None, "autograd.Function")
            known = self._classes.setdefault((kind, verb), Entry(number, FUNCTION, code))
        return known

    def _begin(self, kind: Any, args: Any, frame: FrameType) -> OpenCall | None:
        state = self._state
        if state.off or self._mode is None or _tracing():
            return None
        try:
            lane = state.lanes.lane
            if lane.calls:
                unwind(lane, frame)
            entry = self._of_class(kind, "forward", frame.f_code)
            given = state.signatures.number(arguments_key(args, vmapped=lane.transformed > 0))
            mine = (id(frame), lane.next_call(), entry, given, state.clock(), -1)
            lane.calls.append(mine)
            return mine
        except Exception as fault:
            state.fault(fault)
            return None

    def _end(self, mine: OpenCall, kwargs: dict[str, Any], result: Any) -> None:
        state = self._state
        now = state.clock()
        try:
            lane = state.lanes.lane
            if state.off or not _still_open(lane, mine):
                return
            vmapped = lane.transformed > 0
            named = state.signatures.number(keywords_key(kwargs, vmapped=vmapped)) if kwargs else 0
            returned = state.signatures.number(value_key(result, vmapped=vmapped))
            _, call, entry, given, start, _ = mine
            word = FUNCTION << KIND_SHIFT | len(lane.calls) - 1
            lane.extend((call, entry.number, given, word, start, named, returned, now))
            lane.calls.pop()
        except Exception as fault:
            state.fault(fault)

    # what asks --------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """Whether a tensor is overridden is answered as without us: torch's fused layers ask, and take another path."""
        original = torch.overrides.has_torch_function

        def has_torch_function(relevant_args: Any) -> bool:
            if not original(relevant_args):
                return False
            mode = self._mode
            core: Any = torch._C
            if mode is None or core._len_torch_function_stack() != 1 or core._get_function_stack_at(0) is not mode:
                return True
            core._pop_torch_function_stack()
            try:
                return original(relevant_args)
            finally:
                core._push_on_torch_function_stack(mode)

        self._asks = (original, has_torch_function)
        torch.overrides.has_torch_function = has_torch_function


def _still_open(lane: Lane, mine: OpenCall) -> bool:
    """Close calls inside one that is over; False where it is not open any more."""
    for depth in range(len(lane.calls) - 1, -1, -1):
        if lane.calls[depth] is mine:
            lane.abort(depth + 1)
            return True
    return False


def _raised(state: State, lane: Lane, mine: OpenCall, error: BaseException) -> None:
    now = state.clock()
    try:
        if state.off or not _still_open(lane, mine):
            return
        code, result = RETURNED, UNKNOWN_OUTPUT
        if not is_early_stop(error):
            code, result = RAISED, error_number(state, lane, error, now)
        _, call, entry, given, start, _ = mine
        depth = len(lane.calls) - 1
        word = FUNCTION << KIND_SHIFT | code << CODE_SHIFT | depth
        lane.extend((call, entry.number, given, word, start, 0, result, now))
        lane.calls.pop()
    except Exception as fault:
        state.fault(fault)


def _arguments(state: State, lane: Lane, site: Site, args: tuple[Any, ...]) -> int:
    """The signature of arguments that are not like the last ones; while grad mode is off no guard sees all of it."""
    started = state.clock()
    number = state.signatures.number(arguments_key(args, vmapped=lane.transformed > 0))
    last: Memory = site.given
    if last[2] != number:
        site.given = (_never, False, number)
    elif last[0] is _never and not lane.transformed:
        site.given = (_like(args), False, number)
    lane.cost(len(lane.calls) - 1, state.clock() - started)
    return number


def _keywords(state: State, lane: Lane, site: Site, kwargs: dict[str, Any]) -> int:
    started = state.clock()
    number = state.signatures.number(keywords_key(kwargs, vmapped=lane.transformed > 0))
    same = _like_keywords(kwargs) if site.named[1] == number and not lane.transformed else _never
    site.named = (same, number)
    lane.cost(len(lane.calls) - 2, state.clock() - started)
    return number


def _result(state: State, lane: Lane, site: Site, value: Any) -> int:
    kind = type(value)
    if (kind is torch.Tensor or kind is torch.nn.Parameter) and not lane.transformed:
        with torch._C.DisableTorchFunction():
            nested = value.is_nested
        if not nested:
            number = state.signatures.of_tensor(value)
            site.returned = remember(site.returned, value, number)
            return number
    started = state.clock()
    number = state.signatures.number(value_key(value, vmapped=lane.transformed > 0))
    lane.cost(len(lane.calls) - 2, state.clock() - started)
    return number


_SCALARS: Final = (int, float, bool, complex, type(None), torch.dtype, torch.device, torch.memory_format, torch.layout)


def _like(args: tuple[Any, ...]) -> Check:
    """A check that says whether arguments have the signature of `args`."""
    tensors = [at for at, value in enumerate(args) if _is_tensor(value)]
    others = [(at, _likeness(value)) for at, value in enumerate(args) if at not in tensors]
    if any(check is _never for _, check in others):
        return _never
    checks = [(at, guard_of(args[at])) for at in tensors] + others  # each apart: one guard of two refuses a pair of one
    count = len(args)
    if count == len(checks) == 1:
        return _alone(checks[0][1])
    if count == 2:
        return _pair(*[check for _, check in sorted(checks, key=itemgetter(0))])

    def check(given: tuple[Any, ...]) -> bool:
        if len(given) != count:
            return False
        for at, likeness in checks:
            if not likeness(given[at]):
                return False
        return True

    return check


def _alone(first: Check) -> Check:
    return lambda given: len(given) == 1 and first(given[0])


def _pair(first: Check, second: Check) -> Check:
    return lambda given: len(given) == 2 and first(given[0]) and second(given[1])


def _like_keywords(kwargs: dict[str, Any]) -> Check:
    names = tuple(kwargs)
    alike = _like(tuple(kwargs.values()))
    return lambda given: tuple(given) == names and alike(tuple(given.values()))


def _likeness(value: Any) -> Check:
    """A check for what is no tensor: a type, or a short sequence of integers. `_never` where only a walk can tell."""
    kind = type(value)
    if kind in _SCALARS:
        return lambda other: type(other) is kind
    if kind is str:
        length = len(value)
        return lambda other: type(other) is str and len(other) == length
    if kind is torch.Size:
        return lambda other: type(other) is torch.Size
    if (kind is tuple or kind is list) and len(value) <= 8 and all(type(item) is int for item in value):
        length = len(value)
        return lambda other: type(other) is kind and len(other) == length and all(type(i) is int for i in other)
    return _never


def _is_tensor(value: Any) -> bool:
    kind = type(value)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        return False
    with torch._C.DisableTorchFunction():
        return not value.is_nested


def function_name(function: Any) -> str:
    """What people call a function of torch: torch.pow, Tensor.view, F.relu."""
    short = str(getattr(function, "__name__", "?"))
    owner = getattr(function, "__objclass__", None)
    if owner is not None and isinstance(owner, type):
        return f"Tensor.{short}" if inherits(torch.Tensor, owner) else f"{class_name(owner)}.{short}"
    module = getattr(function, "__module__", None)
    if module == "torch.nn.functional":
        return f"F.{short}"
    qualified = str(getattr(function, "__qualname__", short))
    if module in ("torch._tensor", "torch.Tensor") or qualified.startswith("Tensor."):
        return f"Tensor.{short}"
    holder = getattr(function, "__self__", None)
    if getattr(holder, "__name__", None) == "torch._C._nn":
        return f"F.{short}"
    if holder is not None and getattr(holder, "__name__", "").startswith(("_VariableFunctions", "torch._C")):
        return f"torch.{short}"
    if isinstance(module, str) and module.startswith("torch._ops."):
        return f"torch.ops.{module.removeprefix('torch._ops.')}.{short}"
    return f"{module}.{short}" if isinstance(module, str) and module.startswith("torch") else f"torch.{short}"


def _files() -> frozenset[str]:
    """Files of torch whose functions hand themselves over to the mode before they do anything."""
    modules: list[Any] = [torch.nn.functional, torch.overrides, torch.functional, torch._jit_internal, torch.nn.init]
    modules += [sys.modules.get(name) for name in ("torch._tensor", "torch._VF", "contextlib")]
    return frozenset(str(module.__file__) for module in modules if getattr(module, "__file__", None))


_DISPATCHING: Final = _files()


def _tracing() -> bool:
    """Whether a graph is being made: those are no calls of the program."""
    compiler: Any = torch.compiler
    symbolic: Any = torch.fx._symbolic_trace
    return bool(
        compiler.is_dynamo_compiling()
        or compiler._is_compiling_flag
        or torch._C._get_tracing_state()
        or symbolic._is_fx_tracing_flag
    )


def _has_compiled() -> bool:
    """Whether torch's compiler has compiled anything yet: what it made is guarded on the function modes."""
    utils: Any = sys.modules.get("torch._dynamo.utils")
    counters = getattr(utils, "counters", None)
    return bool(counters and counters.get("frames", {}).get("total", 0))


def _mode_class(run: Callable[..., Any]) -> type:
    """torch looks `__torch_function__` up as a method and calls it with the mode."""
    return type("Mode", (), {"__torch_function__": run})


def _stands(mode: Any) -> bool:
    core: Any = torch._C
    return any(core._get_function_stack_at(at) is mode for at in range(core._len_torch_function_stack()))


def _take_out(mode: Any) -> None:
    """Take our mode off this thread's stack, wherever it stands in it."""
    core: Any = torch._C
    if not _stands(mode):
        return
    above: list[Any] = []
    while (top := core._pop_torch_function_stack()) is not mode:
        above.append(top)
    for one in reversed(above):
        core._push_on_torch_function_stack(one)


unseen(Functions._begin, Functions._end, _raised)
