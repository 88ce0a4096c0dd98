"""A recording that ended before the program did: every view says until when and why, and none takes what is missing for
what did not happen.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import modtrace
from modtrace.analysis.findings import findings
from modtrace.analysis.flat_profile import flat_profile
from modtrace.analysis.summary import summarise
from modtrace.capture.engine import block_writer as blocks
from modtrace.capture.engine import tracer
from modtrace.trace.reader import open_trace
from modtrace.units import duration
from tests.views.every_view import heads

HEAD = re.compile(r"recorded until (\d[\d.]* \w+) \(([^)]*)\)")


class Late(torch.nn.Module):
    """A part that runs after the recording has ended only."""

    def __init__(self):
        super().__init__()
        self.early, self.late = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def forward(self, x, late=False):
        return self.late(self.early(x)) if late else self.early(x)


def failing_write(number):
    """`os.write` as on a disk that fills, or at a limit, once there is anything large to be written."""
    real = os.write

    def write(descriptor, data):
        if len(data) > 100:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data)

    return write


CAUSES = {
    "limit": "limit of 9 KB",
    "full disk": "the disk is full",
    "quota": "the disk is full",
    "file size": "File too large",
    "fault": "a fault of modtrace: ZeroDivisionError",
    "removed": "the trace was removed",
}


def cut_short(path, cause):
    """Record 5 steps, end the recording, run the late part and wait a little; when it ended, by a clock of our own."""
    model = Late()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    limit = 9_000 if cause == "limit" else None

    def step(late):
        model(torch.randn(2, 3), late).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    with warnings.catch_warnings(record=True) as told, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        began = time.perf_counter_ns()
        with modtrace.trace(path=path, max_bytes=limit) as t:
            for _ in range(5):
                step(late=False)
            t._tracer.flush()
            if cause in ("full disk", "quota", "file size"):
                number = {"full disk": errno.ENOSPC, "quota": errno.EDQUOT, "file size": errno.EFBIG}[cause]
                patch.setattr(os, "write", failing_write(number))
            elif cause == "fault":
                patch.setattr(blocks, "decode", lambda *_, **__: 1 / 0)
            elif cause == "removed":
                os.truncate(path / "rank-0" / "open.arrows", 0)
                os.truncate(path / "rank-0" / "calls.arrows", 8)
            while not t._tracer._context.off:
                step(late=False)
                t._tracer.flush()
                assert time.perf_counter_ns() - began < 60e9
            ended = time.perf_counter_ns() - began
            patch.undo()
            step(late=True)
            time.sleep(0.2)
    assert sum("modtrace" in str(one.message) for one in told) == 1
    return ended


@pytest.fixture(
    scope="module", params=[*CAUSES, *(f"{cause}, then killed" for cause in ("limit", "full disk"))]
)
def cut(request, tmp_path_factory):
    cause, _, killed = request.param.partition(", ")
    path = tmp_path_factory.mktemp("cut") / "t.mtrace"
    ended_ns = cut_short(path, cause)
    if killed:
        (path / "rank-0" / "end.json").unlink()
    return path, CAUSES[cause], ended_ns


def test_every_view_says_until_when_and_why(cut):
    path, cause, ended_ns = cut
    stop = open_trace(path).processes[0].stop
    assert 0 <= stop.recorded_ns <= stop.stopped_ns <= ended_ns
    until = duration(stop.recorded_ns)
    for view, text in heads(path).items():
        match = HEAD.search(text)
        assert match is not None, (view, text[:400])
        assert match.groups() == (until, cause), view
    for view in ("info --json", "json", "parquet"):
        assert stop.reason in heads(path)[view], "the whole reason, where there is room"


def test_no_time_after_the_end_of_the_recording_counts(cut):
    path, _, ended_ns = cut
    found = summarise(open_trace(path))
    assert found.wall_ns <= ended_ns
    profile = flat_profile(open_trace(path), whole_run=True)
    parts = (
        profile.tracer_ns + profile.unknown_ns + profile.before_ns + profile.outside_ns - profile.parallel_ns
    )
    assert sum(row.spent_ns for row in profile.rows) + parts == found.wall_ns
    assert found.outside_ns <= ended_ns
    data = json.loads(heads(path)["info --json"])
    assert data["processes"][0]["wall_ns"] == found.wall_ns
    starts = modtrace.load(path).calls["start_ns"]
    assert (starts <= open_trace(path).processes[0].stop.recorded_ns).all(), "nothing later is half there"


def test_nothing_is_concluded_from_what_is_missing(cut):
    path, _, _ = cut
    stored = open_trace(path)
    assert not {"never_ran", "no_gradient", "eval_with_grad"} & {one.rule for one in findings(stored)}
    assert "never ran" not in heads(path)["info"]


def test_of_a_whole_recording_it_is(tmp_path):
    """The same program, recorded to its end, has the findings that the others must not have."""
    model = Late()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with modtrace.trace(path=tmp_path / "t.mtrace"):
        for _ in range(5):
            model(torch.randn(2, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    stored = open_trace(tmp_path / "t.mtrace")
    assert "never_ran" in {one.rule for one in findings(stored)}
    for view, text in heads(tmp_path / "t.mtrace").items():
        assert "recorded until" not in text, view
    left = {"stopped.json", ".stopped.json.room", ".end.json.room"} & set(
        os.listdir(tmp_path / "t.mtrace" / "rank-0")
    )
    assert not left


def test_the_room_is_enough_where_nothing_else_can_be_written(tmp_path, monkeypatch):
    """On a disk that is full to the last byte no file can be made; the two that room was kept for can be written."""
    real = os.open

    def full(path, flags, *rest, **words):
        if flags & os.O_CREAT and tmp_path in Path(os.fspath(path)).parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, *rest, **words)

    t = modtrace.trace(path=tmp_path / "t.mtrace")
    with pytest.warns(RuntimeWarning, match="No space left"), t:
        torch.nn.ReLU()(torch.ones(2))
        t._tracer.flush()
        monkeypatch.setattr(os, "open", full)
        monkeypatch.setattr(os, "write", failing_write(errno.ENOSPC))
        monkeypatch.setattr(tracer, "_cost_of", lambda _: 10**18)  # as long as such a file gets
        torch.nn.ReLU()(torch.ones(2))
        t._tracer.flush()
    monkeypatch.undo()
    process = open_trace(tmp_path / "t.mtrace").processes[0]
    assert process.stop.cause == "the disk is full"
    assert process.end is not None
    assert len(modtrace.load(tmp_path / "t.mtrace").calls) == 1


RUN = (sys.executable, "-m", "modtrace", "run", "-o")
STEPS = """
import sys, os, signal, time, torch
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
unused = torch.nn.Sequential(model, torch.nn.Linear(4, 4))
number = 0
folder = sys.argv[1]
def stopped():
    return any("stopped.json" == name for _, _, names in os.walk(folder) for name in names)
while not stopped():
    for _ in range(200):
        model(torch.ones(2 + number % 50, 3))
    number += 1
    assert number < 20_000
print("stopped", flush=True)
if "kill" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize("limit", ["--max-size", "ulimit -f", "full disk"])
def test_whole_runs(tmp_path, limit, kill):
    """With real limits: the record is on disk at once, so that a SIGKILL afterwards loses nothing of it."""
    (tmp_path / "train.py").write_text(STEPS)
    small = tmp_path / "small"
    small.mkdir()
    if limit == "full disk":
        mount = shutil.which("mount")
        words = [mount, "-t", "tmpfs", "-o", "size=700k", "none", str(small)]
        if mount is None or subprocess.run(words, check=False, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
    try:
        before = ["--max-size", "60KB", "--keep", "all"] if limit == "--max-size" else []
        run = [*RUN, "small/t.mtrace", *before, "train.py", "small/t.mtrace", *(["kill"] if kill else [])]
        shell = "ulimit -f 48; " if limit == "ulimit -f" else ""
        done = subprocess.run(
            ["bash", "-c", f'{shell}exec "$@"', "bash", *run],
            cwd=tmp_path,
            capture_output=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == (-9 if kill else 0), done.stderr
        assert done.stdout == b"stopped\n"
        cause = {
            "--max-size": "limit of 60 KB",
            "ulimit -f": "File too large",
            "full disk": "the disk is full",
        }[limit]
        process = open_trace(small / "t.mtrace").processes[0]
        assert (process.end is None) == kill
        assert process.stop.cause == cause
        for view, text in heads(small / "t.mtrace").items():
            assert f"({cause})" in text, view
        if not kill:
            assert f"recorded until {duration(process.stop.recorded_ns)} ({cause})" in done.stderr.decode()
            assert "never ran" not in done.stderr.decode()
    finally:
        if limit == "full disk":
            subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    "how", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "os.execv('/bin/true', ['true'])"]
)
@pytest.mark.parametrize("torch_first", [False, True])
def test_ended_before_anything_was_written(tmp_path, how, torch_first):
    """Nothing is known of such a run: not that no module was called."""
    first = "import torch; torch.nn.ReLU; " if torch_first else ""
    (tmp_path / "train.py").write_text(f"import os, signal\n{first}\n{how}\n")
    subprocess.run([*RUN, "t.mtrace", "train.py"], cwd=tmp_path, capture_output=True, check=False)
    stored = open_trace(tmp_path / "t.mtrace")
    assert stored.processes[0].end is None
    views = heads(tmp_path / "t.mtrace")
    for view in (
        "info",
        "info --tree",
        "info --steps",
        "info --json",
        "report",
        "notebook",
        "json",
        "parquet",
        "chrome",
    ):
        assert "ended before anything was written" in views[view].lower(), view
    for view, text in views.items():
        assert "no module was called" not in text, view
        assert "never ran" not in text, view


def test_while_it_runs_it_did_not_end(tmp_path):
    with modtrace.trace(path=tmp_path / "t.mtrace") as t:
        assert "nothing has been written yet" in t.summary()
        torch.nn.ReLU()(torch.ones(2))
        assert "still running" in t.summary()
        assert "did not" not in t.summary()
    assert "still running" not in t.summary()
