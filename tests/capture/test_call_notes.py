"""The allocator itself notes in which call it is asked: beside torch's profiler, and in place of it.

The clock of allocations stands still throughout, so whatever is placed by time is placed wrong. What should be is an
account that the modules keep themselves: each allocation has a size of its own, and they write down who asked for it.
"""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import modtrace
from modtrace.analysis.memory import memory
from modtrace.analysis.timeline import timeline
from modtrace.capture.mechanisms import allocator_history as history
from modtrace.capture.mechanisms import call_notes, step_numbers
from modtrace.capture.mechanisms import profiler_window as watching
from modtrace.capture.mechanisms.allocations import Clocks, Event
from modtrace.capture.torch_private.lookup import CUDA_MARKS
from modtrace.capture.torch_private.spelled import CUDA_MARKS_ANYTHING
from modtrace.trace.schema import THREAD_SHIFT
from tests.fake_cuda import fake_cuda


@pytest.fixture
def gpu():
    with fake_cuda() as played:
        played.history_clock_us = functools.cache(played.history_clock_us)
        yield played
        assert played.illegal == []
        assert played.metadata == ""
        assert not torch._C._cuda_isHistoryEnabled()


class Account:
    """Who asked for which size, by what the program itself says."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.asker, self.texts = {}, {}
        self._sizes = itertools.count(1_000, 512)

    def ask(self, name):
        size = next(self._sizes)
        address = self.gpu.allocate(size)
        self.asker[size], self.texts[size] = name, self.gpu.metadata
        return address


class Asks(nn.Module):
    """Asks for memory before, between and behind the calls of what is inside it; some is given back at once."""

    def __init__(self, account, name, *inside):
        super().__init__()
        self.account, self.name = account, name
        self.inside = nn.ModuleList(inside)

    def forward(self, x):
        self.account.ask(self.name)
        for module in self.inside:
            try:
                x = module(x)
            except ZeroDivisionError:
                pass
            self.account.gpu.free(self.account.ask(self.name))
        return x


class Raises(Asks):
    def forward(self, x):
        super().forward(x)
        raise ZeroDivisionError


def a_tree(account, depth, choose, path=""):
    count = choose.randrange(4) if depth else 0
    inside = [a_tree(account, depth - 1, choose, f"{path}.inside.{at}".lstrip(".")) for at in range(count)]
    kind = Raises if path and choose.random() < 0.2 else Asks
    return kind(account, path, *inside)


def placed(trace):
    """Size of each allocation on a device -> kind and name of the row that it is in, None for none."""
    stored = trace._read()
    calls = trace.calls.reset_index()
    names = list(zip(calls["kind"], calls["name"], calls["type"], strict=True))
    (held,) = [one for one in memory(stored) if one.device == "cuda:0"]
    sizes = zip(held.size_bytes.tolist(), held.call.tolist(), strict=True)
    assert len(names) == len(timeline(stored).calls)
    return {size: names[row] if row >= 0 else None for size, row in sizes}


def beside(monkeypatch, gpu):
    """Let the played allocator tell torch's profiler of what it does, as the real one does, by a clock that stands."""
    told, clock = [], Clocks((0, 1), (0, 1))
    allocate, free = gpu.allocate, gpu.free

    def note(address, size):
        told.append((address, size))
        moment()

    def tells_allocate(size, device=None):
        address = allocate(size, device)
        note(address, size)
        return address

    def tells_free(address):
        size = next(one for one in gpu.allocators if address in one.held).held[address][1]
        free(address)
        note(address, -size)

    def events_of(roots):
        return [("memory", entry) for entry in told] + [("range", SimpleNamespace(start_tid=7))]

    moment = functools.cache(time.perf_counter_ns)
    monkeypatch.setattr(gpu, "allocate", tells_allocate)
    monkeypatch.setattr(gpu, "free", tells_free)
    monkeypatch.setattr(watching, "events_of", events_of)
    monkeypatch.setattr(watching, "clocks", lambda *_: clock)
    monkeypatch.setattr(
        watching, "memory_event", lambda entry: Event(moment(), entry[0], entry[1], "cuda:0", 7, 10**9)
    )


@pytest.fixture(params=["beside the profiler", "in place of it"])
def watched(request, monkeypatch, gpu):
    """Runs a program in a trace whose memory is watched in both ways."""

    def run(program, steps="0:99"):
        if request.param == "in place of it":
            with torch.profiler.profile(), modtrace.trace(memory=steps, flops=False) as trace:
                program()
        else:
            beside(monkeypatch, gpu)
            with modtrace.trace(memory=steps, flops=False) as trace:
                program()
        return trace

    return run


def ours(trace):
    """Gaps but for the one that says that a profiler of the program's ran."""
    return [gap for gap in trace._tracer.gaps if gap != watching.FROM_HISTORY]


@pytest.mark.parametrize("seed", range(6))
def test_allocations_belong_to_the_module_that_asked(gpu, watched, seed):
    account = Account(gpu)
    model = a_tree(account, 4, random.Random(seed))

    def program():
        for _ in range(2):
            model(torch.ones(1))

    trace = watched(program)
    found = placed(trace)
    assert len(account.asker) >= 2
    assert {size: found[size][:2] for size in account.asker} == {
        size: ("module", name) for size, name in account.asker.items()
    }
    assert ours(trace) == []
    assert all(text.startswith(history.MARK) for text in account.texts.values())


def test_time_alone_would_place_them_wrong(gpu, watched, monkeypatch):
    """Or the test above would say nothing."""
    account = Account(gpu)
    model = Asks(account, "", Asks(account, "inside.0"))
    gpu.keeps_metadata = False
    trace = watched(lambda: model(torch.ones(1)))
    found = placed(trace)
    assert {size: found[size] for size in account.asker} != {
        size: ("module", name, "Asks") for size, name in account.asker.items()
    }
    assert set(account.texts.values()) == {""}
    assert gpu.calls["set_metadata"] == 0


def test_an_allocator_that_says_nothing_of_keeping_no_text(gpu, watched, monkeypatch):
    """As others than torch's own before torch 2.14: what they are given is gone without a word."""
    monkeypatch.delattr(torch._C, CUDA_MARKS_ANYTHING)
    gpu.keeps_metadata = False
    account = Account(gpu)
    trace = watched(lambda: Asks(account, "")(torch.ones(1)))
    rows = trace._read().table("allocations").to_pylist()
    assert {row["thread"] for row in rows if row["size_bytes"] in account.asker} == {0}
    assert ours(trace) == []


def test_phases_spans_and_functions(gpu, watched, monkeypatch):
    account = Account(gpu)
    model = nn.Sequential(nn.Linear(2, 2), Asks(account, "1"))

    class Asking(torch.optim.SGD):
        def step(self, closure=None):
            account.ask("step")
            return super().step(closure)

    optimizer = Asking(model.parameters(), lr=0.1)

    def program():
        for _ in range(2):
            with modtrace.span("mine"):
                account.ask("mine")
                loss = model(torch.ones(1, 2)).sum()
                account.ask("mine")
            loss.backward()
            optimizer.step()

    found = placed(watched(program))
    kinds = {"1": ("module", "1"), "mine": ("span", "mine"), "step": ("phase", "optimizer")}
    assert {size: found[size][:2] for size in account.asker} == {
        size: kinds[name] for size, name in account.asker.items()
    }


def test_a_text_of_the_programs_stays(gpu, watched):
    """One that it sets in the midst of a call, and one that it takes away again."""
    account, seen = Account(gpu), []

    class Sets(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = Asks(account, "0.inside")

        def forward(self, x):
            before = torch.cuda.memory._get_memory_metadata()
            torch.cuda.memory._set_memory_metadata("of the program")
            x = self.inside(x)
            seen.append(torch.cuda.memory._get_memory_metadata())
            torch.cuda.memory._set_memory_metadata(before)
            return x

    model = nn.Sequential(Sets(), Asks(account, "1"))
    trace = watched(lambda: model(torch.ones(1)))
    assert seen == ["of the program"]
    by_name = dict(zip(account.asker.values(), account.texts.values(), strict=True))
    assert by_name["0.inside"] == "of the program"
    assert by_name["1"].startswith(f"{history.MARK} ")
    (size,) = [size for size, name in account.asker.items() if name == "1"]
    assert placed(trace)[size][:2] == ("module", "1")


def test_a_text_that_the_program_leaves_stays_for_good(gpu, watched):
    account = Account(gpu)

    def program():
        model(torch.ones(1))
        torch.cuda.memory._set_memory_metadata("of the program")
        for _ in range(2):
            model(torch.ones(1))

    model = Asks(account, "", Asks(account, "inside.0"))
    watched(program)
    assert [*account.texts.values()][3:] == ["of the program"] * 6
    assert gpu.metadata == "of the program"
    gpu.metadata = ""


def test_one_that_the_program_has_set_before(gpu, watched):
    account = Account(gpu)
    gpu.metadata = "of the program"
    model = Asks(account, "", Asks(account, "inside.0"))
    trace = watched(lambda: model(torch.ones(1)))
    assert set(account.texts.values()) == {"of the program"}
    assert gpu.calls["set_metadata"] == 0
    assert ours(trace) == []
    gpu.metadata = ""


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_errors_that_leave_the_model(gpu, watched, error):
    account = Account(gpu)

    class Fails(nn.Module):
        def forward(self, x):
            account.ask("0.fails")
            raise error

    failing = nn.Sequential(nn.Sequential(Fails()))
    after = Asks(account, "", Asks(account, "inside.0"))

    def program():
        with pytest.raises(error):
            failing(torch.ones(1))
        after(torch.ones(1))

    trace = watched(program)
    found, texts = placed(trace), [*account.texts.values()]
    assert [found[size][1] for size in account.asker][1:] == ["", "inside.0", ""]
    assert texts[1] == texts[3] != texts[2]


def test_other_threads_keep_their_text(gpu, watched):
    account, seen = Account(gpu), []
    model = Asks(account, "")

    def elsewhere():
        model(torch.ones(1))
        seen.append(gpu.metadata)

    def program():
        model(torch.ones(1))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    watched(program)
    first, second = account.texts.values()
    assert first == f"{history.MARK} {0 << THREAD_SHIFT | 0}"
    assert second == ""
    assert seen == [""]


def test_nothing_is_paid_outside_of_watched_steps(gpu, watched, monkeypatch):
    monkeypatch.setattr(step_numbers, "optimizers_exist", lambda: False)  # those that other tests have left
    account, listening = Account(gpu), []
    model = Asks(account, "", Asks(account, "inside.0"))

    def program():
        for _ in range(4):
            gpu.calls.clear()
            model(torch.ones(1))
            listening.append(bool(gpu.calls["set_metadata"] + gpu.calls["get_metadata"]))

    trace = watched(program, "1:2")
    # The step before is watched too, so that what it left behind is known; the third takes the text away.
    assert [text != "" for text in account.texts.values()] == [True] * 6 + [False] * 6
    assert listening == [True, True, True, False]
    assert not trace._tracer._context.events.call_began


def test_nothing_is_paid_where_memory_is_not_watched(gpu, monkeypatch):
    model = Asks(Account(gpu), "")
    with modtrace.trace(kernels="0:9", flops=False) as trace:
        model(torch.ones(1))
        assert not [one for one in trace._tracer._context.events.call_began if "note" in repr(one)]
    assert gpu.calls["set_metadata"] == gpu.calls["get_metadata"] == 0


def test_a_torch_that_has_no_texts(gpu, watched, monkeypatch):
    monkeypatch.setattr(history, "missing", lambda part: ["no texts"] if part == CUDA_MARKS else [])
    account = Account(gpu)
    model = Asks(account, "")
    trace = watched(lambda: model(torch.ones(1)))
    assert ours(trace) == ["no texts"]
    assert set(account.texts.values()) == {""}
    calls = trace._read().table("allocations").column("call").to_pylist()
    assert set(calls) == {None}


def test_a_history_of_the_programs_holds_no_text_of_ours(gpu, watched):
    account, held = Account(gpu), []

    class Begins(Asks):
        def forward(self, x):
            torch.cuda.memory._record_memory_history(max_entries=100)
            x = super().forward(x)
            held.extend(torch.cuda.memory._snapshot()["device_traces"][0])
            torch.cuda.memory._record_memory_history(None)
            return x

    model = Asks(account, "", Begins(account, "inside.0", Asks(account, "inside.0.inside.0")))
    watched(lambda: (model(torch.ones(1)), model(torch.ones(1))))
    assert {entry["user_metadata"] for entry in held} == {""}


def test_a_fault_ends_the_notes_alone(gpu, watched, monkeypatch):
    account = Account(gpu)
    model = Asks(account, "", Asks(account, "inside.0"))

    def program():
        model(torch.ones(1))
        gpu.broken["set_metadata"] = RuntimeError("no")
        model(torch.ones(1))
        del gpu.broken["set_metadata"]

    trace = watched(program)
    assert ours(trace) == [call_notes.STOPPED.format("RuntimeError")]
    assert len(trace.calls) == 4
    found = placed(trace)
    assert [found[size][1] for size in account.asker][:3] == ["", "inside.0", ""]


def test_a_profiler_on_another_thread_that_takes_over(gpu, monkeypatch):
    """Ours is stranded; its history ends all the same when the thread that watched comes by."""
    beside(monkeypatch, gpu)
    model = Asks(Account(gpu), "")

    def elsewhere():
        with torch.profiler.profile():
            pass

    with modtrace.trace(memory="0:9", flops=False):
        model(torch.ones(1))
        assert torch._C._cuda_isHistoryEnabled()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        model(torch.ones(1))
        assert not torch._C._cuda_isHistoryEnabled()
        assert gpu.metadata == ""


# joining ----------------------------------------------------------------------------------------------------------


def entry(action, address, size, call=None):
    text = history.MARK if call is None else f"{history.MARK} {call}"
    return {"action": action, "addr": address, "size": size, "time_us": 0, "user_metadata": text}


def test_both_tell_of_one_address_in_the_same_order():
    events = [
        Event(30, 8, 512, "cuda:0", 7), Event(10, 8, 1_024, "cuda:0", 7), Event(20, 8, -1_024, "cuda:0", 7),
        Event(15, 16, 512, "cuda:1", 7), Event(16, 24, 512, "cpu", 7),
    ]  # fmt: skip
    traces = [
        [entry("alloc", 8, 1_000, 4), entry("free_requested", 8, 1_000, 9), entry("alloc", 8, 500, 5)],
        [entry("alloc", 16, 300)],
    ]
    assert [event.call for event in history.with_noted_calls(events, traces)] == [5, 4, -1, -1, -1]


def test_an_address_that_another_thread_had_in_between():
    """The profiler has not seen that thread."""
    events = [Event(10, 8, 512, "cuda:0", 7), Event(30, 8, 512, "cuda:0", 7), Event(40, 16, 512, "cuda:0", 7)]
    traces = [
        [
            entry("alloc", 8, 500, 1),
            entry("alloc", 8, 400) | {"user_metadata": ""},
            entry("alloc", 8, 500, 2),
            entry("alloc", 16, 500, 3),
        ]
    ]
    assert [event.call for event in history.with_noted_calls(events, traces)] == [-1, -1, 3]


@pytest.mark.parametrize(
    ("text", "call"),
    [("modtrace", -1), ("modtrace 12", 12), ("", None), ("modtraced 3", None), ("modtrace x", -1)],
)
def test_texts(text, call):
    assert history.noted_call(text) == call
