"""The viewer: a trace that is open, five views of it, and the keys they share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Final

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from modtrace.text import plain
from modtrace.trace.arrow import give_back
from modtrace.views.tui.bars import VIEWS, AskBar
from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.curve_view import CurveView
from modtrace.views.tui.flame_chart import FlameChart
from modtrace.views.tui.flame_screen import FlameScreen
from modtrace.views.tui.keys import config_file, read_keys
from modtrace.views.tui.lines import LineList
from modtrace.views.tui.memory_screen import MemoryScreen
from modtrace.views.tui.opened import Opened, Rank
from modtrace.views.tui.ops_screen import OpsScreen
from modtrace.views.tui.popups import Popup
from modtrace.views.tui.steps_screen import StepsScreen
from modtrace.views.tui.tree_screen import TreeScreen
from modtrace.views.tui.view import View

WATCH_SECONDS: Final = 2.0
"""How often it is looked whether the files of the trace have changed."""


class Viewer(App[None]):
    """`modtrace view`."""

    TITLE = "modtrace"
    ENABLE_COMMAND_PALETTE = True
    CSS = "Screen { background: $background; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(at), f"view({at})", name, id=f"app.{name.lower()}", show=False)
            for at, name in enumerate(VIEWS, start=1)
        ),
        Binding("left_square_bracket", "step(-1)", "Step", id="app.previous_step", key_display="[ ]"),
        Binding("right_square_bracket", "step(1)", "Next step", id="app.next_step", show=False),
        Binding("left_curly_bracket", "rank(-1)", "Previous rank", id="app.previous_rank", show=False),
        Binding("right_curly_bracket", "rank(1)", "Next rank", id="app.next_rank", show=False),
        Binding("ctrl+r", "reload", "Read the trace again", id="app.reload", show=False),
        Binding("ctrl+z", "suspend_process", "Suspend", id="app.suspend", show=False),
        Binding("q", "quit", "Quit", id="app.quit"),
    ]

    def __init__(self, opened: Opened, *, keys: Path | None = None) -> None:
        super().__init__()
        self.opened = opened
        self.process = 0
        self.step = 0
        self.changed_on_disk = ""
        self._keys_file = keys if keys is not None else config_file(os.environ)
        self._seen = _fingerprint(opened.path)
        self.views: dict[int, View] = {}
        self._readings = 0

    @property
    def rank(self) -> Rank:
        return self.opened.rank(self.process)

    @property
    def tree_screen(self) -> TreeScreen:
        screen = self.views[1]
        assert isinstance(screen, TreeScreen)
        return screen

    def on_mount(self) -> None:
        # The terminal's own colours and background.
        self.theme = "ansi-light" if _is_light(os.environ.get("COLORFGBG", "")) else "ansi-dark"
        self._make_views()
        self.push_screen(self.views[1])
        self.call_after_refresh(give_back)
        self.set_interval(WATCH_SECONDS, self._watch)
        keys, trouble = read_keys(self._keys_file, set(binding_ids()))
        if keys:
            self.set_keymap(keys)
        if trouble is not None:
            self.notify(trouble, severity="warning", markup=False, timeout=8)

    def _make_views(self) -> None:
        made = (TreeScreen, FlameScreen, StepsScreen, MemoryScreen, OpsScreen)
        self.views = {number: screen() for number, screen in enumerate(made, start=1)}
        # Textual takes screens apart when another one takes their place, unless they are installed.
        self._readings += 1
        for number, view in self.views.items():
            self.install_screen(view, f"view-{number}-{self._readings}")

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        for number, name in enumerate(VIEWS, start=1):
            yield SystemCommand(name, f"Show the view {name}", lambda number=number: self.action_view(number))
        yield SystemCommand("Read again", "Read the trace from disk again", self.action_reload)
        if isinstance(screen, View):
            yield SystemCommand("Export", "Write what is shown as CSV", screen.action_export)
        if isinstance(screen, TreeScreen):
            for key in ("order", "self", "total", "calls", "name"):
                yield SystemCommand(f"Sort by {key}", "", lambda key=key: screen.call_tree.sort_by(key))
            yield SystemCommand("Merged, instances, calls", "The next of the three trees", screen.action_mode)

    def action_view(self, number: int) -> None:
        """Show one of the views."""
        if isinstance(self.screen, View) and number != self.screen.NUMBER:
            self.switch_screen(self.views[number])

    def action_step(self, by: int) -> None:
        """The next step, or the one before."""
        last = len(self.rank.steps) - 1
        step = min(max(self.step + by, 0), max(last, 0))
        if step != self.step and isinstance(self.screen, View):
            self.step = step
            self._tell("step_changed")

    def action_rank(self, by: int) -> None:
        """The next process, or the one before."""
        process = min(max(self.process + by, 0), self.opened.processes - 1)
        if process != self.process:
            self.process = process
            self.step = min(self.step, max(len(self.rank.steps) - 1, 0))
            self._tell("rank_changed")

    def go_to(self, name: str, kind: str) -> None:
        """Show a module in the tree."""
        tree = self.tree_screen
        nodes = tree.call_tree.model.nodes
        rows = nodes.rows
        for node in range(len(nodes)) if tree.mode != "calls" else ():
            if nodes.path(node) == name and rows.types[rows.type[node]] in (kind, ""):
                tree.call_tree.model.reveal(node)
                tree.call_tree.synced()
                self.action_view(1)
                return
        self.notify(f"{plain(name, 80)} is not in the tree that is shown", markup=False)

    async def action_reload(self) -> None:
        """Read the trace again; where that fails what is shown stays."""
        from modtrace.errors import ModtraceError

        try:
            opened = Opened(self.opened.path, max_memory_bytes=self.opened.max_memory_bytes)
            opened.rank(0).tree("merged")
        except (ModtraceError, OSError) as error:
            self.notify(f"not read again: {plain(str(error), 200)}", severity="warning", markup=False)
            return
        self.opened, self.process, self.step, self.changed_on_disk = opened, 0, 0, ""
        self._seen = _fingerprint(opened.path)
        old = list(self.views.values())
        self._make_views()
        await self.switch_screen(self.views[1])
        for view in old:
            self.uninstall_screen(view)
            if view.is_running:
                await view.remove()

    def _tell(self, what: str) -> None:
        for view in self.views.values():
            if view.is_mounted:
                getattr(view, what)()

    def _watch(self) -> None:
        """Say in the title when the trace on disk is another one than that which is shown."""
        now = _fingerprint(self.opened.path)
        said = "" if now == self._seen else "(deleted)" if now is None else "(has grown: ctrl+r)"
        if said != self.changed_on_disk:
            self.changed_on_disk = said
            if isinstance(self.screen, View):
                self.screen.head()


def binding_ids() -> Iterator[str]:
    """The names of all keys, for the file of one's own keys."""
    owners = (
        Viewer, View, TreeScreen, FlameScreen, StepsScreen, MemoryScreen, OpsScreen, Popup,
        LineList, CallTree, FlameChart, CurveView, AskBar,
    )  # fmt: skip
    for owner in owners:
        for binding in owner.BINDINGS:
            if isinstance(binding, Binding) and binding.id:
                yield binding.id


def _is_light(said: str) -> bool:
    """Whether $COLORFGBG, `15;0` or `0;default;15`, tells of a light background; most terminals say nothing."""
    background = said.rpartition(";")[2]
    return background in ("7", "15")


def _fingerprint(path: Path) -> tuple[int, int] | None:
    """Number of the files of a trace and their bytes; None when it is gone."""
    try:
        found = [file.lstat().st_size for file in path.glob("*/*") if file.is_file()]
        return (len(found), sum(found)) if path.is_dir() else None
    except OSError:
        return None


def run(path: Path, *, max_memory_bytes: int | None = None) -> None:
    """Open a trace and show it until the user leaves.

    Raises:
        TraceError: it cannot be read.
    """
    opened = Opened(path, max_memory_bytes=max_memory_bytes)
    opened.rank(0).tree("merged")
    Viewer(opened).run()
