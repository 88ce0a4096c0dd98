"""Values worked out of a trace, each once. The trace keeps it, so it goes with the trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from modtrace.trace.reader import Stored

Options = ParamSpec("Options")
Result = TypeVar("Result")


def once(
    compute: Callable[Concatenate[Stored, Options], Result],
) -> Callable[Concatenate[Stored, Options], Result]:
    """Make a function of a trace keep its result on that trace, one for each set of further arguments.

    The result is shared: nobody may change it. Arguments must be hashable; one that is left out is its default.
    """
    bind = signature(compute).bind

    @wraps(compute)
    def once_a_trace(stored: Stored, /, *args: Options.args, **kwargs: Options.kwargs) -> Result:
        bound = bind(stored, *args, **kwargs)
        bound.apply_defaults()
        key: tuple[Any, ...] = (compute, *[*bound.arguments.items()][1:])
        derived = stored.derived
        if key not in derived:
            derived[key] = compute(stored, *args, **kwargs)
        result: Result = derived[key]
        return result

    return once_a_trace


def is_made(function: Callable[[Stored], Any], stored: Stored) -> bool:
    """True where a function under `once` has its result on a trace."""
    return (getattr(function, "__wrapped__", function),) in stored.derived
