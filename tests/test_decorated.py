"""Decorated functions of every sort are recorded as long as they live, and do what they did."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import modtrace
from modtrace.capture.engine.tracer import running
from modtrace.decorated import Shared

MODEL = nn.Linear(3, 3)


@pytest.fixture(autouse=True)
def nothing_goes_on_recording():
    yield
    gc.collect()
    assert not running()


def types(t):
    return t.calls["type"].tolist()


def call(times=1):
    for _ in range(times):
        MODEL(torch.ones(2, 3))


def test_a_plain_function():
    t = modtrace.trace()

    @t
    def function(times, *, sign=1):
        """Documented."""
        call(times)
        return sign * times

    assert (function.__name__, function.__doc__) == ("function", "Documented.")
    assert str(inspect.signature(function)) == "(times, *, sign=1)"
    assert function(2, sign=-1) == -2
    assert types(t) == ["Linear"] * 2
    assert function(3) == 3
    assert types(t) == ["Linear"] * 3


def test_a_coroutine_is_recorded_to_its_end():
    t = modtrace.trace()

    @t
    async def function(times):
        call(times)
        await asyncio.sleep(0)
        call(times)
        return times

    assert inspect.iscoroutinefunction(function)
    waiting = function(2)
    assert not running()
    assert asyncio.run(waiting) == 2
    assert types(t) == ["Linear"] * 4


def test_coroutines_that_take_turns_are_recorded_together():
    t = modtrace.trace()

    @t
    async def function(times):
        for _ in range(times):
            call()
            await asyncio.sleep(0)

    async def both():
        await asyncio.gather(function(2), function(5))

    asyncio.run(both())
    assert types(t) == ["Linear"] * 7


def test_recursion_is_one_recording():
    t = modtrace.trace()

    @t
    def function(times):
        call()
        if times > 1:
            function(times - 1)

    function(3)
    assert types(t) == ["Linear"] * 3


def test_threads_that_overlap_are_one_recording():
    t, both = modtrace.trace(), threading.Barrier(2)

    @t
    def function():
        both.wait()
        call()
        both.wait()

    threads = [threading.Thread(target=function) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert types(t) == ["Linear"] * 2


def test_a_generator_is_recorded_to_its_end():
    t = modtrace.trace()

    @t
    def function(times):
        for number in range(times):
            call()
            sent = yield number
            if sent:
                call(sent)
        return "end"

    assert inspect.isgeneratorfunction(function)
    values = function(2)
    assert not running()
    assert next(values) == 0
    assert running()
    assert values.send(2) == 1
    with pytest.raises(StopIteration) as ended:
        next(values)
    assert ended.value.value == "end"
    assert types(t) == ["Linear"] * 4


@pytest.mark.parametrize("end", ["close", "drop"])
def test_a_generator_that_is_not_used_up(end):
    t, ended = modtrace.trace(), []

    @t
    def function():
        try:
            while True:
                call()
                yield
        finally:
            ended.append(True)

    values = function()
    next(values)
    if end == "close":
        values.close()
    del values
    gc.collect()
    assert ended == [True]
    assert types(t) == ["Linear"]
    assert t._read().processes[0].end.exception is None


def test_what_is_thrown_into_a_generator_reaches_it():
    t = modtrace.trace()

    @t
    def function():
        try:
            yield 1
        except KeyError:
            call()
            yield 2

    values = function()
    assert (next(values), values.throw(KeyError("x"))) == (1, 2)
    assert list(values) == []
    assert types(t) == ["Linear"]


def test_a_context_that_is_left_while_it_is_entered_again():
    """The garbage collector may close a generator in the middle of what this thread does."""
    events = []

    class Context:
        def __enter__(self):
            events.append("entered")
            if len(events) == 1:
                with shared:
                    events.append("inside")

        def __exit__(self, *error):
            events.append("left")

    shared = Shared(Context())
    with shared:
        assert events == ["entered", "inside"]
    assert events == ["entered", "inside", "left"]


def test_a_recording_that_cannot_begin_may_begin_later(tmp_path):
    (tmp_path / "x.mtrace").mkdir()
    t = modtrace.trace(path=tmp_path / "x.mtrace" / "y.mtrace")
    (tmp_path / "x.mtrace").rmdir()
    (tmp_path / "x.mtrace").write_text("in the way")
    function = t(call)
    with pytest.raises(modtrace.UsageError):
        function()
    assert not running()
    (tmp_path / "x.mtrace").unlink()
    (tmp_path / "x.mtrace").mkdir()
    function()
    assert types(t) == ["Linear"]


def test_an_asynchronous_generator():
    t, seen = modtrace.trace(), []

    @t
    async def function():
        call()
        try:
            seen.append((yield 1))
        except KeyError:
            call(2)
            await asyncio.sleep(0)
            yield 2
        seen.append((yield 3))

    async def use():
        values = function()
        assert not running()
        assert await values.__anext__() == 1
        assert await values.athrow(KeyError("x")) == 2
        assert await values.asend(None) == 3
        with pytest.raises(StopAsyncIteration):
            await values.asend("sent")

    assert inspect.isasyncgenfunction(function)
    asyncio.run(use())
    assert seen == ["sent"]
    assert types(t) == ["Linear"] * 3


def test_an_asynchronous_generator_that_is_closed():
    t, ended = modtrace.trace(), []

    @t
    async def function():
        try:
            while True:
                call()
                yield
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def use():
        values = function()
        await values.__anext__()
        await values.aclose()

    asyncio.run(use())
    assert ended == [True]
    assert types(t) == ["Linear"]
    assert t._read().processes[0].end.exception is None


class Callee:
    async def __call__(self):
        await asyncio.sleep(0)
        call()

    async def method(self):
        await asyncio.sleep(0)
        call(2)


@pytest.mark.parametrize(
    ("function", "times"),
    [(Callee(), 1), (Callee().method, 2), (functools.partial(Callee().method), 2)],
    ids=["object", "method", "partial"],
)
def test_coroutines_of_other_callables(function, times):
    t = modtrace.trace()
    asyncio.run(t(function)())
    assert types(t) == ["Linear"] * times


def test_what_a_coroutine_raises_comes_through():
    t = modtrace.trace()

    @t
    async def function():
        await asyncio.sleep(0)
        MODEL(torch.ones(2, 4))

    with pytest.raises(RuntimeError, match="shapes"):
        asyncio.run(function())
    assert t.calls["status"].tolist() == ["raised"]
    assert t._read().processes[0].end.exception == "RuntimeError"


def test_a_decorated_function_keeps_its_type(tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(
        "import modtrace\n"
        "@modtrace.trace()\ndef function(times: int, *, name: str) -> float:\n    return 1.0\n"
        "@modtrace.trace()\nasync def coroutine(times: int) -> float:\n    return 1.0\n"
        "reveal_type(function)\nreveal_type(coroutine)\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent", str(file)]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert '"def (times: int, *, name: str) -> float"' in text.replace("builtins.", "")
    assert "def (times: int) -> " in text.replace("builtins.", "")
    assert "Coroutine[Any, Any, float]" in text.replace("builtins.", "")


@pytest.fixture
def t():
    with modtrace.trace() as recorded:
        call(2)
    return recorded


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_have_what_was_recorded(t, again):
    calls = t.calls
    other = again(t)
    del t
    gc.collect()
    assert isinstance(other, modtrace.Trace)
    assert other.path is None
    assert other.calls.equals(calls)
    assert other.calls is not calls
    assert again(other).calls.equals(calls)


def test_a_pickle_needs_no_file(t, tmp_path):
    path = t.save(tmp_path / "x.mtrace")
    loaded = modtrace.load(path)
    text = pickle.dumps(loaded)
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()
    assert pickle.loads(text).calls.equals(t.calls)


def test_a_trace_that_was_saved_keeps_its_path(tmp_path):
    with modtrace.trace(path=tmp_path / "x.mtrace") as recorded:
        call()
    assert copy.copy(recorded).path == tmp_path / "x.mtrace"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_is_being_recorded_is_not_copied(again):
    with modtrace.trace() as running_trace:
        call()
        with pytest.raises(modtrace.UsageError, match="behind the with block"):
            again(running_trace)
    assert again(running_trace)


def test_names_out_of_the_directory_are_refused(tmp_path):
    from modtrace.trace.packed import unpack

    for name in ("../x", "/x", "a/../../x", "", "a//b", "."):
        with pytest.raises(modtrace.TraceError):
            unpack({name: b""}, tmp_path)
    assert list(tmp_path.iterdir()) == []
