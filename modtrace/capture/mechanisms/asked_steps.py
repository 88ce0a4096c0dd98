"""Steps that an option asks for. Standard library only."""

from __future__ import annotations

import operator
from typing import Any, Final, SupportsIndex

from modtrace.errors import UsageError

Steps = str | SupportsIndex | range | tuple[SupportsIndex, SupportsIndex]
"""Steps as code names them: `"2:5"`, `"3"`, `"auto"`, `3`, `range(2, 5)`, `(2, 5)`. The last one is not among them."""
SAMPLED_STEPS: Final = (3, 5)
"""`auto`: the first steps allocate, compile and choose algorithms; later ones are like each other."""


def steps_of(text: str) -> tuple[int, int]:
    """The first step and the one after the last of a text such as `2:5` or `3`; `auto` is two steps behind the warm-up.

    Raises:
        UsageError: it is none.
    """
    if text == "auto":
        return SAMPLED_STEPS
    first, colon, last = text.partition(":")
    if not first.isdigit() or (colon and not last.isdigit()):
        raise UsageError(f"{text!r} names no steps; write them like 2:5, 3 or auto")
    steps = int(first), int(last) if colon else int(first) + 1
    if steps[0] >= steps[1]:
        raise UsageError(f"{text!r} names no steps: the last is not behind the first")
    return steps


def every_of(text: str) -> int | None:
    """The number in a text such as `every 50`; None for another text.

    Raises:
        UsageError: it is 0.
    """
    word, _, number = text.strip().partition(" ")
    if word != "every" or not number.strip().isdecimal():
        return None
    if not int(number):
        raise UsageError("every 0 names no steps")
    return int(number)


def steps_text(argument: str, steps: Steps | None) -> str | None:
    """Steps that code names as the text of the option; None for none.

    Args:
        argument: the name of the option, for the message.
        steps: as `Steps` has them.

    Raises:
        UsageError: it names no steps.
    """
    if steps is None or steps is False or steps == "":
        return None
    try:
        text = _text(steps)
        steps_of(text)
    except (TypeError, ValueError, UsageError):
        raise UsageError(
            f'{argument}={steps!r} names no steps; give "2:5", range(2, 5) or (2, 5) for steps 2 to 4, '
            '3 for one step, or "auto"'
        ) from None
    return text


def _text(steps: Steps) -> str:
    if isinstance(steps, str):
        return steps
    if isinstance(steps, bool):
        raise TypeError
    if isinstance(steps, range):
        if steps.step != 1:
            raise ValueError
        return f"{steps.start}:{steps.stop}"
    if isinstance(steps, tuple):
        first, end = steps
        return f"{operator.index(first)}:{operator.index(end)}"
    return str(operator.index(steps))


def asked_row(name: str, steps: tuple[int, int] | None, every: int | None = None) -> dict[str, list[Any]]:
    """Columns of a row of `asked`, without a row for None.

    Args:
        name: of the option.
        steps: the first step and the one after the last.
        every: each so manieth of them alone.
    """
    rows = [] if steps is None else [(name, *steps)]
    return {
        "what": [row[0] for row in rows],
        "first_step": [row[1] for row in rows],
        "end_step": [row[2] for row in rows],
        "every": [every for _ in rows],
    }
