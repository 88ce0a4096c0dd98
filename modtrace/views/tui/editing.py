"""Leaving the viewer for an editor, and coming back."""

from __future__ import annotations

import os
import subprocess

from textual.app import App, SuspendNotSupported

from modtrace.text import plain
from modtrace.views.tui.source import SourcePlace, editor


def edit(app: App[None], place: SourcePlace) -> None:
    """Open the user's editor at a place; what prevents it is said in the viewer."""
    command = editor(place, os.environ)
    if command is None:
        app.notify(f"set $EDITOR to open {place.text}", severity="warning", markup=False)
        return
    try:
        with app.suspend():
            subprocess.run(command, check=False)
    except SuspendNotSupported:
        app.notify("this terminal cannot be left and come back to", severity="warning", markup=False)
    except OSError as error:
        app.notify(f"{plain(command[0], 80)}: {error.strerror}", severity="error", markup=False)
    app.refresh()
