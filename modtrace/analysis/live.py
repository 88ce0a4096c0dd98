"""A trace that grows: its processes, their steps, and how it stands with each. Free of pandas."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modtrace.analysis.live_nodes import LiveNodes
from modtrace.analysis.live_steps import LiveSteps, RestartReading
from modtrace.analysis.phases import Stretch
from modtrace.errors import TraceError
from modtrace.systems.other_processes import is_alive
from modtrace.trace.batch_columns import joined
from modtrace.trace.follow import MANY_ROWS, AddedRows, Follower, ReplacedFiles
from modtrace.trace.reader import Process, Run, folders_of, run_of
from modtrace.trace.schema import RUN_FILE

WAITING, RUNNING, FINISHED, DIED, SILENT, GONE = "waiting", "running", "finished", "died", "silent", "gone"
"""States of a process: nothing written yet; running; came to its end; ended without saying so; nothing written
for a while and not seen on this machine; its files are gone.
"""
_HOLD: Final = 20
"""For how many looks without anything new calls are held back whose modules, labels or parents are not there yet."""
_MANY_HELD: Final = 300_000
_QUIET: Final = 40
"""After so many looks without anything new a process that cannot be seen here counts as silent."""


class LiveProcess:
    """One process of a growing trace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gaps: list[str] = []
        self.changed = 0
        """Number of times that something was added."""
        self.fault: str | None = None
        self._begin("root")
        self._seen_alive = False
        self._quiet = 0

    def _begin(self, by: str) -> None:
        self.follower = Follower(self.folder)
        self.nodes = LiveNodes()
        self.steps = LiveSteps(self.nodes, by)
        self.signatures: dict[int, str] = {}
        self.gaps = []
        self._held: list[AddedRows] = []
        self._waited = 0

    @property
    def process(self) -> Process:
        """Facts that the process wrote about itself."""
        return self.follower.process

    @property
    def state(self) -> str:
        """One of the states above."""
        if not self.folder.is_dir():
            return GONE
        if self.process.end is not None:
            return FINISHED
        if self.process.pid is None:
            return WAITING
        alive = is_alive(self.process.pid, self.process.started_unix_ns)
        self._seen_alive |= alive
        if alive:
            return RUNNING if self.process.torch is not None or self.changed else WAITING
        if self._seen_alive:
            return DIED
        return SILENT if self._quiet > _QUIET else RUNNING

    @property
    def wall_ns(self) -> int:
        """From the start of recording to its end or to what was last written."""
        end, stop = self.process.end, self.process.stop
        if stop is not None:
            return stop.recorded_ns
        return end.ended_ns if end is not None else self.follower.last_ns

    @property
    def notes(self) -> list[str]:
        """Sentences about parts that are missing or cannot be read."""
        return [*self.follower.notes, *self.gaps, *([self.fault] if self.fault is not None else [])]

    def look(self, rows: int = MANY_ROWS) -> bool:
        """Take in what has been added; whether there was anything."""
        if self.fault is not None:
            return False
        added = None
        try:
            added = self.follower.read(rows)
            if added is not None:
                self._take(added)
            elif self._held:
                self._waited += 1
                self._release()
        except ReplacedFiles:
            self._begin("root")
            return True
        except RestartReading as restart:
            self._begin(str(restart))
            return self.look(rows)
        except TraceError as error:
            self.fault = str(error)
        self._quiet = 0 if added is not None else self._quiet + 1
        self.changed += added is not None
        return added is not None

    def _take(self, added: AddedRows) -> None:
        self._waited = 0
        self.nodes.modules.update(added.modules)
        self.nodes.variables.update(added.variables)
        self.nodes.names.update(added.names)
        self.nodes.labels.update(added.labels)
        self.signatures.update(added.signatures)
        self.gaps += added.gaps
        self.steps.watched += added.watched
        self.steps.compiled += added.compiled
        for steps, from_ns, to_ns, every in added.thinned:
            self.steps.left_out(Stretch(steps, from_ns, to_ns), every)
        if added.calls is not None or added.opened is not None:
            self._held.append(added)
        self._release()

    def _release(self) -> None:
        """Count the calls that are held back if all that they point at is there, or it does not come."""
        parts = [part for batch in self._held for part in (batch.opened, batch.calls) if part is not None]
        if not parts:
            return
        columns = joined(parts)
        hopeless = self._waited > _HOLD or len(columns["call"]) > _MANY_HELD or bool(self.follower.notes)
        if not hopeless and not self.nodes.knows(columns):
            return
        self._held, self._waited = [], 0
        self.steps.add(self.nodes.place(columns))


@dataclass(frozen=True)
class Moment:
    """The result of reading a growing trace once: `changed` if anything was added, `behind` if there is more to read at
    once.
    """

    changed: bool
    behind: bool


class LiveTrace:
    """All processes of a growing trace; those that come later too.

    run: what `run.json` says, None as long as it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run: Run | None = None
        self.processes: list[LiveProcess] = []
        self.gone = False
        self._identity: tuple[int, int, int] | None = None

    def look(self, rows: int = MANY_ROWS) -> Moment:
        """Take in what has been added to any of its processes.

        Raises:
            TraceError: what is there is no trace, or none that this version can read.
        """
        changed = self._look_at_folder()
        if self.gone:
            return Moment(changed, False)
        for process in self.processes:
            changed |= process.look(rows)
        return Moment(changed, any(process.follower.behind_bytes > 0 for process in self.processes))

    def _look_at_folder(self) -> bool:
        try:
            status = os.stat(self.path)
        except OSError:
            was, self.gone, self._identity = self.gone, bool(self.processes), None
            return was != self.gone
        try:
            written = os.stat(self.path / RUN_FILE)
            identity = (status.st_ino, written.st_ino, written.st_mtime_ns)
        except OSError:
            identity = (status.st_ino, 0, 0)
        changed = False
        if identity != self._identity:
            self.run, self.processes, self.gone = None, [], False
            self._identity = identity
            changed = True
        if self.run is None:
            try:
                self.run = run_of(self.path)
            except TraceError:
                if any(self.path.iterdir()):
                    raise
                return changed
            changed = True
        known = {process.folder for process in self.processes}
        try:
            folders = folders_of(self.path)
        except OSError:
            return changed
        for folder in folders:
            if folder not in known:
                self.processes.append(LiveProcess(folder))
                changed = True
        if changed:
            self.processes.sort(
                key=lambda one: folders.index(one.folder) if one.folder in folders else len(folders)
            )
        return changed

    @property
    def state(self) -> str:
        """State of the whole trace: running as long as one of its processes is."""
        if self.gone:
            return GONE
        states = [process.state for process in self.processes]
        for state in (RUNNING, WAITING, DIED, SILENT, GONE, FINISHED):
            if state in states:
                return state
        return WAITING

    @property
    def exit_status(self) -> int | None:
        """The first that is not 0 of those of its processes, None where one is not known."""
        ends = [process.process.end for process in self.processes]
        statuses = [None if end is None else end.exit_status for end in ends]
        wrong = [status for status in statuses if status != 0]
        return wrong[0] if wrong else 0 if statuses else None
