"""The live view: tree of the last steps, bars of the steps, and the output of the script."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.timer import Timer
from textual.widgets import Footer, Input

from modtrace.analysis import live
from modtrace.analysis.live import LiveTrace
from modtrace.analysis.live_tree import SORTS, WINDOWS, LiveTree
from modtrace.errors import ModtraceError, TraceError
from modtrace.trace.schema import OUTPUT_FILE
from modtrace.views.live import words
from modtrace.views.live.panes import Line, OutputPane, StepsPane, TreePane
from modtrace.views.live.scrollback import OutputFile

if TYPE_CHECKING:
    from modtrace.views.live.script import Script

RATES_HZ: Final = (1, 2, 4, 6, 8, 10)
UNSEEN_SECONDS: Final = 2.0
"""Between two looks while the terminal says that it has not the focus."""
LEAST: Final = (60, 12)
WIDE: Final = (120, 24)
LOW: Final = 18


class LiveApp(App[str]):
    """Follows a trace. Its result is `detached` (left while the script ran), `finished`, or `view` for the viewer."""

    TITLE = "modtrace live"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; background: $background; }
    #panes { layout: vertical; height: 1fr; }
    #steps { height: 4; }
    #output { height: 6; }
    #type { display: none; height: 1; border: none; padding: 0; }
    #small { display: none; }
    Footer { background: transparent; }
    .-wide #panes { layout: grid; grid-size: 2 2; grid-columns: 3fr 2fr; grid-rows: 2fr 1fr; grid-gutter: 0 2; }
    .-wide #steps { height: 1fr; }
    .-wide #output { height: 1fr; column-span: 2; }
    .-output #output { height: 1fr; column-span: 2; row-span: 2; }
    .-output #tree { display: none; }
    .-output #steps { display: none; }
    .-low #steps { height: 1; }
    .-low #output { height: 3; }
    .-small #panes, .-small #head, .-small Footer { display: none; }
    .-small #small { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause", id="live.pause"),
        Binding("w", "window", "Window", id="live.window"),
        Binding("s", "sort(1)", "Sort", id="live.sort"),
        Binding("S", "sort(-1)", "Sort back", id="live.sort_back", show=False),
        Binding("l", "output", "Output", id="live.output"),
        Binding("r", "reset", "Reset", id="live.reset"),
        Binding("x", "trend", "Trend", id="live.trend"),
        Binding("plus,equals_sign", "rate(1)", "Faster", id="live.faster", show=False),
        Binding("minus", "rate(-1)", "Slower", id="live.slower", show=False),
        Binding("left_curly_bracket", "rank(-1)", "Previous rank", id="live.previous_rank", show=False),
        Binding("right_curly_bracket", "rank(1)", "Next rank", id="live.next_rank", show=False),
        Binding("tab", "app.focus_next", "Next pane", id="live.next_pane", show=False),
        Binding("i", "type", "Type", id="live.type", show=False),
        Binding("k,ctrl+c", "stop", "Stop", id="live.stop", priority=False),
        Binding("y", "confirm", "Yes", id="live.yes", show=False),
        Binding("escape", "give_up", "Back", id="live.back", show=False),
        Binding("enter", "view", "Viewer", id="live.view"),
        Binding("ctrl+z", "suspend_process", "Suspend", id="live.suspend", show=False),
        Binding("q", "detach", "Detach", id="live.detach"),
        Binding("q", "leave", "Quit", id="live.leave"),
    ]

    def __init__(self, trace: LiveTrace, *, script: Script | None = None, name: str | None = None) -> None:
        super().__init__()
        self.trace = trace
        self.script = script
        self.script_name = name
        self.calls = LiveTree(trace)
        self.output: OutputFile = (
            OutputFile(script.output_path, script.output)
            if script is not None
            else OutputFile(trace.path / OUTPUT_FILE)
        )
        self.paused = False
        self.asked = False
        self.ended = False
        self.rate_hz = 4
        self._seen = True
        self._fault: str | None = None
        self._timer: Timer | None = None
        encoding = (getattr(sys.__stdout__, "encoding", None) or "").lower()
        self._ascii = not encoding.startswith("utf")

    def compose(self) -> ComposeResult:
        yield Line(id="head")
        with Container(id="panes"):
            yield TreePane(self.calls)
            yield StepsPane(self.calls, ascii=self._ascii)
            yield OutputPane(self.output.lines if self.script is not None else None)
        yield Input(
            id="type", compact=True, placeholder="a line for the script; enter sends it, escape leaves"
        )
        yield Line(id="small")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
        self.theme = "ansi-light" if background in ("7", "15") else "ansi-dark"
        self.query_one("#small", Line).put("terminal too small (60x12 needed)")
        self.query_one(TreePane).focus()
        self._start_timer()
        self.look()

    def on_resize(self, event: events.Resize) -> None:
        width, height = event.size
        self.screen.set_class(width < LEAST[0] or height < LEAST[1], "-small")
        self.screen.set_class(height < LOW, "-low")
        self.screen.set_class(width >= WIDE[0] and height >= WIDE[1], "-wide")
        self.call_after_refresh(self._fit_script)

    def on_app_blur(self) -> None:
        self._seen = False
        self._start_timer()

    def on_app_focus(self) -> None:
        self._seen = True
        self._start_timer()
        self.look()

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_interval(1 / self.rate_hz if self._seen else UNSEEN_SECONDS, self.look)

    def _fit_script(self) -> None:
        """The script's terminal is as large as the pane of its output."""
        pane = self.query_one(OutputPane)
        if self.script is not None and pane.size.width:
            self.script.resize(pane.size.height - 1, pane.size.width)

    def look(self) -> None:
        """Read what is new, and show it."""
        ended = self._hear()
        if self.ended or (self.paused and not ended):
            return
        try:
            changed = self.trace.look().changed
        except TraceError as error:
            changed, self._fault = False, str(error)
        if self.output.look():
            if self.script is None:
                self.query_one(OutputPane).lines = self.output.lines
            self.query_one(OutputPane).refresh()
        if changed or ended:
            self.show()
        else:
            self._head()
        if ended:
            self.ended = True
            self.asked = False
            if self.query_one(Input).has_focus:
                self.action_give_up()
            self.refresh_bindings()
            if self.script is not None and self.script.asked_to_end:
                self.exit("finished")

    def _hear(self) -> bool:
        """Whether the run has come to its end; what it has written last is read after that is known."""
        if self.script is not None:
            if self.script.poll() is None and not self.script.lost:
                return False
            self.script.wait_for_output(0.5)
            return True
        return self.trace.state in (live.FINISHED, live.DIED, live.GONE)

    def show(self) -> None:
        """Bring the panes up to date."""
        self.calls.refresh()
        self.query_one(TreePane).refresh()
        self.query_one(StepsPane).put()
        self._head()

    def _state(self) -> str:
        if self.script is None:
            return self.trace.state
        if self.script.returncode is not None:
            return live.FINISHED
        return live.DIED if self.script.lost else live.RUNNING if self.trace.processes else live.WAITING

    def _head(self) -> None:
        state = self._state()
        code = self.script.returncode if self.script is not None else None
        said = "[paused]" if self.paused else words.state_text(self.trace, state, code)
        text = f"{words.title(self.trace, self.script_name, self.calls, state)}  {said}"
        if self._fault is not None:
            text += f"  {self._fault}"
        if self.asked:
            text = "stop the script? y or k: send it ctrl+c   esc: go on"
        rate = "" if self.rate_hz == 4 else f"{self.rate_hz} Hz"
        self.query_one("#head", Line).put(text, rate or words.cost(self.calls))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to do now are not shown."""
        del parameters
        ended = self.ended
        if action in ("stop", "type"):
            return self.script is not None and not ended
        if action == "detach":
            return self.script is not None and not ended
        if action == "leave":
            return self.script is None or ended
        if action == "confirm":
            return self.asked
        if action == "view":
            return ended and self.trace.run is not None and not self.trace.gone
        if action in ("pause", "rate"):
            return not ended
        return True

    def action_pause(self) -> None:
        self.paused = not self.paused
        self._head()

    def action_window(self) -> None:
        self.calls.window = WINDOWS[(WINDOWS.index(self.calls.window) + 1) % len(WINDOWS)]
        self.show()

    def action_sort(self, by: int) -> None:
        self.calls.sort = SORTS[(SORTS.index(self.calls.sort) + by) % len(SORTS)]
        self.show()

    def action_output(self) -> None:
        self.screen.toggle_class("-output")
        chosen = OutputPane if self.screen.has_class("-output") else TreePane
        self.query_one(chosen).focus()
        self.call_after_refresh(self._fit_script)

    def action_reset(self) -> None:
        self.calls.window = None
        self.calls.reset()
        self.show()

    def action_trend(self) -> None:
        pane = self.query_one(TreePane)
        pane.trend = not pane.trend
        pane.refresh()

    def action_rate(self, by: int) -> None:
        at = min(max(RATES_HZ.index(self.rate_hz) + by, 0), len(RATES_HZ) - 1)
        self.rate_hz = RATES_HZ[at]
        self._start_timer()
        self._head()

    def action_rank(self, by: int) -> None:
        count = len(self.trace.processes)
        if count > 1:
            at = (-1 if self.calls.rank is None else self.calls.rank) + 1 + by
            at %= count + 1
            self.calls.rank = at - 1 if at else None
            self.show()

    def action_type(self) -> None:
        line = self.query_one(Input)
        line.styles.display = "block"
        line.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self.script is not None:
            self.script.type(event.value + "\n")
        event.input.value = ""

    def action_give_up(self) -> None:
        if self.asked:
            self.asked = False
        elif self.query_one(Input).has_focus:
            self.query_one(Input).styles.display = "none"
            self.query_one(TreePane).focus()
        elif self.screen.has_class("-output"):
            self.action_output()
        self._head()

    def action_stop(self) -> None:
        if self.asked:
            self.action_confirm()
        else:
            self.asked = True
            self._head()

    def action_confirm(self) -> None:
        self.asked = False
        if self.script is not None:
            self.script.interrupt()
        self._head()

    def action_view(self) -> None:
        self.exit("view")

    def action_detach(self) -> None:
        self.exit("detached")

    def action_leave(self) -> None:
        self.exit("finished")


def watch(path: Path, *, script: Script | None = None, name: str | None = None) -> str | None:
    """Show a run until the user leaves: `detached`, `finished`, `view`; None where the view has failed.

    Raises:
        TraceError: there is no trace, or none that this version can read.
    """
    trace = LiveTrace(path)
    if script is None:
        trace.look()
    return LiveApp(trace, script=script, name=name).run()


def view(path: Path) -> None:
    """Become the normal viewer.

    Raises:
        TraceError: the trace cannot be read.
    """
    try:
        viewer = import_module("modtrace.views.tui.app")
    except ModuleNotFoundError as error:
        raise ModtraceError(f"the viewer is not here ({error})") from None
    viewer.run(path)
