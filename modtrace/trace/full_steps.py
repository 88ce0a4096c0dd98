"""The next steps of a running job in full: asked for by whoever looks at it, in a file of the process folder, and
answered in another. Standard library only.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modtrace.trace.folder import read_json, write_json
from modtrace.trace.schema import FULL_ANSWER_FILE, FULL_REQUEST_FILE

MOST_STEPS: Final = 10_000
"""So many steps can be asked for at once."""
STEPS, ALL, OVER = "steps", "all", "over"
"""States of an answer: these steps are recorded in full; all are; single calls are not recorded any more."""


@dataclass(frozen=True)
class FullRequest:
    """number: tells requests apart. steps: how many."""

    number: int
    steps: int


@dataclass(frozen=True)
class FullAnswer:
    """The answer of a process to a request.

    state: STEPS, ALL or OVER.
    first_step, end_step: of STEPS, the first step and the one after the last, as steps are counted while it runs; else
        0.
    """

    state: str
    first_step: int = 0
    end_step: int = 0


def ask(folder: Path, steps: int) -> FullRequest:
    """Ask the process of a folder for its next steps in full, in the place of what was asked before.

    Args:
        folder: the process folder.
        steps: how many, at most MOST_STEPS.

    Raises:
        OSError: it cannot be written there.
    """
    request = FullRequest(time.time_ns(), steps)
    write_json(folder, FULL_REQUEST_FILE, {"request": request.number, "steps": steps})
    return request


def answer_to(folder: Path, request: FullRequest) -> FullAnswer | None:
    """The answer that the process of a folder has given to a request; None while it has not."""
    data = read_json(folder / FULL_ANSWER_FILE)
    if data is None or data.get("request") != request.number or data.get("state") not in (STEPS, ALL, OVER):
        return None
    first, end = data.get("first_step"), data.get("end_step")
    if data["state"] != STEPS:
        return FullAnswer(data["state"])
    if type(first) is not int or type(end) is not int or not 0 <= first < end < 1 << 56:
        return None
    return FullAnswer(STEPS, first, end)


class FullRequests:
    """The requests in the folder of this process. Looking costs a look at one file that mostly is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, os.fspath(folder / FULL_REQUEST_FILE)
        self._seen: tuple[int, int] | None = None

    def new(self) -> FullRequest | None:
        """A request that has not been seen; None for none."""
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return None
        seen = status.st_mtime_ns, status.st_ino
        if seen == self._seen:
            return None
        self._seen = seen
        data: dict[str, Any] = read_json(Path(self._path)) or {}
        number, steps = data.get("request"), data.get("steps")
        if type(number) is not int or type(steps) is not int or not 0 < steps <= MOST_STEPS:
            return None
        return FullRequest(number, steps)

    def answer(self, request: FullRequest, answer: FullAnswer) -> None:
        """Say what becomes of a request. Where that cannot be written, nobody is told, and the recording goes on."""
        said = {"request": request.number, "state": answer.state}
        if answer.state == STEPS:
            said |= {"first_step": answer.first_step, "end_step": answer.end_step}
        try:
            write_json(self._folder, FULL_ANSWER_FILE, said)
        except OSError:
            pass
