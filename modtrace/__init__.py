"""Records and shows the nested tree of module calls of PyTorch programs."""

import modtrace.trace  # noqa: F401 - the package first: the function of the same name is what `modtrace.trace` means afterwards
from modtrace._version import __version__
from modtrace.api import Recording, Trace, breakpoint, load, pm, span, step, trace  # noqa: A004 - it is that
from modtrace.comparisons import Difference, check, compare
from modtrace.errors import CannotTellError, ModtraceError, RegressionError, TraceError, UsageError

__all__ = [
    "CannotTellError",
    "Difference",
    "ModtraceError",
    "Recording",
    "RegressionError",
    "Trace",
    "TraceError",
    "UsageError",
    "__version__",
    "breakpoint",
    "check",
    "compare",
    "load",
    "pm",
    "span",
    "step",
    "trace",
]


def load_ipython_extension(shell: object) -> None:
    """Entry point of `%load_ext modtrace`: makes `%%modtrace` known."""
    from modtrace.magic import register

    register(shell)


def unload_ipython_extension(shell: object) -> None:
    """Called by `%unload_ext modtrace`."""
    from modtrace.magic import unregister

    unregister(shell)


def __dir__() -> list[str]:
    """The public names: those of the sub-packages are no part of what `import modtrace` offers."""
    return sorted(__all__)
