"""Errors a person can act on: each message says what was wrong, where, and what to do.

Exit status of the command `modtrace`, one for each kind of error:

| status | what happened |
|---|---|
| 0 | done |
| 1 | whoever read the output has gone (a closed pipe) |
| 2 | `UsageError`: a command, option, value or path that cannot be used; nothing has been started or changed |
| 3 | `WriteError`: a file that could not be written to its end |
| 4 | `TraceError`: a trace that is missing, foreign, damaged, unreadable or too large |
| 130 | ctrl-C: the process ends by SIGINT, which a shell shows so |

`modtrace run` ends as the script does, once it has started.
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


class WriteError(ModtraceError):
    """A file cannot be written any further (disk full, folder gone, limit reached); `cause` is that in few words."""

    exit_code = 3

    def __init__(self, message: str, cause: str | None = None) -> None:
        super().__init__(message)
        self.cause = message if cause is None else cause
