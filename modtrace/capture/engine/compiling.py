"""Takes the hooks out of torch's tables while torch compiles.

A graph that is compiled while global hooks are there is guarded on how many there are, so it would be compiled again
when recording ends. torch tells of the start and the end of a compilation, and in between hooks record nothing anyway.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from modtrace.capture.engine.imports import AfterImport
from modtrace.capture.torch_private.names import COMPILATIONS, compilations


class Aside:
    """Calls `hide` before a compilation and `show` after it, from `install` to `remove`.

    The compiler is not imported for this: most programs never do, and it takes a second.
    """

    def __init__(self, hide: Callable[[], None], show: Callable[[], None]) -> None:
        self._hide = hide
        self._show = show
        self._waiting = AfterImport(COMPILATIONS, self._register)
        self._registered = False

    def install(self) -> None:
        """Begin."""
        self._waiting.install()

    def remove(self) -> None:
        """End; what was registered with torch is taken back."""
        self._waiting.remove()
        if self._registered:
            handler = compilations()
            self._registered = False
            with contextlib.suppress(ValueError):  # torch._dynamo.reset() has taken them out
                handler.remove_start_callback(self._start)
                handler.remove_end_callback(self._end)

    def _register(self) -> None:
        handler = compilations()
        if hasattr(handler, "register_start_callback") and hasattr(handler, "register_end_callback"):
            handler.register_start_callback(self._start)
            handler.register_end_callback(self._end)
            self._registered = True

    def _start(self, *_: Any) -> None:
        self._hide()

    def _end(self, *_: Any) -> None:
        self._show()
