"""The application: a run that goes on, or a trace that is open and seven views of it, and the keys they share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from textual import events
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from modtrace.analysis.findings import Finding, findings
from modtrace.analysis.live import LiveTrace
from modtrace.analysis.ranks.times_over_ranks import place_times
from modtrace.text import plain
from modtrace.trace.arrow import give_back
from modtrace.views.models.viewer_model import Rank, ViewerModel
from modtrace.views.tui.bars import HOT, TREE, VIEWS, AskBar
from modtrace.views.tui.base_screen import BaseScreen, View
from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.curve_view import CurveView
from modtrace.views.tui.findings_screen import FindingsScreen
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.flame_screen import FlameScreen
from modtrace.views.tui.hot_screen import HotScreen
from modtrace.views.tui.key_bindings import config_file, read_keys
from modtrace.views.tui.line_list import LineList
from modtrace.views.tui.live_screen import LiveScreen
from modtrace.views.tui.memory_screen import MemoryScreen
from modtrace.views.tui.ops_screen import OpsScreen
from modtrace.views.tui.output_pane import OutputPane
from modtrace.views.tui.pair_viewer import pair_binding_ids
from modtrace.views.tui.popups import Popup
from modtrace.views.tui.ranks_popup import RanksPopup
from modtrace.views.tui.reading_line import reading
from modtrace.views.tui.row_table import RowTable
from modtrace.views.tui.row_table_keys import TableKeys
from modtrace.views.tui.steps_screen import StepsScreen
from modtrace.views.tui.tree_screen import TreeScreen

if TYPE_CHECKING:
    from modtrace.views.live.pty_process import Script
    from modtrace.views.tui.viewer_app import ViewerApp

_AHEAD: Final = "ahead"
"""Name of the worker that makes what is likely to be looked at next."""
WATCH_SECONDS: Final = 2.0
"""Seconds between two looks whether the files of the trace have changed."""


class Viewer(App[str]):
    """`modtrace view`, and `modtrace live` with a `LiveScreen`, which becomes the viewer when its run has ended.

    Its result is None, or of a live screen: `detached` (left while the script ran) or `finished`.
    """

    TITLE = "modtrace"
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    Screen { background: $background; }
    ToastRack { dock: top; align: right top; margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"view({number})", name, id=f"app.{name.lower()}", show=False)
            for number, name in enumerate(VIEWS, start=1)
        ),
        Binding("left_square_bracket", "step(-1)", "Step", id="app.previous_step", key_display="[ ]"),
        Binding("right_square_bracket", "step(1)", "Next step", id="app.next_step", show=False),
        Binding("left_curly_bracket", "rank(-1)", "Previous rank", id="app.previous_rank", show=False),
        Binding("right_curly_bracket", "rank(1)", "Next rank", id="app.next_rank", show=False),
        Binding("b", "ranks", "Ranks beside each other", id="app.ranks", show=False),
        Binding("a", "whole_run", "Steps or whole run", id="app.whole_run", show=False),
        Binding("ctrl+r", "reload", "Read the trace again", id="app.reload", show=False),
        Binding("ctrl+z", "suspend_process", "Suspend", id="app.suspend", show=False),
        Binding("q", "detach", "Detach", id="app.detach"),
        Binding("q", "quit", "Quit", id="app.quit"),
        Binding("ctrl+c", "leave", "Leave", id="app.leave", show=False, priority=True),
    ]

    def __init__(
        self, opened: ViewerModel | None, *, live: LiveScreen | None = None, keys: Path | None = None
    ) -> None:
        """One of `opened`, the trace to show, and `live`, the screen of a run that goes on."""
        super().__init__()
        self._opened = opened
        self.live = live
        self.process = 0 if opened is None else opened.first
        self.step = 0 if opened is None else opened.rank(opened.first).first_step
        self.whole_run = False
        self.findings: list[Finding] | None = None
        self.findings_fault = ""
        self.changed_on_disk = ""
        self._keys_file = keys if keys is not None else config_file(os.environ)
        self._seen = _fingerprint(opened.path) if opened is not None else None
        self.views: dict[int, View] = {}
        self._readings = 0

    @property
    def opened(self) -> ViewerModel:
        """The trace that is shown; there is none while a run is followed."""
        assert self._opened is not None
        return self._opened

    @property
    def rank(self) -> Rank:
        return self.opened.rank(self.process)

    @property
    def tree_screen(self) -> TreeScreen:
        screen = self.views[TREE]
        assert isinstance(screen, TreeScreen)
        return screen

    @property
    def first_view(self) -> View:
        """Where the time went; of a run that failed in a call the tree, with the cursor on that call."""
        rank = self.rank
        failed = (rank.failure is not None or rank.fault is not None) and rank.failing_row >= 0
        return self.views[TREE if failed else HOT]

    def on_mount(self) -> None:
        # The terminal's own colours and background.
        self.theme = "ansi-light" if _is_light(os.environ.get("COLORFGBG", "")) else "ansi-dark"
        if self.live is not None:
            self.push_screen(self.live)
        else:
            self._make_views()
            self.push_screen(self.first_view)
            self._watch_files()
        keys, trouble = read_keys(self._keys_file, set(binding_ids()))
        if keys:
            self.set_keymap(keys)
        if trouble is not None:
            self.notify(trouble, severity="warning", markup=False, timeout=8)

    def _watch_files(self) -> None:
        self.call_after_refresh(self._look_ahead)
        self.set_interval(WATCH_SECONDS, self._watch)

    def _look_ahead(self) -> None:
        """Make trees and findings in the background, one after the other: the key that shows them does not wait."""
        rank, self.findings, self.findings_fault = self.rank, None, ""

        def make() -> list[Finding]:
            place_times(rank.stored)
            for mode in ("merged", "calls"):
                rank.tree(mode)
            ranked = findings(rank.stored)
            give_back()
            return ranked

        self.run_worker(make, thread=True, exclusive=True, name=_AHEAD, exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.name != _AHEAD or event.state not in (WorkerState.SUCCESS, WorkerState.ERROR):
            return
        if event.state is WorkerState.SUCCESS:
            self.findings = event.worker.result or []
        else:
            self.findings, self.findings_fault = [], plain(str(event.worker.error), 200)
        self._tell("findings_changed")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to do now are not shown."""
        del parameters
        if action in ("view", "step", "reload", "whole_run"):
            return self._opened is not None
        if action == "ranks":
            return self._opened is not None and self.opened.processes > 1 and isinstance(self.screen, View)
        if action in ("detach", "quit"):
            detaches = isinstance(self.screen, LiveScreen) and self.screen.goes_on_without
            return detaches == (action == "detach")
        if action == "leave":  # elsewhere ctrl+c asks to stop the script
            return not (isinstance(self.screen, LiveScreen) and self.screen.goes_on_without)
        return True

    async def action_leave(self) -> None:
        """Leave, from wherever."""
        await self.action_quit()

    def action_detach(self) -> None:
        """Leave; the script goes on."""
        self.exit("detached")

    async def action_quit(self) -> None:
        """Leave."""
        self.exit("finished" if self.live is not None else None)

    def open_trace(self, path: Path) -> None:
        """Become the viewer of a trace; where it cannot be read what is shown stays."""
        try:
            opened = ViewerModel(path)
            step = opened.rank(opened.first).first_step
        except Exception as error:  # the run that was looked at ends as it ended, whatever is in its trace
            self.notify(f"cannot be opened: {plain(str(error), 200)}", severity="error", markup=False)
            return
        self._opened, self._seen, self.process, self.step = opened, _fingerprint(path), opened.first, step
        self._make_views()
        self.switch_screen(self.first_view)
        self._watch_files()

    def on_key(self, event: events.Key) -> None:
        """A key typed right behind the one that asks for a text was on its way from a pane when that took the focus:
        it belongs to the text. What is typed into the line itself does not come here.
        """
        if isinstance(self.screen, BaseScreen) and event.character is not None and event.is_printable:
            bar = self.screen.ask_bar
            if bar.is_open and self.focused is bar.entry:
                bar.entry.insert_text_at_cursor(event.character)
                event.prevent_default()

    def on_app_blur(self) -> None:
        if isinstance(self.screen, LiveScreen):
            self.screen.set_focused(False)

    def on_app_focus(self) -> None:
        if isinstance(self.screen, LiveScreen):
            self.screen.set_focused(True)

    def _make_views(self) -> None:
        classes = (
            HotScreen, FindingsScreen, TreeScreen, FlameScreen, StepsScreen, MemoryScreen, OpsScreen,
        )  # fmt: skip
        self.views = {number: screen() for number, screen in enumerate(classes, start=1)}
        # Textual takes screens apart when another one takes their place, unless they are installed.
        self._readings += 1
        for number, view in self.views.items():
            self.install_screen(view, f"view-{number}-{self._readings}")

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        if isinstance(screen, BaseScreen):
            yield SystemCommand("Export", "Write what is shown as CSV", screen.action_export)
        if isinstance(screen, TableKeys):
            for key in filter(screen.table.tells, screen.table.keys):
                yield SystemCommand(f"Sort by {key}", "", lambda key=key: screen.table.sort_by(key))
        if self._opened is None:
            return
        for number, name in enumerate(VIEWS, start=1):
            yield SystemCommand(name, f"Show the view {name}", lambda number=number: self.action_view(number))
        yield SystemCommand("Steps or whole run", "What shares are of", self.action_whole_run)
        yield SystemCommand("Read again", "Read the trace from disk again", self.action_reload)
        if isinstance(screen, TreeScreen):
            yield SystemCommand("Merged, instances, calls", "The next of the three trees", screen.action_mode)

    def action_view(self, number: int) -> None:
        """Show one of the views."""
        if isinstance(self.screen, View) and number != self.screen.NUMBER:
            self.switch_screen(self.views[number])

    def action_step(self, by: int) -> None:
        """The next step, or the one before."""
        step = self.rank.near_step(self.step, by)
        if step != self.step and isinstance(self.screen, View):
            self.step = step
            self._tell("step_changed")

    async def action_rank(self, by: int) -> None:
        """The next process, or the one before."""
        if isinstance(self.screen, LiveScreen):
            self.screen.next_rank(by)
            return
        if self._opened is None:
            return
        await self._show_process(min(max(self.process + by, 0), self.opened.processes - 1))

    async def _show_process(self, process: int) -> None:
        """Open a process, beside the screen, and show it; where it cannot be read the one before stays."""
        if process == self.process:
            return
        try:
            rank = await asyncio.to_thread(self.opened.rank, process)
        except Exception as error:  # whatever is in its files, the process that is shown can be looked at
            text = plain(str(error), 200)
            self.notify(f"cannot be opened: {text}", severity="error", markup=False)
            return
        self.process = process
        self.step = min(self.step, max(len(rank.steps) - 1, 0))
        self._tell("rank_changed")
        self._look_ahead()

    def action_ranks(self) -> None:
        """The ranks beside each other, to choose one of them."""
        folders = [folder.name for folder in self.opened.folders]

        async def choose(folder: str | None) -> None:
            if folder in folders:
                await self._show_process(folders.index(folder))

        self.push_screen(RanksPopup(self.opened.trace, folders[self.process]), choose)

    def action_whole_run(self) -> None:
        """Shares of the steps that count, or of the whole run."""
        self.whole_run = not self.whole_run
        self._tell("window_changed")

    def go_to(self, name: str, class_name: str) -> None:
        """Show a module in the tree."""
        row = self.rank.row_named(name, class_name)
        if row >= 0:
            self.go_to_row(row)
        else:
            self.notify(f"{plain(name, 80)} is not in the tree that is shown", markup=False)

    def go_to_row(self, row: int) -> None:
        """Show a row of the process in the tree."""
        self.tree_screen.select_row(row)
        self.action_view(TREE)

    async def action_reload(self) -> None:
        """Read the trace again; where that fails what is shown stays."""
        from modtrace.errors import ModtraceError

        try:
            opened = ViewerModel(
                self.opened.path, rank=self.rank.part.rank, max_memory_bytes=self.opened.max_memory_bytes
            )
            step = opened.rank(opened.first).first_step
        except (ModtraceError, OSError) as error:
            self.notify(f"not read again: {plain(str(error), 200)}", severity="warning", markup=False)
            return
        self._opened, self.process, self.step, self.changed_on_disk = opened, opened.first, step, ""
        self._seen = _fingerprint(opened.path)
        old = list(self.views.values())
        self._make_views()
        await self.switch_screen(self.first_view)
        self.call_after_refresh(self._look_ahead)
        for view in old:
            self.uninstall_screen(view)
            if view.is_running:
                await view.remove()

    def _tell(self, method: str) -> None:
        for view in self.views.values():
            if view.is_mounted:
                getattr(view, method)()

    def _watch(self) -> None:
        """Say in the title when the trace on disk is another one than that which is shown."""
        now = _fingerprint(self.opened.path)
        note = "" if now == self._seen else "(deleted)" if now is None else "(has grown: ctrl+r)"
        if note != self.changed_on_disk:
            self.changed_on_disk = note
            if isinstance(self.screen, View):
                self.screen.head()


if TYPE_CHECKING:
    _AS_SCREENS_SEE_IT: type[ViewerApp] = Viewer
    """mypy checks here that the application has all that its screens ask for."""


def binding_ids() -> Iterator[str]:
    """The names of all keys, for the file of one's own keys."""
    owners = (
        Viewer, BaseScreen, TableKeys, LiveScreen, HotScreen, TreeScreen, FlameScreen, MemoryScreen, Popup, RanksPopup,
        LineList, RowTable, CallTree, FlameChart, CurveView, OutputPane, AskBar,
    )  # fmt: skip
    for owner in owners:
        for binding in owner.BINDINGS:
            if isinstance(binding, Binding) and binding.id:
                yield binding.id
    yield from pair_binding_ids()


def _is_light(colorfgbg: str) -> bool:
    """True where $COLORFGBG, `15;0` or `0;default;15`, names a light background; most terminals do not set it."""
    background = colorfgbg.rpartition(";")[2]
    return background in ("7", "15")


def _fingerprint(path: Path) -> tuple[int, int] | None:
    """Number of the files of a trace and their bytes; None when it is gone."""
    try:
        sizes = [file.lstat().st_size for file in path.glob("*/*") if file.is_file()]
        return (len(sizes), sum(sizes)) if path.is_dir() else None
    except OSError:
        return None


def run(path: Path, *, rank: int | None = None, max_memory_bytes: int | None = None) -> None:
    """Open a trace and show it until the user leaves.

    Args:
        path: its directory.
        rank: of several ranks this one first.
        max_memory_bytes: what one of its ranks may take in memory.

    Raises:
        UsageError: the rank is not there.
        TraceError: it cannot be read.
    """
    with reading(path):
        opened = ViewerModel(path, rank=rank, max_memory_bytes=max_memory_bytes)
        app = Viewer(opened)
        opened.rank(opened.first).profile()
    app.run()


def watch(path: Path, *, script: Script | None = None, name: str | None = None) -> str | None:
    """Show a run until the user leaves: `detached` or `finished`; None where the application has failed.

    Raises:
        TraceError: there is no trace, or none that this version can read.
    """
    trace = LiveTrace(path)
    if script is None:
        trace.look()
    return Viewer(None, live=LiveScreen(trace, script=script, name=name)).run()
