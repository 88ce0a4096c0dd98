"""Errors a person can act on: each message says what was wrong, where, and what to do."""


class ModtraceError(Exception):
    """Base of every error modtrace raises on purpose; `exit_code` is the command's exit status."""

    exit_code = 1


class UsageError(ModtraceError):
    """A command line, a path or an argument that cannot be used; nothing has been started."""

    exit_code = 2


class TraceError(ModtraceError):
    """A trace that cannot be read: missing, foreign, cut beyond use, damaged or hostile."""

    exit_code = 4


class WriteError(ModtraceError):
    """The trace cannot be written any further (disk full, folder gone, limit reached); `cause` is that in few words."""

    def __init__(self, message: str, cause: str | None = None) -> None:
        super().__init__(message)
        self.cause = message if cause is None else cause
