"""Errors a person can act on: each message says what was wrong, where, and what to do.

Exit status of the command `modtrace`, one for each kind of error:

| status | what happened |
|---|---|
| 0 | done |
| 1 | `RegressionError`: a limit of `--fail-on` is exceeded; or whoever read the output has gone (a closed pipe) |
| 2 | `UsageError`: a command, option, value or path that cannot be used; nothing has been started or changed |
| 3 | `WriteError`: a file that could not be written to its end |
| 4 | `TraceError`: a trace that is missing, foreign, damaged, unreadable or too large |
| 5 | `CannotTellError`: a limit of `--fail-on` of which it cannot be told; with `--unknown-ok` that is 0 |
| 6 | `RunFailedError`: a command that `modtrace compare` ran has failed |
| 130 | ctrl-C: the process ends by SIGINT, which a shell shows so |

`modtrace run` ends as the script does, once it has started; with `--fail-on nan` with 3 where that ended with 0 and
values were not finite.
"""


class ModtraceError(Exception):
    """Base of every error modtrace raises on purpose; `exit_code` is the command's exit status."""

    exit_code = 1


class UsageError(ModtraceError):
    """A command line, a path or an argument that cannot be used; nothing has been started."""

    exit_code = 2


class PathTakenError(UsageError):
    """Something stands where a file or a trace is to be written; `path` is where, as it is shown."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} exists already; force=True replaces it")
        self.path = path


class NonFiniteError(FloatingPointError):
    """Raised in the program where a value is not finite, with `--nan-stop`: at the module that made it."""


class TraceError(ModtraceError):
    """A trace that cannot be read: missing, foreign, cut beyond use, damaged or hostile."""

    exit_code = 4


class RegressionError(ModtraceError):
    """A limit is exceeded. The message is the table of limits and what was measured."""

    exit_code = 1


class CannotTellError(ModtraceError):
    """A limit of which it cannot be told whether it holds: too few runs, too much noise, or not recorded."""

    exit_code = 5


class RunFailedError(ModtraceError):
    """A command that was run to be compared has failed."""

    exit_code = 6


class WriteError(ModtraceError):
    """A file cannot be written any further (disk full, folder gone, limit reached); `cause` is that in few words."""

    exit_code = 3

    def __init__(self, message: str, cause: str | None = None) -> None:
        super().__init__(message)
        self.cause = message if cause is None else cause


class SizeLimitError(WriteError):
    """Single calls have reached the size that a trace may have; what is written beyond that goes on."""
