"""The end of a run that did not end well, in a few lines for the head of a screen."""

from __future__ import annotations

from modtrace.analysis.failure import Failure
from modtrace.analysis.outcome import Outcome
from modtrace.text import plain


def trouble_texts(outcome: Outcome, failure: Failure | None) -> list[str]:
    """State and error, the place, and the reason where it is certain; nothing of a run that ended well, or of which the
    state is all that is known.

    Args:
        outcome: how one process ended.
        failure: the exception that it ended with; None for none.
    """
    if not outcome.failed:
        return []
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
