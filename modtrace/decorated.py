"""Functions that run inside of a context as long as they live: coroutines and generators to their end."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_Context = AbstractContextManager[Any, Any]


class Shared:
    """A context that is entered with the first of several that overlap, and left with the last of them.

    Recursion, threads and coroutines that take turns overlap. A generator that is closed before its end has not failed.
    """

    def __init__(self, context: _Context) -> None:
        self._context = context
        self._lock = threading.RLock()  # a generator may be closed by the garbage collector wherever it runs
        self._entered = 0

    def __enter__(self) -> None:
        with self._lock:
            self._entered += 1
            if self._entered > 1:
                return
            try:
                self._context.__enter__()
            except BaseException:
                self._entered -= 1
                raise

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered:
                return
            if isinstance(error, GeneratorExit):
                error_type = error = traceback = None
            self._context.__exit__(error_type, error, traceback)


def inside(context: _Context, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that does what another does, inside of a context.

    That of a coroutine function is entered when the coroutine is first run and left at its end; that of a generator
    function, asynchronous or not, at its first `next` and when it has ended or is closed. Between its turns the context
    stays entered.
    """
    code = _runs(function)
    wrapper: Callable[..., Any]
    if inspect.iscoroutinefunction(code):
        wrapper = _coroutine(context, cast("Callable[..., Coroutine[Any, Any, Any]]", function))
    elif inspect.isasyncgenfunction(code):
        wrapper = _async_generator(context, cast("Callable[..., AsyncGenerator[Any, Any]]", function))
    elif inspect.isgeneratorfunction(code):
        wrapper = _generator(context, cast("Callable[..., Generator[Any, Any, Any]]", function))
    else:
        wrapper = _plain(context, function)
    return cast("Callable[Arguments, Result]", functools.wraps(function)(wrapper))


def _runs(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose code a callable runs: behind `functools.partial`, or the `__call__` of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    return getattr(type(function), "__call__", function)  # noqa: B004 - the method itself is asked for


def _plain(context: _Context, function: Callable[..., Any]) -> Callable[..., Any]:
    def recorded(*args: Any, **kwargs: Any) -> Any:
        with context:
            return function(*args, **kwargs)

    return recorded


def _coroutine(
    context: _Context, function: Callable[..., Coroutine[Any, Any, Any]]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def recorded(*args: Any, **kwargs: Any) -> Any:
        with context:
            return await function(*args, **kwargs)

    return recorded


def _generator(
    context: _Context, function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Generator[Any, Any, Any]]:
    def recorded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with context:
            return (yield from function(*args, **kwargs))

    return recorded


def _async_generator(
    context: _Context, function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def recorded(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with context:
            values = function(*args, **kwargs)
            try:
                value = await values.__anext__()
                while True:
                    try:
                        sent = yield value
                    except GeneratorExit:
                        await values.aclose()
                        raise
                    except BaseException as error:  # it is for the function to handle
                        value = await values.athrow(error)
                    else:
                        value = await values.asend(sent)
            except StopAsyncIteration:
                return

    return recorded
