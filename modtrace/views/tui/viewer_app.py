"""The application as its screens see it. The application imports the screens; they know this protocol instead."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from modtrace.analysis.findings import Finding
from modtrace.views.models.viewer_model import Rank, ViewerModel
from modtrace.views.tui.call_tree import CallTree


class SharedTree(Protocol):
    """The tree view, whose selected row the other views follow and move."""

    mode: str

    @property
    def is_mounted(self) -> bool: ...

    @property
    def call_tree(self) -> CallTree: ...

    def select_row(self, row: int) -> None:
        """Put the cursor on the node of a row of the part."""


class ViewerApp(Protocol):
    """The process and step that are shown, and the ways from one screen to another.

    Attributes:
        process: number of the process that is shown.
        step: number of the step that is shown.
        findings: of the trace; None while they are worked out in the background.
        findings_fault: why there are none; "" for no fault.
        whole_run: shares are of the whole run, not of the steps that count.
        changed_on_disk: note for the title when the files of the trace have changed; "" while they have not.
    """

    process: int
    step: int
    whole_run: bool
    findings: list[Finding] | None
    findings_fault: str
    changed_on_disk: str

    @property
    def opened(self) -> ViewerModel: ...

    @property
    def rank(self) -> Rank: ...

    @property
    def tree_screen(self) -> SharedTree: ...

    def open_trace(self, path: Path) -> None:
        """Become the viewer of a trace."""

    def action_view(self, number: int) -> None:
        """Show one of the views."""

    def go_to(self, name: str, class_name: str) -> None:
        """Show a module in the tree."""

    def go_to_row(self, row: int) -> None:
        """Show a row of the process in the tree."""
