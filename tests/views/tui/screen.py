"""Driving the viewer without a terminal, and what its screen says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from modtrace.views.models.viewer_model import ViewerModel
from modtrace.views.tui.app import Viewer


def drive(
    path: Path,
    act: Callable[[Pilot[None], Any], Awaitable[None]],
    size: tuple[int, int] = (120, 32),
    *,
    view: str = "3",
) -> None:
    """Open a trace, go to a view (the tree, "" for the one that it opens with), and hand over the pilot and the app."""

    async def main() -> None:
        app = Viewer(ViewerModel(path))
        async with app.run_test(size=size) as pilot:
            await settled(pilot)
            if view:
                await press(pilot, view)
            await act(pilot, app)

    asyncio.run(main())


async def settled(pilot: Pilot[None]) -> None:
    """Until nothing is under way any more: no worker, no refresh, no details that come a moment later."""
    app: Any = pilot.app
    await app.workers.wait_for_complete()
    for _ in range(3):
        await pilot.pause()
    screen = app.screen
    if getattr(screen, "_soon", None) is not None:
        screen._soon.stop()
        screen._details()
        await pilot.pause()


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Keys, and what comes of them."""
    await pilot.press(*keys)
    await settled(pilot)


def text(app: Any) -> str:
    """What is to be seen, a line a row, blanks at the ends taken off."""
    return "\n".join(
        "".join(segment.text for segment in strip).rstrip()
        for strip in app.screen._compositor.render_strips()
    )


def styles(app: Any) -> set[str]:
    """The colours that are on the screen, as the terminal is sent them."""
    found = set()
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            if segment.style is not None:
                found |= {
                    str(color) for color in (segment.style.color, segment.style.bgcolor) if color is not None
                }
    return found
