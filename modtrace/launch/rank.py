"""Rank of this process in its launch, and the name of its trace. Standard library only.

A launcher (torchrun, srun, mpirun, a script that starts its own ranks) tells each process its rank in the environment.
The processes share no more than that and a file system, so they agree on one trace by what they all can see: the name
of the job, and when their launcher started.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modtrace.systems.other_processes import parent_of, started_unix, was_started_with
from modtrace.trace.schema import SUFFIX
from modtrace.trace.shared_folder import Membership


@dataclass(frozen=True)
class Launcher:
    """Ways in which a launcher tells a process its rank: names of environment variables.

    rank, size: of the process, of the job.
    local: how many processes there are on this machine, or on how many machines the job runs.
    job: what names the job.
    """

    rank: str
    size: str
    local: str
    job: tuple[str, ...]


LAUNCHERS: Final = (
    Launcher("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")),
    Launcher(
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    ),
    Launcher("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS", ("PMI_JOBID",)),
    Launcher("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_NODES", ("SLURM_JOB_ID", "SLURM_STEP_ID")),
)
"""In the order in which they are asked: what is started by another comes first."""


@dataclass(frozen=True)
class Launch:
    """A process among those of one launch.

    rank: its number, 0 for a process alone.
    key: the same in all processes of a launch; None for a process alone.
    began_unix: when the launch, or a process alone, began, in seconds since 1970.
    named_alike: every process of the launch comes to the same key and `began_unix`, and no other launch does.
    since_unix: no trace that was made before is of this launch.
    restarted: the launcher has started this rank before.
    """

    rank: int
    key: str | None
    began_unix: float
    named_alike: bool = True
    since_unix: float = 0.0
    restarted: bool = False

    @property
    def folder(self) -> str:
        """The name of this process's folder in the trace."""
        return f"rank-{self.rank}"

    @property
    def membership(self) -> Membership | None:
        """Facts that the process needs to find the trace of its launch; None for a process alone."""
        if self.key is None:
            return None
        return Membership(
            key=self.key,
            process=self.folder,
            names_it=self.rank == 0,
            exact=self.named_alike,
            since_unix=self.since_unix,
            restarted=self.restarted,
        )


def launch() -> Launch:
    """The launch that the environment tells of."""
    now = time.time()
    for launcher in LAUNCHERS:
        rank, size = _number(launcher.rank), _number(launcher.size)
        if rank is not None and (launcher.rank == "RANK" or (size or 0) > 1):
            return _launch_by(launcher, rank, now)
    return Launch(0, None, now)


def _launch_by(launcher: Launcher, rank: int, now: float) -> Launch:
    job = [os.environ.get(name, "") for name in launcher.job]
    pid, began = _ancestor_without(launcher.rank)
    restarted = bool(_number("TORCHELASTIC_RESTART_COUNT"))
    if began is None:
        # The system does not tell when the launcher started: ranks of one launch start within a minute.
        return Launch(rank, "-".join(("job", *job)), now, False, now - 60, restarted)
    if any(job[:1]) and _on_one_machine(launcher):
        return Launch(rank, f"{pid}-{began:.2f}", began, True, began, restarted)
    return Launch(rank, "-".join(("job", *job)), now, False, began, restarted)


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _on_one_machine(launcher: Launcher) -> bool:
    if launcher.local == "SLURM_STEP_NUM_NODES":
        return _number(launcher.local) == 1
    return _number(launcher.size) is not None and _number(launcher.size) == _number(launcher.local)


def _ancestor_without(variable: str) -> tuple[int, float | None]:
    """The nearest ancestor that was started without a variable of the environment, and when, in seconds since 1970.

    That is the launcher; between it and this process a shell or a wrapper may stand, which has the variable too.
    """
    pid = os.getppid()
    while pid > 1 and was_started_with(pid, variable):
        above = parent_of(pid)
        if above is None:
            break
        pid = above
    return pid, started_unix(pid)


def default_path(stem: str, launched: Launch) -> Path:
    """`./{stem}-{YYYYmmdd-HHMMSS}.mtrace` in the working directory; with `-2`, `-3` where that exists already."""
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(launched.began_unix))
    directory = Path.cwd()
    path = directory / f"{stem}-{moment}{SUFFIX}"
    again = 2
    while launched.key is None and os.path.lexists(path):
        path = directory / f"{stem}-{moment}-{again}{SUFFIX}"
        again += 1
    return path
