"""The screen of a run that goes on: tree of the last steps, bars of the steps, and the output of the script."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, cast

from textual.app import ComposeResult, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.timer import Timer
from textual.widgets import Footer
from textual.worker import Worker, WorkerState

from modtrace.analysis import live
from modtrace.analysis.filters import parse
from modtrace.analysis.live import LiveTrace
from modtrace.analysis.live_tree import WINDOWS, LiveTree
from modtrace.errors import ModtraceError, TraceError
from modtrace.filter_language import Filter
from modtrace.text import fit, plain, width
from modtrace.trace.schema import OUTPUT_FILE
from modtrace.units import duration, percent, plural
from modtrace.views.live import live_text
from modtrace.views.live.full_question import SECONDS, FullQuestion, number_of
from modtrace.views.live.live_lines import fit_lines, live_lines
from modtrace.views.live.prompt_relay import answer
from modtrace.views.live.scrollback import OutputFile
from modtrace.views.models.csv_sheet import Sheet, tree_sheet
from modtrace.views.models.live_model import LiveModel, checked
from modtrace.views.models.trouble import trouble_texts
from modtrace.views.models.viewer_model import ViewerModel
from modtrace.views.tui.bars import Banner, OneLine
from modtrace.views.tui.call_tree import CallTree
from modtrace.views.tui.line_list import FixedLines, LineList
from modtrace.views.tui.output_pane import OutputPane
from modtrace.views.tui.popups import Popup
from modtrace.views.tui.row_table import RowTable
from modtrace.views.tui.tree_keys import TreeKeys
from modtrace.views.tui.viewer_app import ViewerApp

if TYPE_CHECKING:
    from modtrace.views.live.pty_process import Script

RATES_HZ: Final = (1, 2, 4, 6, 8, 10)
USUAL_HZ: Final = 4
UNSEEN_SECONDS: Final = 2.0
"""Between two looks while the terminal says that it has not the focus."""
LOW: Final = 18
SIDE: Final = 150
"""Columns from which the steps are beside the tree: names have the width before."""
ROOMY: Final = 100
"""Columns from which the footer has room for the palette beside the keys."""
SORTS: Final = ("order", "self", "total", "calls", "name")


class LiveScreen(TreeKeys):
    """Follows a trace. The application ends with `detached` (left while the script ran) or `finished`; once the run has
    ended it can become the viewer of its trace.
    """

    DEFAULT_CSS = """
    LiveScreen { layout: vertical; background: $background; }
    LiveScreen #panes { layout: vertical; height: 1fr; }
    LiveScreen #steps { height: 4; overflow-y: hidden; }
    LiveScreen #output { height: 6; }
    LiveScreen.-wide #output { height: 8; }
    LiveScreen.-side #panes {
        layout: grid; grid-size: 2 2; grid-columns: 1fr 56; grid-rows: 2fr 1fr; grid-gutter: 0 2;
    }
    LiveScreen.-side #steps { height: 1fr; }
    LiveScreen.-side #output { height: 1fr; column-span: 2; }
    LiveScreen.-output #output { height: 1fr; column-span: 2; row-span: 2; }
    LiveScreen.-output #tree { display: none; }
    LiveScreen.-output #steps { display: none; }
    LiveScreen.-low #steps { height: 1; }
    LiveScreen.-low #output { height: 3; }
    """
    PANE_HELP: ClassVar[Mapping[str, str]] = {
        "tree": "The tree of the last steps, as in the viewer. Repeated blocks are folded: h.* x12. Times are those of "
        "one step; w changes how many steps they are the mean of."
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause", id="live.pause"),
        Binding("w", "window", "Window", id="live.window"),
        Binding("t", "output", "Output", id="live.output"),
        Binding("R", "reset", "Reset", id="live.reset", show=False),
        Binding("c", "change", "Change column", id="live.change", show=False),
        Binding("greater_than_sign", "rate(1)", "Look more often", id="live.faster", show=False),
        Binding("less_than_sign", "rate(-1)", "Look less often", id="live.slower", show=False),
        Binding("u", "full", "Next steps in full", id="live.full", show=False),
        Binding("i", "type", "Type to the script", id="live.type", show=False),
        Binding("K,ctrl+c", "stop", "Stop", id="live.stop", key_display="K"),
        Binding("enter", "view", "Viewer", id="live.view"),
    ]

    def __init__(self, trace: LiveTrace, *, script: Script | None = None, name: str | None = None) -> None:
        super().__init__()
        self.trace = trace
        self.script = script
        self.script_name = name
        self.live = LiveModel(LiveTree(trace))
        self.output: OutputFile = (
            OutputFile(script.output_path, script.output)
            if script is not None
            else OutputFile(trace.path / OUTPUT_FILE)
        )
        self.paused = False
        self.stop_asked = False
        self.ended = False
        self.change = True
        self.rate_hz = USUAL_HZ
        self._has_focus = True
        self._fault: str | None = None
        self._question: FullQuestion | None = None
        self._unanswered_looks = 0
        self._timer: Timer | None = None
        encoding = (getattr(sys.__stdout__, "encoding", None) or "").lower()
        self._ascii = not encoding.startswith("utf")

    def heading(self) -> ComposeResult:
        yield OneLine(id="head")
        yield Banner()

    def body(self) -> ComposeResult:
        steps = LineList(FixedLines([]), has_cursor=False, id="steps")
        steps.can_focus = False
        with Container(id="panes"):
            yield CallTree(live_lines(self.live), keys=SORTS, id="tree")
            yield steps
            yield OutputPane(self.output.lines if self.script is not None else None)

    def on_mount(self) -> None:
        self.call_tree.focus()
        self._start_timer()
        self.look()

    @property
    def viewer(self) -> ViewerApp:
        return cast("ViewerApp", self.app)

    @property
    def trace_path(self) -> Path:
        return self.trace.path

    @property
    def notes(self) -> list[str]:
        return [note for process in self.trace.processes for note in process.notes]

    @property
    def can_open(self) -> bool:
        """Has the run ended, and is there a trace for the viewer?"""
        return self.ended and self.trace.run is not None and not self.trace.gone

    # Looking.

    def fitted(self) -> None:
        super().fitted()
        self.set_class(self.app.size.height < LOW, "-low")
        self.set_class(self.is_wide and self.app.size.width >= SIDE, "-side")
        self.query_one(Footer).show_command_palette = self.app.size.width >= ROOMY
        self.call_after_refresh(self._fit_panes)

    def _fit_panes(self) -> None:
        """The columns are those that there is room for; the script's terminal is as large as the pane of its output."""
        pane = self.query_one(OutputPane)
        if self.script is not None and pane.size.width:
            self.script.resize(pane.size.height - 1, pane.size.width)
        self.draw()

    def set_focused(self, has_focus: bool) -> None:
        """The terminal has the focus now, or has lost it."""
        self._has_focus = has_focus
        self._start_timer()
        if has_focus:
            self.look()

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_interval(1 / self.rate_hz if self._has_focus else UNSEEN_SECONDS, self.look)

    def look(self) -> None:
        """Read what is new, and show it."""
        ended = self._has_ended()
        self._look_for_answer()
        printed = not self.ended and self.output.look()
        if printed and self.script is not None:
            spoken = self.script.marks.feed(self.output.fresh)
            if self.script.marks.open:
                self._answer(self.script, spoken)
        if self.ended or (self.paused and not ended):
            return
        try:
            changed = self.trace.look().changed
        except TraceError as error:
            changed, self._fault = False, str(error)
        pane = self.query_one(OutputPane)
        if printed:
            if self.script is None:
                pane.lines = self.output.lines
            pane.refresh()
        if changed or ended:
            self.show_trace()
        else:
            self.head()
        if ended:
            self._end()

    def _answer(self, script: Script, spoken: bytes) -> None:
        """Leave the screen for a prompt of the script, and come back when it goes on."""
        try:
            with self.app.suspend():
                answer(script, self.output, script.marks, spoken)
        except SuspendNotSupported:
            self.app.notify("the script asks: type to it with i", severity="warning", markup=False)
        self._fit_panes()
        self.app.refresh()

    def _end(self) -> None:
        self.ended = True
        self.stop_asked = False
        if self.ask_bar.is_open and self.ask_bar.purpose == "type":
            self.ask_bar.close()
            self.after_asking()
        self.head()
        self.refresh_bindings()
        if self.can_open:
            path = self.trace.path
            self.run_worker(lambda: _trouble(path), thread=True, name="trouble", exit_on_error=False)
        if self.script is not None and self.script.asked_to_end:
            self.app.exit("finished")

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """The reason for which the run failed, above all else: the last output may be of something else."""
        if event.worker.name == "trouble" and event.state is WorkerState.SUCCESS:
            self.query_one(Banner).put(event.worker.result or [])

    def _has_ended(self) -> bool:
        """Has the run come to its end? The last of its output is read after that is known."""
        if self.script is not None:
            if self.script.poll() is None and not self.script.lost:
                return False
            self.script.wait_for_output(0.5)
            return True
        return self.trace.state in (live.FINISHED, live.DIED, live.GONE)

    def show_trace(self) -> None:
        """Bring tree, steps and title up to the trace; cursor, open rows, hits and scrolling stay."""
        self.search_again(self.live.refresh())
        self.call_tree.grown()
        self.draw()

    def draw(self) -> None:
        """Draw the panes anew."""
        tree = self.call_tree
        fit_lines(tree.shown, self.live, tree.columns, change=self.change)
        if looked_for := self._looked_for():
            tree.shown.title = f"{looked_for}  {tree.shown.title}"
        tree.refresh()
        steps = self.query_one("#steps", LineList)
        lines = live_text.step_lines(self.live.tree, max(steps.columns, 20), ascii=self._ascii)
        steps.show(FixedLines([[(line, "")] for line in lines]))
        self.head()

    def head(self) -> None:
        state = self._state()
        code = self.script.returncode if self.script is not None else None
        shown = "[paused]" if self.paused else live_text.state_text(self.trace, state, code)
        text = f"{live_text.title(self.trace, self.script_name, self.live.tree, state)}  {shown}"
        if self._fault is not None:
            text += f"  {self._fault}"
        if self.stop_asked:
            text = "stop the script? y or ctrl+c: send it ctrl+c   esc: go on"
        processes = self.trace.processes
        if processes and width(text) > self.app.size.width:  # how it stands says more
            text = text.replace(f" pid {processes[0].process.pid}", "", 1)
        right = [live_text.cost(self.live.tree)] if self.rate_hz == USUAL_HZ else [f"{self.rate_hz} Hz"]
        right = [*filter(None, right), *(["enter: viewer"] if self.can_open else [])]
        room = self.app.size.width - width(text)
        while right and room <= width("  ".join(right)):
            right.pop(0)
        self.query_one("#head", OneLine).put([(text + "  ".join(right).rjust(max(room, 0)), "bold")])

    def _state(self) -> str:
        if self.script is None:
            return self.trace.state
        if self.script.returncode is not None:
            return live.FINISHED
        return live.DIED if self.script.lost else live.RUNNING if self.trace.processes else live.WAITING

    # What the tree is asked for.

    def parsed(self, text: str) -> Filter:
        return checked(parse(text))

    def show_selected(self) -> None:
        self.draw()

    def say_hits(self, text: str) -> None:
        del text  # it is above the tree, where it stays
        self.draw()

    def no_hits(self) -> None:
        super().no_hits()
        self.draw()

    def on_row_table_changed(self, event: RowTable.Changed) -> None:
        del event
        self.draw()

    def _looked_for(self) -> str:
        """Rows that a filter lets through, and hits of a search; "" where there is neither."""
        model, texts = self.live.model, []
        if model.matches is not None:
            texts.append(f"{int(model.matches.sum()):,} of {len(model.nodes):,} rows")
        if self.hits is not None:
            texts.append(f"hit {model.hit_number(self.hits):,} of {int(self.hits.sum()):,}")
        return "  ".join(texts)

    def sheet(self) -> Sheet | None:
        """The rows of the tree; times and calls are those of a step, unless all is shown."""
        sheet = tree_sheet(self.live.model, "live")
        if self.live.tree.window is None:
            return sheet
        names = [
            f"{name}_per_step" if name in ("self_ns", "total_ns", "calls") else name for name in sheet.columns
        ]
        return Sheet(sheet.name, names, sheet.rows)

    def on_line_list_chosen(self, event: LineList.Chosen) -> None:
        """Enter on a row: the viewer once there is one, else what is known of the row."""
        if event.source.id != "tree":
            return
        if self.can_open:
            self.action_view()
        elif (node := self.live.model.selected) >= 0:
            lines = self._facts(node)
            path = plain(self.live.model.nodes.path(node)[:200])
            self.app.push_screen(Popup(path, lambda width: [[(fit(line, width), "")] for line in lines]))

    def _facts(self, node: int) -> list[str]:
        shown, nodes = self.live, self.live.model.nodes
        row = int(shown.rows[node])
        lines = [plain(nodes.label(node)[:200]), plain(nodes.class_name(node)[:200])]
        lines.append(f"{plural(shown.tree.instances[row], 'instance')}, {shown.calls_text(node)} calls")
        for name in ("self", "total"):
            value = nodes.number(name, node)
            share = "" if value is None else f"{percent(value, shown.span_ns):>6} %"
            lines.append(f"{name:5} {duration(value):>8} {share}")
        change = shown.change_text(node)
        if change:
            lines.append(f"{change} against the window before")
        lines.append(
            "sums of all" if shown.tree.window is None else f"of one step: mean, {shown.window_text}"
        )
        return [line for line in lines if line]

    # Keys.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that have nothing to do now are not shown."""
        del parameters
        if action in ("stop", "type"):
            return self.script is not None and not self.ended
        if action == "view":
            return self.can_open
        if action in ("pause", "rate", "full"):
            return not self.ended
        return True

    @property
    def goes_on_without(self) -> bool:
        """Is there a script that goes on when this is left?"""
        return self.script is not None and not self.ended

    def action_pause(self) -> None:
        self.paused = not self.paused
        self.head()

    def action_window(self) -> None:
        tree = self.live.tree
        tree.window = WINDOWS[(WINDOWS.index(tree.window) + 1) % len(WINDOWS)]
        self.show_trace()

    def action_output(self) -> None:
        self.toggle_class("-output")
        chosen = self.query_one(OutputPane) if self.has_class("-output") else self.call_tree
        chosen.focus()
        self.call_after_refresh(self._fit_panes)

    def action_reset(self) -> None:
        self.live.tree.window = None
        self.live.tree.reset()
        self.show_trace()

    def action_change(self) -> None:
        self.change = not self.change
        self.draw()

    def action_rate(self, by: int) -> None:
        number = min(max(RATES_HZ.index(self.rate_hz) + by, 0), len(RATES_HZ) - 1)
        self.rate_hz = RATES_HZ[number]
        self._start_timer()
        self.head()

    def next_rank(self, by: int) -> None:
        """Show the next process, or all of them."""
        count = len(self.trace.processes)
        if count > 1:
            tree = self.live.tree
            number = ((-1 if tree.rank is None else tree.rank) + 1 + by) % (count + 1)
            tree.rank = number - 1 if number else None
            self.show_trace()

    def action_type(self) -> None:
        self.ask_bar.ask("type", "a line for the script:", "")

    def action_full(self) -> None:
        """Ask the run for its next steps in full."""
        self.ask_bar.ask("full", "steps in full, from the next one on:", "3")

    def _ask_for_steps(self, text: str) -> None:
        """Ask for so many; what the run says is shown when it has answered."""
        try:
            self._question = FullQuestion(self.trace.path, number_of(text))
        except ModtraceError as error:
            self.ask_bar.say(str(error), trouble=True)
            return
        self._unanswered_looks = 0
        self.ask_bar.close()
        self.after_asking()

    def _look_for_answer(self) -> None:
        """Show what the run says to the question for steps, or that it has said nothing for a while."""
        if self._question is None:
            return
        answered = self._question.look()
        self._unanswered_looks += 1
        if answered or self._unanswered_looks > SECONDS * self.rate_hz:
            severity: Literal["information", "warning"] = "information" if answered else "warning"
            self.app.notify(self._question.text, severity=severity, markup=False)
            self._question = None

    def entered(self, purpose: str, text: str) -> None:
        if purpose == "full":
            self._ask_for_steps(text)
            return
        if purpose != "type":
            super().entered(purpose, text)
            return
        if self.script is not None:
            self.script.type(text + "\n")
        self.action_type()

    def action_back(self) -> None:
        """Out of what was gone into last: the question, the output alone, then what a tree has."""
        if self.stop_asked:
            self.stop_asked = False
        elif self.has_class("-output"):
            self.action_output()
        else:
            super().action_back()
        self.head()

    def action_stop(self) -> None:
        if self.stop_asked:
            self._confirm()
        else:
            self.stop_asked = True
            self.head()

    def action_copy(self) -> None:
        if self.stop_asked:  # y is the answer then
            self._confirm()
        else:
            super().action_copy()

    def _confirm(self) -> None:
        self.stop_asked = False
        if self.script is not None:
            self.script.interrupt()
        self.head()

    def action_view(self) -> None:
        self.viewer.open_trace(self.trace.path)


def _trouble(path: Path) -> list[str]:
    """The end of the first process of a trace that has ended, where that was not well."""
    rank = ViewerModel(path).rank(0)
    return trouble_texts(rank.outcome, rank.failure, rank.nonfinite)
