"""The question to a run that goes on: the next steps in full. Asked of all its processes, with what they say to it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from modtrace.errors import UsageError
from modtrace.text import and_more, plain
from modtrace.trace.full_steps import ALL, MOST_STEPS, OVER, FullAnswer, answer_to, ask
from modtrace.trace.reader import folders_of, process_of
from modtrace.trace.schema import END_FILE
from modtrace.units import count

SECONDS: Final = 15.0
"""So long an answer is waited for: a process looks at the file when it writes, about once a second."""
_WORDS: Final = {ALL: "all steps are in full", OVER: "no steps are in full any more: the trace is full"}
_MANY: Final = 4


def number_of(text: str) -> int:
    """The number of steps in a text.

    Raises:
        UsageError: it is none, or none that can be asked for.
    """
    if not text.isdecimal() or not 0 < int(text[:9]) <= MOST_STEPS:
        raise UsageError(f"{plain(text, 40)!r} is no number of steps from 1 to {count(MOST_STEPS)}")
    return int(text)


class FullQuestion:
    """One question, from the moment on in which it is asked.

    Raises:
        UsageError: no process of the trace runs, or its folder cannot be written to.
    """

    def __init__(self, path: Path, steps: int) -> None:
        shown = plain(str(path))
        last_starts = {process_of(folder, 0).rank: folder for folder in folders_of(path)}
        running = [folder for folder in last_starts.values() if not (folder / END_FILE).exists()]
        if not running:
            raise UsageError(f"{shown} has ended: steps in full can be asked of a run that goes on")
        try:
            self._asked = {folder: ask(folder, steps) for folder in running}
        except OSError as error:
            raise UsageError(f"{shown} cannot be asked: {error.strerror or error}") from None
        self._answers: dict[Path, FullAnswer] = {}

    def look(self) -> bool:
        """True when all processes have answered."""
        for folder, request in self._asked.items():
            answer = None if folder in self._answers else answer_to(folder, request)
            if answer is not None:
                self._answers[folder] = answer
        return len(self._answers) == len(self._asked)

    @property
    def is_answered(self) -> bool:
        """True where at least one process has answered."""
        return bool(self._answers)

    @property
    def text(self) -> str:
        """The answers: `steps 41 to 43 will be in full`, with ranks where they differ; and who has not."""
        ranks: dict[str, list[int]] = {}
        for folder in self._asked:
            answer = self._answers.get(folder)
            words = "no answer yet" if answer is None else _text(answer)
            ranks.setdefault(words, []).append(process_of(folder, 0).rank)
        if len(ranks) == 1:
            return next(iter(ranks))
        return "; ".join(f"{_ranks_text(numbers)}: {words}" for words, numbers in ranks.items())


def _text(answer: FullAnswer) -> str:
    if answer.state in _WORDS:
        return _WORDS[answer.state]
    first, last = answer.first_step, answer.end_step - 1
    steps = f"step {count(first)}" if first == last else f"steps {count(first)} to {count(last)}"
    return f"{steps} will be in full"


def _ranks_text(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {and_more([str(rank) for rank in ranks], _MANY)}"
