"""The benchmark for a GPU: without one it says so, and as much of it as can runs on a processor."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import gpu  # noqa: E402
from gpu_checks import kernel_rows, runner, sources  # noqa: E402
from gpu_checks.check import FAIL, PASS, SKIP, Check, Place, Skip, Verdict, judge_faults, verdict  # noqa: E402
from gpu_checks.checklist import CHECKS  # noqa: E402


def go(*words):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    env = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(
        [bash, ROOT / "benchmarks" / "gpu.sh", *words],
        capture_output=True,
        text=True,
        env=env,
        check=False,
        cwd=ROOT.parent,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_and_status_2():
    done = go()
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "there is no GPU here" in done.stderr


def rows_of(text, columns):
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if len(row) == columns]


def test_all_but_the_checks_runs_on_a_processor():
    done = go("--cpu", "--rounds", "1", "--no-checks")
    assert done.returncode == 0, done.stdout + done.stderr
    titles = [line for line in done.stdout.splitlines() if line.startswith("## ")]
    assert titles == [
        "## Device time beside kernels",
        "## Peaks",
        "## Out of memory",
        "## Tests",
        "## Overhead",
        "## Missed",
    ]
    overhead = done.stdout.partition("## Overhead")[2]
    rows = [line.split(" | ") for line in overhead.splitlines() if line.startswith("| ")]
    watched = [row[1] for row in rows if len(row) == 7 and row[0] != "| run"]
    assert watched == ["untraced", "modtrace", "torch.profiler"] * 9
    assert done.stdout.count("eeds CUDA") == 1 + 4 + 2  # what is left out is named
    assert "nothing seen of a device" in done.stdout
    assert "OUT OF MEMORY   asked for 4096 TiB" in done.stdout
    assert done.stdout.endswith("## Missed\n\nNothing.\n")


@pytest.mark.timeout(900)  # some thirty processes, each of which imports torch
def test_all_checks_are_tried_on_a_processor():
    done = go("--cpu", "--only")
    assert done.returncode == 0, done.stdout + done.stderr
    found = rows_of(done.stdout, 6)[1:]
    assert [row[0] for row in found] == [*CHECKS]
    assert {row[4] for row in found} == {runner.FAKE}  # no word could be taken for that of a GPU
    assert "It says nothing of CUDA." in done.stdout
    assert PASS not in done.stdout
    assert done.stdout.endswith("## Missed\n\nNothing.\n")


# judges -----------------------------------------------------------------------------------------------------------


def test_the_whole_list_is_checked():
    assert {int(name.rstrip("abcdef")) for name in CHECKS} == set(range(1, 13))
    assert all(check.bad for check in CHECKS.values())


@pytest.mark.parametrize("name", CHECKS)
def test_judge_passes_good_figures_and_fails_bad_ones(name):
    assert judge_faults(CHECKS[name]) == []


def test_a_judge_that_cannot_fail_is_found():
    check = dataclasses.replace(CHECKS["5b"], judge=lambda measured: Verdict(PASS, ""))
    assert judge_faults(check) == [f"does not fail {values}" for values in check.bad]
    check = dataclasses.replace(CHECKS["5b"], judge=lambda measured: Verdict(FAIL, ""))
    assert len(judge_faults(check)) == 1


def test_without_captures_untraced_nothing_is_told_of_traced_ones():
    check = CHECKS["9a"]
    assert check.judge(check.good | {"untraced": 99, "traced": 50}).word == SKIP


def test_errors_of_memcheck_that_are_torchs_own_pass():
    check = CHECKS["11a"]
    assert check.judge(check.good | {"errors": {"run": 2, "python": 2}}).word == PASS


# processes --------------------------------------------------------------------------------------------------------


def made_up(**more):
    return Check(
        "1a",
        "made up",
        "at most 3",
        measure=lambda place: {"value": 2},
        judge=lambda measured: verdict(str(measured["value"]), good=measured["value"] <= 3),
        good={"value": 3},
        bad=({"value": 4},),
        **more,
    )


def run_code(tmp_path, code, limit_s=60.0):
    file = tmp_path / "measured.json"
    return runner.run_check(made_up(), [sys.executable, "-c", code, str(file)], file, limit_s)


def writes(text):
    return f"import sys; open(sys.argv[1], 'w').write({text!r})"


def test_what_is_measured_is_judged(tmp_path):
    assert run_code(tmp_path, writes('{"value": 3}')).verdict == Verdict(PASS, "3")
    assert run_code(tmp_path, writes('{"value": 4}')).verdict == Verdict(FAIL, "4")
    assert run_code(tmp_path, writes('{"skip": "one GPU"}')).verdict == Verdict(SKIP, "one GPU")


def test_a_check_measures_in_a_process_of_its_own(tmp_path):
    check, file = CHECKS["8a"], tmp_path / "measured.json"
    outcome = runner.run_check(check, runner.command_of(check, "cpu", file), file, 200.0)
    assert outcome.verdict == Verdict(PASS, "27 of 27 calls have a backward")


@pytest.mark.parametrize(("value", "status"), [(3, 0), (4, 1)])
def test_the_exit_status_is_that_of_the_checks(monkeypatch, capsys, value, status):
    def run_on_gpu(checks, gpus, deadline, at_once):
        for check in reversed(checks):  # as they end
            word = check.judge({"value": value if check.name == "2a" else 1})
            yield runner.Outcome(check, word, 2.0, ("its last line",) if word.word == FAIL else ())

    names = ("1a", "2a", "3")
    monkeypatch.setattr(runner, "run_on_gpu", run_on_gpu)
    monkeypatch.setattr(gpu, "head", lambda go: ["# modtrace on a GPU of the test's"])
    for name in names:
        monkeypatch.setitem(CHECKS, name, dataclasses.replace(made_up(), name=name))
    go = gpu.Go("cuda", 1, small=False, deadline=time.monotonic() + 600, only=names)
    assert gpu.run(go) == status
    text = capsys.readouterr().out
    assert [(row[0], row[4]) for row in rows_of(text, 6)[1:]] == [
        ("1a", PASS),
        ("2a", FAIL if status else PASS),
        ("3", PASS),
    ]
    assert ("its last line" in text) == bool(status)
    assert ("- check 2a: 4" in text.partition("## Missed")[2]) == bool(status)


def test_a_crash_fails_with_its_last_lines(tmp_path):
    outcome = run_code(tmp_path, "import os; print('before', flush=True); os.abort()")
    assert outcome.verdict == Verdict(FAIL, "exit status -6")
    assert "before" in outcome.last_lines
    outcome = run_code(tmp_path, "raise RuntimeError('CUDA error: an illegal memory access')")
    assert outcome.verdict.word == FAIL
    assert outcome.last_lines[-1] == "RuntimeError: CUDA error: an illegal memory access"


def test_figures_that_cannot_be_judged_fail(tmp_path):
    assert run_code(tmp_path, "pass").verdict == Verdict(FAIL, "wrote nothing")
    outcome = run_code(tmp_path, writes("{}"))
    assert outcome.verdict == Verdict(FAIL, "cannot be judged")
    assert outcome.last_lines[-1] == "KeyError: 'value'"


def test_what_runs_too_long_is_ended_with_all_that_it_started(tmp_path):
    command = ["sh", "-c", "sleep 600 & echo $! > pid; wait"]
    outcome = runner.run_check(made_up(), command, tmp_path / "measured.json", 2.0)
    assert outcome.verdict == Verdict(FAIL, "ran past its limit of 2 s")
    state = Path(f"/proc/{int((tmp_path / 'pid').read_text())}/stat")
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)  # until the kernel has ended it; a child that lives on ends the test by its timeout


def test_one_gpu_or_no_time_left_is_said():
    checks = [made_up(gpus=2), made_up()]
    words = [one.verdict for one in runner.run_on_gpu(checks, 1, time.monotonic(), 1)]
    assert words == [Verdict(SKIP, "needs 2 GPUs, there is 1"), Verdict(FAIL, "no time was left for it")]


def test_checks_go_on_after_one_that_crashed(monkeypatch):
    code = {True: writes('{"value": 1}'), False: "raise SystemExit(3)"}
    monkeypatch.setattr(
        runner,
        "command_of",
        lambda check, device, file: [sys.executable, "-c", code[check.alone], str(file)],
    )
    checks = [made_up(), made_up(alone=True), made_up(), made_up(alone=True)]
    found = [one.verdict.word for one in runner.run_on_gpu(checks, 1, time.monotonic() + 600, 2)]
    assert found == [PASS, PASS, FAIL, FAIL]  # those that measure times come first


def test_faults_of_checks_are_found_without_a_gpu():
    def fails(place):
        raise ValueError("a name that is not there")

    broken = dataclasses.replace(made_up(), measure=fails)
    other = dataclasses.replace(made_up(), measure=lambda place: {"values": 2})
    wrong = dataclasses.replace(made_up(on_cpu=True), measure=lambda place: {"value": 9})
    words = [one.verdict for one in runner.run_fake([made_up(), broken, other, wrong])]
    assert [word.word for word in words] == [runner.FAKE, FAIL, FAIL, FAIL]
    assert words[1].figures == "what measures fails on the processor"
    assert words[2].figures == "measures other values than are judged: ['value', 'values']"
    assert words[3].figures == "on the processor: 9"


def test_a_row_stays_one_row():
    check = dataclasses.replace(made_up(), title="a | b")
    outcome = runner.Outcome(check, Verdict(FAIL, "two\nlines"), 1.4)
    assert runner.row(outcome) == "| 1a | a \\| b | at most 3 | two lines | FAIL | 1 |"


# sources ----------------------------------------------------------------------------------------------------------


class Driver:
    """Two devices, a context on the second."""

    def __init__(self, status=0):
        self.status = status

    def cuDeviceGetCount(self, count):
        count._obj.value = 2
        return self.status

    def cuDevicePrimaryCtxGetState(self, index, flags, active):
        active._obj.value = index == 1
        return self.status


def test_contexts_are_those_of_the_driver(monkeypatch):
    monkeypatch.setattr(sources, "_driver", Driver)
    assert sources.devices_with_context() == [1]
    assert sources.driver_is_initialised() is True
    monkeypatch.setattr(sources, "_driver", lambda: Driver(sources.NOT_INITIALISED))
    assert sources.devices_with_context() == []
    assert sources.driver_is_initialised() is False
    monkeypatch.setattr(sources, "_driver", lambda: None)
    assert sources.devices_with_context() is None
    assert sources.driver_is_initialised() is None


def test_gpus_of_a_process_are_nvidia_smis(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '12, GPU-a'\necho '12, GPU-b'\necho '13, GPU-c'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert sources.gpus_of_process(12) == ["GPU-a", "GPU-b"]
    assert sources.gpus_of_process(14) is None


def profile_with_kernels():
    """What the profiler writes of two steps on a processor, with a kernel put to each matrix product."""
    place = Place("cpu")
    work = kernel_rows.Work(place, [4, 5, 6], 3)
    with sources.profiled("cpu", host=True) as seen:
        for _ in range(2):
            work.step(torch.profiler.record_function)
    for event in seen.of("cpu_op"):
        if event["name"] in ("aten::addmm", "aten::mm"):
            arguments = {"External id": event["args"]["External id"], "correlation": 1}
            # Long after its launch, as on a device that is busy.
            seen.events.append(
                {
                    "cat": "kernel",
                    "name": "gemm",
                    "ts": event["ts"] + 1e9,
                    "dur": 2.5,
                    "tid": 7,
                    "args": arguments,
                }
            )
    name = "Optimizer.step#SGD.step"
    seen.events.append(
        {"cat": "gpu_user_annotation", "name": name, "ts": 0.0, "dur": 1e6, "tid": 7, "args": {}}
    )
    return seen


def test_kernels_are_those_of_the_range_that_launched_them():
    seen = profile_with_kernels()
    # The first layer's input needs no gradient.
    assert dict(seen.by_range("layers.")) == {
        ("layers.0", False, "gemm"): 2,
        ("layers.1", False, "gemm"): 2,
        ("layers.0", True, "gemm"): 2,
        ("layers.1", True, "gemm"): 4,
    }


def test_rows_of_a_trace_by_layer_and_by_step():
    """On a processor the operators stand for kernels: their rows are told apart in the same way."""
    work = kernel_rows.Work(Place("cpu"), [4, 5, 6], 3)
    table = kernel_rows._by_modtrace(work, "3:7", 10)
    assert len(kernel_rows.on_device(table)) == 0
    found = kernel_rows.of_layers(table)
    assert found["layers.0", False, "atenaddmm"] == found["layers.1", False, "atenaddmm"] == 4
    assert (found["layers.0", True, "atenmm"], found["layers.1", True, "atenmm"]) == (4, 8)
    steps = kernel_rows.of_steps(table, range(3, 8))
    assert steps["3"] > 0
    assert steps == dict.fromkeys("3456", steps["3"]) | {"7": 0}


SANITIZER = """#!/bin/sh
shift 2
case "$*" in *modtrace*) errors=$TRACED;; *) errors=$PLAIN;; esac
[ -n "$errors" ] && echo "========= ERROR SUMMARY: $errors errors"
exec "$@"
"""


@pytest.mark.parametrize(("traced", "plain", "word"), [("0", "", PASS), ("3", "3", PASS), ("3", "0", FAIL)])
def test_memcheck_is_asked_untraced_too_where_it_found_something(monkeypatch, tmp_path, traced, plain, word):
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER)
    program.chmod(0o755)
    monkeypatch.setattr("gpu_checks.faults._sanitizer", lambda: str(program))
    monkeypatch.setenv("TRACED", traced)
    monkeypatch.setenv("PLAIN", plain)
    check = CHECKS["11a"]
    measured = check.measure(Place("cpu"))
    assert measured["errors"] == {"run": int(traced)} | ({"python": int(plain)} if plain else {})
    assert check.judge(measured).word == word


def test_a_sanitizer_that_does_not_run_is_left_out(monkeypatch, tmp_path):
    program = tmp_path / "compute-sanitizer"
    program.write_text("#!/bin/sh\necho no device; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("gpu_checks.faults._sanitizer", lambda: str(program))
    with pytest.raises(Skip, match="no device"):
        CHECKS["11a"].measure(Place("cpu"))


def test_ranges_on_a_device_are_no_kernels():
    seen = profile_with_kernels()
    assert seen.device_us == 10 * 2.5
