"""The recorded calls of every case are the oracle's, in the same run."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings

import pytest
import torch

import modtrace
from modtrace.text import plain
from modtrace.trace.schema import TEXT_LIMIT
from tests.torture.compare import (
    assert_well_formed,
    module_calls,
    one_after_another,
    oracle_rows,
    traced_rows,
    traced_threads,
)
from tests.torture.models import CASE_LIST, CASES
from tests.torture.observe import seed
from tests.torture.oracle import Oracle
from tests.torture.tree_walk import named_modules

SEEN = [case for case in CASE_LIST if case.hooks_seen]
UNSEEN = [case for case in CASE_LIST if not case.hooks_seen]


def record(case):
    """Run a case under both; returns the model, the trace and the oracle."""
    seed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = case.make()
        with modtrace.trace() as trace, Oracle() as oracle, contextlib.suppress(case.raises or ()):
            case.run(model)
    return model, trace, oracle


@pytest.mark.parametrize("case", SEEN, ids=lambda case: case.name)
def test_calls_are_the_oracles(case):
    if case.name == "SignalInForward" and sys.version_info < (3, 11):
        pytest.skip(
            "python calls the handler inside the oracle's profiling function, which is switched off by that"
        )
    model, trace, oracle = record(case)
    calls = trace.calls
    threads = traced_threads(calls)
    expected = oracle.by_thread()

    assert_well_formed(calls)
    assert sorted(map(traced_rows, threads)) == sorted(oracle_rows(oracle, rows) for rows in expected)

    def seen(rows):
        return list(zip(traced_rows(rows), rows["module_id"], rows["status"], strict=True))

    numbers = module_numbers(trace, oracle, module_calls(calls), len(expected))
    failed = "aborted" if case.aborts else "raised"
    told = [
        list(
            zip(
                oracle_rows(oracle, rows),
                [numbers[call.module] for call in rows],
                case.statuses or ["ok" if call.returned else failed for call in rows],
                strict=True,
            )
        )
        for rows in expected
    ]
    assert sorted(map(seen, threads)) == sorted(told)
    check_names(case, model, trace)
    if len(threads) == 1:
        roots = calls[(calls["parent"] == -1) & (calls["kind"] == "module")]
        if (trace.steps["ends"] == "root").all():
            assert list(roots["step"]) == list(range(len(roots)))


def module_numbers(trace, oracle, calls, thread_count):
    """Which module_id each of the oracle's modules has."""
    alive = {
        number: trace.module_id_of(module)
        for number, reference in enumerate(oracle.modules)
        if (module := reference()) is not None
    }
    if thread_count != 1:
        return alive
    numbers = one_after_another(oracle, list(calls["module_id"]))
    assert {number: numbers[number] for number in alive} == alive
    return numbers


def check_names(case, model, trace):
    """Calls below a call of the model are named as in its `named_modules()`."""
    if not case.fixed_tree:
        return
    names = {trace.module_id_of(module): name for name, module in named_modules(model)}
    calls = trace.calls
    for step in calls.loc[
        (calls["parent"] == -1) & (calls["module_id"] == trace.module_id_of(model)), "step"
    ]:
        inside = calls[calls["step"] == step]
        assert list(inside["name"]) == [plain(names[number], TEXT_LIMIT) for number in inside["module_id"]]


@pytest.mark.parametrize("case", UNSEEN, ids=lambda case: case.name)
def test_calls_torch_shows_to_nobody(case):
    """Where torch itself fails before its hooks, what was seen is still a tree."""
    _, trace, _ = record(case)
    assert_well_formed(trace.calls)


def test_names_of_strangers_are_made_safe():
    _, trace, _ = record(CASES["hostile_names"])
    for name in trace.calls["name"]:
        assert name.isprintable()
        assert len(name) <= TEXT_LIMIT + len("...")
        name.encode()


def test_modules_that_never_ran_are_listed():
    _, trace, _ = record(CASES["UnusedAndNone"])
    modules = trace.modules.set_index("name")
    assert modules.at["unused", "calls"] == 0
    assert modules.at["used", "calls"] == 1


def test_shared_module_has_one_number_and_all_names():
    _, trace, _ = record(CASES["SharedModule"])
    row = trace.modules.set_index("name").loc["first"]
    assert list(row["aliases"]) == ["second"]
    assert row["calls"] == 2


def test_ids_of_dead_modules_are_not_mixed_up():
    """10,000 modules that live for one call each, at a handful of addresses: those of one class share a row."""
    addresses = set()
    with modtrace.trace() as trace:
        for width in range(10_000):
            module = torch.nn.Identity() if width % 2 else torch.nn.ReLU()
            addresses.add(id(module))
            module(None) if width % 2 else module(torch.ones(1))
            del module
    calls = trace.calls
    assert len(addresses) < 1_000
    assert list(calls["type"]) == ["ReLU", "Identity"] * 5_000
    assert list(calls["module_id"]) == [0, 1] * 5_000
    assert list(trace.modules["instances"]) == [5_000, 5_000]
    assert list(trace.modules["calls"]) == [5_000, 5_000]


class Waits(torch.nn.Module):
    """Stays in its forward until it is told to go on."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Identity()
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def forward(self, x):
        x = self.inner(x)
        self.entered.set()
        assert self.go_on.wait(60)
        return self.inner(x)


def test_call_open_at_the_end_on_another_thread():
    model = torch.nn.Sequential(Waits())
    thread = threading.Thread(target=model, args=(torch.ones(1),))
    with modtrace.trace() as trace:
        thread.start()
        assert model[0].entered.wait(60)
    model[0].go_on.set()
    thread.join()

    calls = trace.calls
    assert list(calls["type"]) == ["Sequential", "Waits", "Identity"]
    assert list(calls["status"]) == ["unfinished", "unfinished", "ok"]
    assert list(calls["duration_ns"].isna()) == [True, True, False]
    assert list(calls["outputs"].isna()) == [True, True, False]


class Switches(torch.nn.Module):
    """Begins or ends a trace in the middle of its forward."""

    def __init__(self, switch):
        super().__init__()
        self.before = torch.nn.Identity()
        self.after = torch.nn.ReLU()
        self.switch = switch

    def forward(self, x):
        x = self.before(x)
        self.switch()
        return self.after(x)


def test_trace_begun_inside_a_call():
    """The call that was running when recording began is not seen; what it calls then is."""
    with contextlib.ExitStack() as stack:
        traces = []
        model = Switches(lambda: traces.append(stack.enter_context(modtrace.trace())))
        model(torch.ones(1))
        model.before(torch.ones(1))
    assert list(traces[0].calls["type"]) == ["ReLU", "Identity"]
    assert list(traces[0].calls["depth"]) == [0, 0]


def test_trace_ended_inside_a_call():
    with contextlib.ExitStack() as stack:
        trace = stack.enter_context(modtrace.trace())
        Switches(stack.close)(torch.ones(1))
    calls = trace.calls
    assert list(calls["type"]) == ["Switches", "Identity"]
    assert list(calls["status"]) == ["unfinished", "ok"]


def test_calls_on_threads_that_die_one_after_another():
    """Threads get the identifiers of dead ones; their calls stay apart."""
    model = torch.nn.Sequential(torch.nn.Identity())
    with modtrace.trace() as trace:
        for _ in range(30):
            thread = threading.Thread(target=model, args=(1,))
            thread.start()
            thread.join()
    calls = trace.calls
    assert_well_formed(calls)
    assert len(calls) == 60
    assert calls["step"].nunique() == 30
