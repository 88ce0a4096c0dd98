"""Processes of one job write one trace, each its own folder; another job never gets into it, and no rank is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import modtrace

SCRIPT = "print('ran')"
"""Ranks find each other before the script starts, so it needs no torch."""
RUN = (sys.executable, "-m", "modtrace", "run", "-q")
LAUNCHER_NAMES = (
    "RANK",
    "WORLD_SIZE",
    "SLURM_",
    "OMPI_",
    "PMI_",
    "PMIX_",
    "TORCHELASTIC_",
    "LOCAL_",
    "MASTER_",
)


@pytest.fixture
def script(tmp_path):
    (tmp_path / "tiny.py").write_text(SCRIPT)
    return tmp_path


def begin(directory, env, *words):
    """A process that is told its rank by `env`, not waited for."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_NAMES)}
    return subprocess.Popen(
        [*RUN, *words, "tiny.py"], cwd=directory, env={**clean, **env, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ends(processes):
    """What each process printed to stderr; every one of them has run its script."""
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    assert all(out.startswith("ran") for out, _ in outputs)
    return [err for _, err in outputs]


def ranks_of(path):
    """The ranks that wrote to a trace, each once."""
    return sorted(int(folder.name.removeprefix("rank-")) for folder in path.iterdir() if folder.is_dir())


def slurm(machines):
    return lambda rank: {
        "SLURM_PROCID": rank, "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_NODES": machines,
    }  # fmt: skip


LAUNCHERS = {
    "slurm": slurm("1"),
    "slurm on two machines": slurm("2"),
    "slurm by hand": lambda rank: {"SLURM_PROCID": rank, "SLURM_NTASKS": "2"},
    "open mpi": lambda rank: {
        "OMPI_COMM_WORLD_RANK": rank, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "PMIX_NAMESPACE": "prterun-a-12@1",
    },
    "mpich": lambda rank: {"PMI_RANK": rank, "PMI_SIZE": "2"},
    "by hand": lambda rank: {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234"},
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_share_a_path_and_a_second_job_takes_another(script, launcher):
    for name in ("x.mtrace", "x-2.mtrace"):
        told = ends([begin(script, LAUNCHERS[launcher](str(rank)), "-o", "x.mtrace") for rank in range(2)])
        assert ranks_of(script / name) == [0, 1]
        assert all(("exists already" in text) == (name == "x-2.mtrace") for text in told)
    assert sorted(path.name for path in script.glob("*.mtrace")) == ["x-2.mtrace", "x.mtrace"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_share_a_trace_without_a_path(script, launcher):
    ends([begin(script, LAUNCHERS[launcher](str(rank))) for rank in (1, 0)])
    (path,) = script.glob("*.mtrace")
    assert ranks_of(path) == [0, 1]


def test_a_task_alone_is_no_job(script):
    env = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"}
    ends([begin(script, env, "-o", "x.mtrace")])
    again = begin(script, env, "-o", "x.mtrace")
    out, err = again.communicate(timeout=60)
    assert (again.returncode, out) == (2, "")
    assert "exists already" in err


def test_force_replaces_an_earlier_trace_once(script):
    ends([begin(script, {}, "-o", "x.mtrace")])
    ends([begin(script, LAUNCHERS["mpich"](str(rank)), "-f", "-o", "x.mtrace") for rank in range(2)])
    assert [path.name for path in script.glob("*.mtrace")] == ["x.mtrace"]
    assert ranks_of(script / "x.mtrace") == [0, 1]


def test_a_rank_that_cannot_write_runs_all_the_same(script):
    (told,) = ends([begin(script, LAUNCHERS["mpich"]("1"), "-o", "no/such/x.mtrace")])
    aside = Path(told.split("writes to ")[1].splitlines()[0])
    assert ranks_of(aside) == [1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nodes(directory, port, *words):
    """Two agents of torchrun, as on two machines, with one rank each."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--master-addr", "127.0.0.1",
        "--master-port", str(port), "--nproc-per-node", "1",
    ]  # fmt: skip
    started = [
        subprocess.Popen(
            [*command, "--node-rank", str(rank), "-m", "modtrace", "run", "-q", *words, "tiny.py"],
            cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    return ends(started)


def test_nodes_share_a_path_and_a_second_run_takes_another(script):
    port = free_port()
    for name in ("mn.mtrace", "mn-2.mtrace"):
        nodes(script, port, "-o", "mn.mtrace")
        assert ranks_of(script / name) == [0, 1]


def test_nodes_share_a_trace_without_a_path(script):
    nodes(script, free_port())
    (path,) = script.glob("*.mtrace")
    assert ranks_of(path) == [0, 1]


RESTARTED = """
import os, torch
torch.nn.Linear(3, 4)(torch.ones(2, 3))
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("words", [(), ("-o", "x.mtrace")])
def test_a_restart_goes_on_in_the_same_trace(tmp_path, words):
    (tmp_path / "train.py").write_text(RESTARTED)
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1",
            "--max-restarts", "1", "-m", "modtrace", "run", "-q", *words, "train.py",
        ],
        cwd=tmp_path, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (path,) = tmp_path.glob("*.mtrace")
    assert sorted(entry.name for entry in path.iterdir() if entry.is_dir()) == ["rank-0", "rank-0.1"]


WRAPPER = """#!/bin/sh
exec_it() { "$@"; }
exec_it {python} -m modtrace run -q tiny.py
"""


def test_a_shell_between_launcher_and_rank(script):
    wrapper = script / "wrapper.sh"
    wrapper.write_text(WRAPPER.replace("{python}", sys.executable))
    wrapper.chmod(0o700)
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python",
            str(wrapper),
        ],
        cwd=script, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (path,) = script.glob("*.mtrace")
    assert ranks_of(path) == [0, 1]


IN_CODE = """
import torch, modtrace
with modtrace.trace(path="x.mtrace"):
    torch.nn.Linear(3, 4)(torch.ones(2, 3))
"""


def test_traces_in_the_code_of_each_rank(tmp_path):
    (tmp_path / "train.py").write_text(IN_CODE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launcher, "train.py"], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert modtrace.load(tmp_path / "x.mtrace").calls["rank"].tolist() == [0, 1]
