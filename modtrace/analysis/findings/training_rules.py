"""Rules about training: modules without use or gradient, layers without an optimizer, graphs that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from modtrace.analysis.columns import column, distinct_keys, nullable_codes, values_and_known
from modtrace.analysis.findings.base import Facts, Finding, ended_early, listed
from modtrace.analysis.module_parameters import own_parameters
from modtrace.analysis.modules import module_names
from modtrace.analysis.phases import FORWARD, RECOMPUTE
from modtrace.analysis.roots import roots
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD, MODULE
from modtrace.units import duration, plural

TRAINED_STEPS: Final = 2
"""Whole steps that are needed to say what is not trained."""
SIBLING_STEPS: Final = 30
"""The same where siblings of one class ran: experts and dropped layers take turns."""
MADE_STEPS: Final = 3
LOOSE_ELEMENTS: Final = 16
"""So many elements of optimizers may be of no module, such as a temperature. More may be copies of parameters in
another type, or shards of them: then it is not known what the optimizers train.
"""


@dataclass(frozen=True)
class _Parameters:
    """The table `parameters` of one process: module -> its rows, as (name, key, flags)."""

    of_module: Mapping[int, list[dict[str, object]]]
    loose_elements: int

    def any(self, module: int, *flags: str) -> bool:
        """True where a parameter of the module itself has all these flags."""
        return any(all(row[flag] for flag in flags) for row in self.of_module.get(module, ()))


def _parameters(stored: Stored) -> _Parameters:
    of_module: dict[int, list[dict[str, object]]] = {}
    loose = 0
    for row in stored.table("parameters").to_pylist():
        if row["process"]:
            continue
        if row["module"] is None:
            loose = row["elements"] or 0
        else:
            of_module.setdefault(row["module"], []).append(row)
    return _Parameters(of_module, loose)


class _Trees:
    """The modules of a trace by their names, and the largest parts of them that have something in common."""

    def __init__(self, stored: Stored) -> None:
        table = stored.table("names")
        roots, modules = column(table, "root").tolist(), column(table, "module").tolist()
        self.types: list[str] = stored.table("modules").column("type").to_pylist()
        self.paths: list[tuple[int, str, int]] = []
        for root, module, name, aliases in zip(
            roots,
            modules,
            table.column("name").to_pylist(),
            table.column("aliases").to_pylist(),
            strict=True,
        ):
            self.paths += [(root, text, module) for text in (name, *(aliases or ()))]

    def largest(self, chosen: set[int], others: set[int]) -> list[tuple[int, str, list[int]]]:
        """(root, name, modules) of the largest parts with a module of `chosen` in them and none of `others`."""
        spoiled: set[tuple[int, str]] = set()
        for root, path, module in self.paths:
            if module in others:
                _mark(spoiled, root, path)
        parts: dict[tuple[int, str], list[int]] = {}
        seen: set[int] = set()
        for root, path, module in sorted(self.paths):
            if (root, path) in spoiled:
                continue
            top = path
            while top and (root, above := top.rpartition(".")[0]) not in spoiled:
                top = above
            if module not in seen:
                seen.add(module)
                parts.setdefault((root, top), []).append(module)
        return [
            (root, name, members)
            for (root, name), members in parts.items()
            if any(module in chosen for module in members)
        ]

    def siblings(self, root: int, name: str) -> list[int]:
        """Modules whose names differ from this one only in their last part, which is a number in both."""
        above, _, last = name.rpartition(".")
        return self._numbered.get((root, above), []) if last.isdigit() else []

    @cached_property
    def _numbered(self) -> dict[tuple[int, str], list[int]]:
        """(root, name of a module) -> the parts of it whose names are numbers."""
        parts: dict[tuple[int, str], list[int]] = {}
        for root, path, module in self.paths:
            above, _, last = path.rpartition(".")
            if last.isdigit():
                parts.setdefault((root, above), []).append(module)
        return parts


def _mark(spoiled: set[tuple[int, str]], root: int, path: str) -> None:
    """Mark a path and all above it."""
    while (root, path) not in spoiled:
        spoiled.add((root, path))
        path = path.rpartition(".")[0]


def unused(stored: Stored, steps: int) -> list[tuple[str, str]]:
    """(name, class) of the largest parts of models that never ran although the rest was trained.

    That a module was not called says nothing: its weights may be tied, be read by another module, or be used inside a
    compiled or a fused call. So no module of a part ran, all of its parameters are in an optimizer, are in no other
    module, and none had a gradient when an optimizer stepped or was changed in place.
    """
    if steps < TRAINED_STEPS or ended_early(stored):
        return []
    known = _parameters(stored)
    calls = timeline(stored).calls
    ran = set(distinct_keys(nullable_codes(calls, "module")).tolist())
    trained = {module for module in known.of_module if known.any(module, "in_optimizer", "had_gradient")}
    quiet = {module for module in known.of_module if module not in ran}
    if not trained or not quiet:
        return []
    trees = _Trees(stored)
    owners: dict[object, set[int]] = {}
    for module, rows in known.of_module.items():
        for row in rows:
            owners.setdefault(row["parameter"], set()).add(module)
    parameters = own_parameters(stored)
    roots = {root for root, _, module in trees.paths if module in trained}
    parts = []
    for root, name, members in trees.largest(quiet, ran):
        idle = all(_idle(known, owners, parameters, module, set(members)) for module in members)
        if not name or root not in roots or not idle:
            continue
        others = [module for module in trees.siblings(root, name) if module in ran]
        if steps < SIBLING_STEPS and any(
            trees.types[sibling] == trees.types[members[0]] for sibling in others
        ):
            continue
        parts.append((name, trees.types[members[0]]))
    return parts


def _idle(
    known: _Parameters,
    owners: Mapping[object, set[int]],
    parameters: list[list[dict[str, Any]]],
    module: int,
    members: set[int],
) -> bool:
    """True where all parameters of one module are known, in an optimizer and without any use."""
    rows = known.of_module.get(module, [])
    if {row["name"] for row in rows} != {parameter["path"] for parameter in parameters[module]}:
        return False
    return all(
        row["in_optimizer"]
        and row["requires_grad"]
        and not row["had_gradient"]
        and not row["changed"]
        and owners[row["parameter"]] <= members
        for row in rows
    )


def untouched(stored: Stored) -> set[int]:
    """Modules whose own trainable parameters are all in an optimizer and never had a gradient when it stepped."""
    return {
        module
        for module, rows in _parameters(stored).of_module.items()
        if any(row["requires_grad"] for row in rows)
        and all(
            row["in_optimizer"] and not row["had_gradient"] and not row["changed"]
            for row in rows
            if row["requires_grad"]
        )
    }


def never_ran(facts: Facts) -> Iterator[Finding]:
    """Parts of a trained model were never called, and nothing used their parameters either."""
    names = unused(facts.stored, len(facts.complete))
    if names:
        shown = listed(f"{name} ({class_name})" for name, class_name in names)
        text = f"{plural(len(names), 'module')} with parameters never ran and got no gradient: {shown}"
        yield Finding("never_ran", text, "remove what is not needed, or call it", wrong=True)


def no_gradient(facts: Facts) -> Iterator[Finding]:
    """Modules ran in forward, no backward went through them, though through others, and an optimizer that has their
    parameters found no gradient.
    """
    call_kind, phase = column(facts.calls, "kind"), nullable_codes(facts.calls, "phase")
    module, root = nullable_codes(facts.calls, "module"), nullable_codes(facts.calls, "root")
    backward = call_kind == BACKWARD
    if not backward.any() or not len(facts.complete):
        return
    quiet = untouched(facts.stored)
    if not quiet:
        return
    forward = facts.in_steps(facts.complete) & (call_kind == MODULE) & (phase == FORWARD)
    of = nullable_codes(facts.calls, "forward")[backward]
    tops = roots(facts.stored).name
    trained = {tops[top] for top in distinct_keys(root[of[of >= 0]]).tolist()}
    reached = set(distinct_keys(module[backward | (phase == RECOMPUTE)]).tolist())
    ran = set(distinct_keys(module[forward]).tolist()) - reached
    types = facts.stored.table("modules").column("type").to_pylist()
    named, _, root_of = module_names(facts.stored)
    names = [
        f"{named[number] or types[number]} ({types[number]})"
        for number in sorted(ran & quiet)
        if root_of[number] in trained
    ]
    if names and len(facts.complete) >= TRAINED_STEPS and not ended_early(facts.stored):
        text = f"no gradient reached {listed(names)}, trainable and part of the forward"
        yield Finding("no_gradient", text, "check for detach() and unused outputs, or freeze it", wrong=True)


def no_optimizer(facts: Facts) -> Iterator[Finding]:
    """Modules ran and got gradients, and no optimizer has their parameters."""
    stored = facts.stored
    known = _parameters(stored)
    trained = {module for module in known.of_module if known.any(module, "in_optimizer")}
    if (
        len(facts.complete) < TRAINED_STEPS
        or ended_early(stored)
        or known.loose_elements > LOOSE_ELEMENTS
        or not any(known.any(module, "in_optimizer", "had_gradient") for module in trained)
    ):
        return
    reached = _reached(stored)
    loose = {
        module
        for module, rows in known.of_module.items()
        if module in reached and any(_is_loose(row) for row in rows)
    }
    names = _shown(facts, loose - trained, trained)
    names += [
        f"{row['name']} of {_name(facts, module)}"
        for module in sorted(loose & trained)
        for row in known.of_module[module]
        if _is_loose(row)
    ]
    if names:
        text = f"trainable and given gradients, but in no optimizer: {listed(names)}"
        remedy = "give their parameters to the optimizer (nn.ModuleList instead of a list), or freeze them"
        yield Finding("no_optimizer", text, remedy, wrong=True)
    remade = _made_anew(facts, known, reached)
    if remade:
        text = f"made anew in every forward, so that no optimizer trains their weights: {listed(remade)}"
        yield Finding("no_optimizer", text, "make them once, in __init__", wrong=True)


def _reached(stored: Stored) -> set[int]:
    """Modules that a backward went through."""
    calls = timeline(stored).calls
    return set(distinct_keys(nullable_codes(calls, "module")[column(calls, "kind") == BACKWARD]).tolist())


def _is_loose(row: Mapping[str, object]) -> bool:
    """True where a parameter gets gradients that nothing uses."""
    return bool(
        row["requires_grad"] and row["had_gradient"] and not row["in_optimizer"] and not row["changed"]
    )


def _shown(facts: Facts, chosen: set[int], others: set[int]) -> list[str]:
    """Names of the largest parts; of modules that are in no other, their class and who calls them."""
    trees = _Trees(facts.stored)
    names: list[str] = []
    nameless: list[int] = []
    for root, name, members in trees.largest(chosen, others):
        if name:
            names.append(f"{name} ({trees.types[members[0]]})")
        else:
            nameless.append(root)
    return names + _with_callers(facts, nameless)


def _with_callers(facts: Facts, modules: Iterable[int]) -> list[str]:
    """Texts such as `3 Linear called by Net`, for modules that are the top of their own tree."""
    calls = facts.stored.calls
    module, parent = nullable_codes(calls, "module"), column(calls, "parent")
    call_kind = column(calls, "kind")
    types: list[str] = facts.stored.table("modules").column("type").to_pylist()
    first: dict[int, int] = {}
    wanted = set(modules)
    for row in np.flatnonzero((call_kind == MODULE) & np.isin(module, list(wanted))).tolist():
        first.setdefault(int(module[row]), row)
    counts: dict[str, int] = {}
    for number in sorted(wanted):
        around = int(parent[first[number]]) if number in first else -1
        while around >= 0 and call_kind[around] != MODULE:
            around = int(parent[around])
        caller = f" called by {_name(facts, int(module[around]))}" if around >= 0 else ""
        counts[f"{types[number]}{caller}"] = counts.get(f"{types[number]}{caller}", 0) + 1
    return [f"{times} {text}" if times > 1 else text for text, times in counts.items()]


def _name(facts: Facts, module: int) -> str:
    name = module_names(facts.stored)[0][module]
    class_name = facts.stored.table("modules").column("type")[module].as_py()
    return f"{name} ({class_name})" if name else str(class_name)


def _made_anew(facts: Facts, known: _Parameters, reached: set[int]) -> list[str]:
    """Classes of modules with trainable parameters that a forward makes, calls and drops: they had died when an
    optimizer looked at them first, and their like came again in later steps.
    """
    calls = facts.calls
    looked = facts.phase_rows("optimizer")
    if not looked.any():
        return []
    modules, names = facts.stored.table("modules"), facts.stored.table("names")
    alone = column(names, "module")[column(names, "root") == column(names, "module")].tolist()
    trainable = values_and_known(modules, "trainable_count")[0]
    fresh = [top for top in alone if trainable[top] > 0 and top in reached and top not in known.of_module]
    if not fresh:
        return []
    module, parent = nullable_codes(calls, "module"), column(calls, "parent")
    call_kind, step = column(calls, "kind"), nullable_codes(calls, "step")
    rows = np.flatnonzero((call_kind == MODULE) & np.isin(module, fresh) & (step >= 0) & (parent >= 0))
    rows = rows[call_kind[parent[rows]] == MODULE]
    types = modules.column("type").to_pylist()
    texts: dict[str, tuple[set[int], bool]] = {}
    start = column(calls, "start_ns")
    early = start[rows] < start[looked].min()
    columns = (module[rows], module[parent[rows]], step[rows], early)
    for number, caller, step_number, before in zip(*(values.tolist() for values in columns), strict=True):
        text = f"{types[number]} in {_name(facts, caller)}"
        steps, dead = texts.get(text, (set(), False))
        steps.add(step_number)
        texts[text] = (steps, dead or before)
    return [text for text, (steps, dead) in texts.items() if dead and len(steps) >= MADE_STEPS]


def earlier_steps(facts: Facts) -> Iterator[Finding]:
    """Each backward goes through the calls of all steps before it."""
    earlier = facts.earlier
    if earlier is not None:
        text = (
            f"each backward goes through the calls of the steps before it, the last through {earlier.steps} earlier "
            f"steps, mostly in {earlier.name}: {duration(earlier.spent_ns)} in all"
        )
        remedy = "detach() what is kept from one step to the next, unless this is meant"
        yield Finding("earlier_steps", text, remedy, earlier.spent_ns)
