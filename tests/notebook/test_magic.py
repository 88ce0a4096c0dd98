"""`%%modtrace` in an IPython shell: what it records, and that nothing goes on recording whatever the cell does."""

from __future__ import annotations

import atexit
import signal
import threading

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch.nn.modules import module as torch_module

import modtrace
from modtrace.capture.tracer import Tracer, running
from modtrace.magic import record

HOOKS = ("_global_forward_pre_hooks", "_global_forward_hooks", "_global_backward_hooks")


def hooks():
    return {name: list(getattr(torch_module, name)) for name in HOOKS}


@pytest.fixture
def shell(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    before = hooks()
    one = InteractiveShell(ipython_dir=str(tmp_path))
    one.run_line_magic("load_ext", "modtrace")
    one.run_cell(
        "import torch, modtrace\nmodel = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())"
    )
    yield one
    assert not running()
    assert hooks() == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    one.atexit_operations()
    atexit.unregister(one.atexit_operations)


def names(trace):
    return trace.calls["type"].tolist()


FORWARD = "model(torch.ones(2, 3))\n"
THREE = ["Sequential", "Linear", "ReLU"]


def test_a_cell_is_recorded_and_shows_its_value(shell, capsys):
    done = shell.run_cell(f"%%modtrace\nx = 2\n{FORWARD}x + 40")
    assert done.success
    assert names(shell.user_ns["t"]) == THREE
    assert shell.user_ns["x"] == 2
    printed = capsys.readouterr().out
    assert ": 42" in printed
    assert shell.user_ns["t"].summary().splitlines()[0] in printed


def test_a_cell_can_be_run_again(shell):
    for _ in range(2):
        assert shell.run_cell(f"%%modtrace\n{FORWARD}{FORWARD}").success
        assert names(shell.user_ns["t"]) == THREE * 2


def test_calls_of_one_model_under_another_name(shell):
    cell = "%%modtrace -o kept model[0]\nmodel[0](torch.ones(2, 3)); model[1](torch.ones(2, 3))"
    assert shell.run_cell(cell).success
    assert names(shell.user_ns["kept"]) == ["Linear"]
    assert "t" not in shell.user_ns


@pytest.mark.parametrize("line", ["3", "None", "-x model", "-o 3", "nobody"])
def test_a_line_that_means_nothing(shell, line):
    done = shell.run_cell(f"%%modtrace {line}\nran = True")
    assert isinstance(done.error_in_exec, (modtrace.UsageError, NameError))
    assert "ran" not in shell.user_ns


def test_syntax_errors_are_those_of_the_cell(shell):
    assert isinstance(shell.run_cell("%%modtrace\nfor").error_in_exec, SyntaxError)


def test_await_at_the_top_is_refused_before_anything_runs(shell):
    done = shell.run_cell("%%modtrace\nran = True\nimport asyncio\nawait asyncio.sleep(0)")
    assert isinstance(done.error_in_exec, SyntaxError)
    assert "ran" not in shell.user_ns


@pytest.mark.parametrize("error", ["ValueError('mine')", "KeyboardInterrupt()", "SystemExit(3)"])
def test_what_a_cell_raises_comes_through(shell, error):
    done = shell.run_cell(f"%%modtrace\n{FORWARD}raise {error}")
    assert type(done.error_in_exec).__name__ == error.partition("(")[0]
    assert names(shell.user_ns["t"]) == THREE
    assert shell.run_cell(f"%%modtrace\n{FORWARD}").success


def test_interrupt_inside_forward(shell):
    shell.run_cell(
        "import signal\nclass Stops(torch.nn.Module):\n"
        "    def forward(self, x):\n        signal.raise_signal(signal.SIGINT)\n        return x"
    )
    done = shell.run_cell("%%modtrace\ntorch.nn.Sequential(Stops())(torch.ones(1))")
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    assert shell.user_ns["t"].calls["status"].tolist() == ["aborted"] * 2


@pytest.mark.parametrize("place", ["start", "stop"])
def test_interrupt_while_recording_starts_or_stops(shell, monkeypatch, place):
    whole = getattr(Tracer, place)

    def interrupted(self):
        signal.raise_signal(signal.SIGINT)
        whole(self)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Tracer, place, interrupted)
    done = shell.run_cell(f"%%modtrace\n{FORWARD}")
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    assert names(shell.user_ns["t"]) == (THREE if place == "stop" else [])


def test_a_cell_inside_a_cell_is_refused(shell):
    done = shell.run_cell("%%modtrace\nget_ipython().run_cell_magic('modtrace', '', 'ran = True')\n")
    assert isinstance(done.error_in_exec, modtrace.UsageError)
    assert "recorded already" in str(done.error_in_exec)
    assert "ran" not in shell.user_ns
    assert shell.run_cell(f"%%modtrace\n{FORWARD}").success


def test_a_trace_inside_a_cell_is_one_of_its_own(shell):
    cell = f"%%modtrace\n{FORWARD}with modtrace.trace() as inner:\n    {FORWARD}"
    assert shell.run_cell(cell).success
    assert names(shell.user_ns["t"]) == THREE * 2
    assert names(shell.user_ns["inner"]) == THREE


def test_recording_off_the_main_thread():
    """Where signals cannot be held back."""
    recording, model, failed = modtrace.trace(), torch.nn.Linear(3, 4), []

    def run():
        try:
            record(recording, lambda: model(torch.ones(2, 3)))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed
    assert names(recording) == ["Linear"]
