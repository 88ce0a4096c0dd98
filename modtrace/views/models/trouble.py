"""The end of a run that did not end well, in a few lines for the head of a screen."""

from __future__ import annotations

from typing import Final

from modtrace.analysis.failure import Failure
from modtrace.analysis.outcome import Outcome
from modtrace.text import plain

_MOST: Final = 3
"""Lines about values that are not finite: the head, and two ranges."""


def trouble_texts(outcome: Outcome, failure: Failure | None, nonfinite: list[str]) -> list[str]:
    """State and error, the place, and the reason where it is certain; nothing of a run that ended well, or of which the
    state is all that is known.

    Args:
        outcome: how one process ended.
        failure: the exception that it ended with; None for none.
        nonfinite: lines on where NaN or infinities began.
    """
    began = [plain(line.strip(), 400) for line in nonfinite[:_MOST]]
    if not outcome.failed:
        return began
    return [*_ending(outcome, failure), *began]


def _ending(outcome: Outcome, failure: Failure | None) -> list[str]:
    """Lines about the end of a run that did not end well."""
    if failure is None:
        return [plain(outcome.headline, 400)] if outcome.where else []  # the title has the state
    lines = [plain(f"{outcome.state}: {failure.error}", 400)]
    if failure.path:
        last = failure.path[-1]
        place = " ".join(filter(None, (last.name if len(failure.path) > 1 else "", last.type)))
        verb = "returned" if failure.phase else "got"
        lines.append(plain(f"in {place}" + (f", {verb} {last.tensors}" if last.tensors else ""), 400))
    elif failure.line is not None:
        lines.append(plain(f"at {failure.line}", 400))
    if failure.reason is not None:
        lines.append(f"-> {plain(failure.reason, 400)}")
    return lines
