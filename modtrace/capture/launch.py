"""Who this process is among those of one launch, and what its trace is called. Standard library only."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from modtrace.trace.schema import SUFFIX


@dataclass(frozen=True)
class Launch:
    """`key` is the same in all processes of one launch and None for a process alone; `began_unix` when it began."""

    rank: int
    key: str | None
    began_unix: float

    @property
    def folder(self) -> str:
        """The name of this process's folder in the trace."""
        return f"rank-{self.rank}"


def launch() -> Launch:
    """What the environment says (torchrun sets RANK and TORCHELASTIC_RUN_ID; the agent is the parent process)."""
    rank = os.environ.get("RANK", "")
    if not rank.isdigit():
        return Launch(0, None, time.time())
    world, local = os.environ.get("WORLD_SIZE", ""), os.environ.get("LOCAL_WORLD_SIZE", "")
    began = _started_unix(os.getppid())
    if began is not None and world == local:
        return Launch(int(rank), f"{os.getppid()}-{began:.2f}", began)
    parts = [os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
    return Launch(int(rank), "-".join(parts), began if began is not None else time.time())


def _started_unix(pid: int) -> float | None:
    """When a process started, in seconds since 1970; None where the system does not tell (not Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        booted = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
        ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    # From the fixed moment of the boot, so that every rank comes to the same second.
    return int(booted[1]) + ticks if booted is not None else None


def default_path(stem: str, launched: Launch) -> Path:
    """`./{stem}-{YYYYmmdd-HHMMSS}.mtrace` in the working directory; with `-2`, `-3` where that exists already."""
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(launched.began_unix))
    here = Path.cwd()
    path = here / f"{stem}-{moment}{SUFFIX}"
    again = 2
    while launched.key is None and os.path.lexists(path):
        path = here / f"{stem}-{moment}-{again}{SUFFIX}"
        again += 1
    return path
