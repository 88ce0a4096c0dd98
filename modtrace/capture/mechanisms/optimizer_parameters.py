"""Parameters in each optimizer, and those that had a gradient when one stepped.

A look costs about half a microsecond a parameter, so it is taken rarely, when an optimizer steps:
- at the parameters of all modules in steps 1, 2, 4, 8 and so on, counted over all optimizers; when an optimizer steps
  that has parameters which are not known; and at the end;
- at those of one optimizer in its first step, and again when it has got more;
- in every step at those that had no gradient so far, where they are few.

No tensor operation runs, nothing is kept alive, and no weak reference to a tensor is made: `torch.utils.swap_tensors`
refuses tensors that have one.
"""

from __future__ import annotations

import contextlib
import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from modtrace.capture.engine.classes import inherits
from modtrace.capture.engine.context import TraceContext
from modtrace.capture.engine.module_facts import raw
from modtrace.capture.torch_private.contexts import without_functions
from modtrace.capture.torch_private.names import version_of
from modtrace.capture.torch_private.spelled import PARAMETERS
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT

QUIET: Final = 64
"""So many parameters without a gradient are looked at in every step."""
FREE_LOOKS: Final = 16
COST_SHARE: Final = 50
"""After FREE_LOOKS, new optimizers cause looks only while all looks together have cost less than one COST_SHAREth of
the time: a program may make a thousand of them.
"""
SEARCHES: Final = 1
"""A search for optimizers that have not stepped yet takes a tenth of a second: so often, and at the end."""

_TENSOR: Any = torch.Tensor
_is_leaf, _grad = _TENSOR.is_leaf.__get__, _TENSOR.grad.__get__
_requires_grad, _shape = _TENSOR.requires_grad.__get__, _TENSOR.shape.__get__

Place = tuple[int, str]
"""(number of a module, name of a parameter of its own)."""


class _Optimizer:
    """Facts about one optimizer. `quiet` are (group, position) of its parameters without a gradient so far."""

    __slots__ = ("foreign_elements", "quiet", "reference", "size", "steps")

    def __init__(self, optimizer: Any) -> None:
        self.reference: Callable[[], Any] = _gone
        with contextlib.suppress(TypeError):  # one that cannot be referred to is a new one in every step
            self.reference = weakref.ref(optimizer)
        self.steps = 0
        self.size = -1
        self.quiet: list[tuple[int, int]] = []
        self.foreign_elements = 0


def _gone() -> None:
    return None


class _Row:
    """One parameter of a module; `version` is torch's count of changes in place when it was first looked at."""

    __slots__ = ("changed", "had_gradient", "in_optimizer", "parameter", "requires_grad", "version")

    def __init__(self, parameter: int, version: int | None) -> None:
        self.parameter = parameter
        self.version = version
        self.requires_grad = self.in_optimizer = self.had_gradient = self.changed = False


class OptimizerParameters:
    """Records for one trace which parameters optimizers have. Nothing here raises."""

    def __init__(self, context: TraceContext) -> None:
        self.gaps: list[str] = []
        self.spent_ns = 0
        """Cost of looking at optimizers so far, nanoseconds."""
        self._context = context
        self._optimizers: dict[int, _Optimizer] = {}
        self._owned: set[int] = set()
        self._with_gradient: set[int] = set()
        self._parameters: dict[int, int] = {}
        """id of a tensor -> its key, of those that were seen at the last look at all modules."""
        self._places: dict[int, list[Place]] = {}
        self._rows: dict[Place, _Row] = {}
        self._new: list[dict[str, Any]] = []
        self._count = 0
        self._steps = 0
        self._looks = 0
        self._searches = 0
        self._foreign_of_dead = 0
        self._foreign_elements = 0
        self._owed = False
        self._off = False
        self._lock = threading.Lock()
        self._began_ns = context.clock()

    def optimizer_began(self, optimizer: Any, _: int) -> None:
        """An optimizer is about to step; its phase is open."""
        self._guarded(self._step_begins, optimizer)

    def optimizer_stepped(self, optimizer: Any) -> None:
        """An optimizer has stepped: the closure of some makes the gradients."""
        self._guarded(self._step_ended, optimizer)

    def stop(self) -> None:
        """Look a last time."""
        if self._steps and not self._off:
            self._guarded(self._last_look, None)

    def rows(self) -> dict[str, list[Any]]:
        """New rows of `parameters`, as columns."""
        new, self._new = self._new, []
        return {name: [row[name] for row in new] for name in new[0]} if new else {}

    def module_entered(self, number: int, module: Any) -> None:
        """A module was seen for the first time: it may hold parameters of others, such as one made in a forward."""
        if not self._looks or self._off:
            return
        for name, tensor in own_parameters(module):
            if id(tensor) in self._places:
                with without_functions():
                    self._note((number, name), tensor, self._parameters[id(tensor)], self._rows)
                self._places[id(tensor)].append((number, name))

    def _guarded(self, look: Callable[[Any], None], optimizer: Any) -> None:
        if self._off or not self._lock.acquire(blocking=False):
            return
        started = self._context.clock()
        try:
            with without_functions():
                look(optimizer)
        except Exception as fault:
            self._off = True
            self.gaps.append(f"which parameters are in an optimizer is not known: {type(fault).__name__}")
        finally:
            self._lock.release()
        spent = self._context.clock() - started
        self.spent_ns += spent
        buffer = self._context.buffers.current
        buffer.cost(len(buffer.calls) - 1, spent)

    def _step_begins(self, optimizer: Any) -> None:
        self._steps += 1
        about = self._optimizers.get(id(optimizer))
        if about is None or about.reference() is not optimizer:
            self._foreign_of_dead += about.foreign_elements if about is not None else 0
            about = self._optimizers[id(optimizer)] = _Optimizer(optimizer)
        about.steps += 1
        size = sum(len(group) for group in _groups(optimizer))
        if size != about.size:
            about.size = size
            self._take(optimizer)
            about.quiet = [
                (group_index, position)
                for group_index, group in enumerate(_groups(optimizer))
                for position in range(len(group))
            ]
            self._owed |= any(id(tensor) not in self._parameters for tensor in members_of(optimizer))
        if about.quiet and (len(about.quiet) <= QUIET or _power_of_two(about.steps)):
            self._hear(optimizer, about)
        if _power_of_two(self._steps) or (self._owed and self._affordable()):
            self._look()

    def _step_ended(self, optimizer: Any) -> None:
        about = self._optimizers.get(id(optimizer))
        if about is not None and about.reference() is optimizer and 0 < len(about.quiet) <= QUIET:
            self._hear(optimizer, about)

    def _last_look(self, _: Any) -> None:
        self._look(last=True)

    def _affordable(self) -> bool:
        elapsed = self._context.clock() - self._began_ns
        return self._looks < FREE_LOOKS or self.spent_ns * COST_SHARE < elapsed

    def _take(self, optimizer: Any) -> None:
        """Note that these parameters are in an optimizer."""
        for tensor in members_of(optimizer):
            self._owned.add(id(tensor))
            for place in self._places.get(id(tensor), ()):
                row = self._rows.get(place)
                if row is not None and not row.in_optimizer:
                    row.in_optimizer = True
                    self._write(place, row)

    def _hear(self, optimizer: Any, about: _Optimizer) -> None:
        """Look at those parameters of an optimizer that had no gradient so far."""
        groups, quiet = list(_groups(optimizer)), []
        for group_index, position in about.quiet:
            if group_index >= len(groups) or position >= len(groups[group_index]):
                continue
            tensor = groups[group_index][position]
            if not _has_gradient(tensor):
                quiet.append((group_index, position))
                continue
            self._with_gradient.add(id(tensor))
            for place in self._places.get(id(tensor), ()):
                row = self._rows.get(place)
                if row is not None and not row.had_gradient:
                    row.had_gradient = True
                    self._write(place, row)
        about.quiet = quiet

    def _look(self, *, last: bool = False) -> None:
        """Look at the parameters of all modules that live."""
        self._looks += 1
        self._owed = False
        registry = self._context.registry
        self._take_living()
        parameters: dict[int, int] = {}
        places: dict[int, list[Place]] = {}
        rows: dict[Place, _Row] = {}
        for module in registry.living():
            number = registry.number_of(module)
            if number is None:
                continue
            for name, tensor in own_parameters(module):
                key = parameters.get(id(tensor))
                if key is None:
                    key = parameters[id(tensor)] = self._parameters.get(id(tensor), self._count)
                    self._count += key == self._count
                places.setdefault(id(tensor), []).append((number, name))
                self._note((number, name), tensor, key, rows)
        self._parameters, self._places, self._rows = parameters, places, rows
        self._with_gradient &= parameters.keys()
        self._note_foreign()
        if any(_suspicious(row) for row in rows.values()) and (last or self._searches < SEARCHES):
            self._searches += 1
            for optimizer in _all_optimizers():
                self._take(optimizer)

    def _take_living(self) -> None:
        """Drop optimizers that are gone; what they had is kept of those parameters that are known."""
        self._owned &= self._parameters.keys() | self._with_gradient
        for key, about in list(self._optimizers.items()):
            optimizer = about.reference()
            if optimizer is None:
                self._foreign_of_dead += about.foreign_elements
                del self._optimizers[key]
            else:
                self._take(optimizer)

    def _note(self, place: Place, tensor: Any, key: int, rows: dict[Place, _Row]) -> None:
        row = self._rows.get(place)
        fresh = row is None or row.parameter != key
        if row is None or fresh:
            row = _Row(key, _version_of(tensor))
        before = (row.requires_grad, row.in_optimizer, row.had_gradient, row.changed)
        row.requires_grad = bool(_requires_grad(tensor))
        row.in_optimizer |= id(tensor) in self._owned
        row.had_gradient |= id(tensor) in self._with_gradient or _has_gradient(tensor)
        row.changed |= row.version is None or _version_of(tensor) != row.version
        rows[place] = row
        if row.had_gradient:
            self._with_gradient.add(id(tensor))
        if fresh or before != (row.requires_grad, row.in_optimizer, row.had_gradient, row.changed):
            self._write(place, row)

    def _note_foreign(self) -> None:
        """Count the elements of optimizers' parameters that are of no module, such as copies or shards."""
        for about in self._optimizers.values():
            optimizer = about.reference()
            if optimizer is not None:
                about.foreign_elements = sum(
                    _elements(tensor)
                    for tensor in members_of(optimizer)
                    if id(tensor) not in self._parameters
                )
        total = self._foreign_of_dead + sum(about.foreign_elements for about in self._optimizers.values())
        if total != self._foreign_elements:
            self._foreign_elements = total
            self._new.append(_columns(None, "", None, elements=total, in_optimizer=True))

    def _write(self, place: Place, row: _Row) -> None:
        number, name = place
        self._new.append(
            _columns(
                number,
                plain(name, TEXT_LIMIT),
                row.parameter,
                elements=None,
                requires_grad=row.requires_grad,
                in_optimizer=row.in_optimizer,
                had_gradient=row.had_gradient,
                changed=row.changed,
            )
        )


def _columns(
    module: int | None,
    name: str,
    parameter: int | None,
    *,
    elements: int | None,
    requires_grad: bool = False,
    in_optimizer: bool = False,
    had_gradient: bool = False,
    changed: bool = False,
) -> dict[str, Any]:
    return {
        "module": module,
        "name": name,
        "parameter": parameter,
        "elements": elements,
        "requires_grad": requires_grad,
        "in_optimizer": in_optimizer,
        "had_gradient": had_gradient,
        "changed": changed,
    }


def _suspicious(row: _Row) -> bool:
    return row.requires_grad and row.had_gradient and not row.in_optimizer and not row.changed


def _power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _groups(optimizer: Any) -> Iterator[list[Any]]:
    """The lists of parameters of an optimizer, past any property of its class."""
    try:
        groups = object.__getattribute__(optimizer, "__dict__").get("param_groups")
    except AttributeError:
        return
    for group in groups if isinstance(groups, list) else ():
        members = group.get("params") if isinstance(group, dict) else None
        yield members if isinstance(members, list) else []


def members_of(optimizer: Any) -> Iterator[Any]:
    """The tensors that an optimizer has."""
    for group in _groups(optimizer):
        for tensor in group:
            if _is_tensor(tensor):
                yield tensor


def own_parameters(module: Any) -> Iterator[tuple[str, Any]]:
    """Name and tensor of the module's own parameters, without running any code of its class."""
    parameters = raw(module).get(PARAMETERS)
    for name, tensor in dict.items(parameters) if isinstance(parameters, dict) else ():
        if _is_tensor(tensor):
            yield str(name), tensor


def _is_tensor(value: Any) -> bool:
    cls = type(value)
    return cls is torch.nn.Parameter or inherits(cls, torch.Tensor)


def _has_gradient(tensor: Any) -> bool:
    """True if `.grad` is there. That of what is no leaf is not asked for: torch would warn."""
    return bool(_is_tensor(tensor) and _is_leaf(tensor) and _grad(tensor) is not None)


def _version_of(tensor: Any) -> int | None:
    try:
        return int(version_of.__get__(tensor))
    except Exception:  # an inference tensor counts nothing, and another torch may not tell
        return None


def _elements(tensor: Any) -> int:
    try:
        return math.prod(int(size) for size in _shape(tensor))
    except Exception:  # no size yet
        return 0


def _all_optimizers() -> list[Any]:
    """The optimizers that live, those that have not stepped yet among them."""
    base = torch.optim.Optimizer
    return [thing for thing in gc.get_objects() if inherits(type(thing), base)]
