"""`%%modtrace` in an IPython shell: what it records, and that nothing goes on recording whatever the cell does."""

from __future__ import annotations

import atexit
import re
import signal
import threading

import pytest
import torch
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from torch.nn.modules import module as torch_module

import modtrace
from modtrace import magic
from modtrace.capture.engine.tracer import Tracer, running
from modtrace.capture.recorders import options
from modtrace.cli import run
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


def test_syntax_errors_are_those_of_the_cell(shell, capsys):
    done = shell.run_cell("%%modtrace\nran = True\nfor")
    assert isinstance(done.error_before_exec, SyntaxError)
    assert done.error_before_exec.lineno == 3
    assert not {"ran", "t"} & set(shell.user_ns)
    assert "modtrace  trace" not in capsys.readouterr().out


AWAITS = """%%modtrace
import asyncio
async def forward():
    await asyncio.sleep(0)
    return model(torch.ones(2, 3)).sum()
await forward()
(await forward()).shape"""


@pytest.mark.parametrize("end", ["", ";"])
def test_await_at_the_top(shell, capsys, end):
    done = shell.run_cell(AWAITS + end, store_history=True)
    assert done.success
    assert names(shell.user_ns["t"]) == THREE * 2
    assert ("torch.Size([])" in capsys.readouterr().out) == (not end)


@pytest.mark.parametrize("end", ["x + 'def'", "x + 'def';", "x + 'def' ;  # hidden", "y = x + 'def'"])
def test_the_last_value_is_shown_unless_hidden(shell, capsys, end):
    assert shell.run_cell(f"%%modtrace\nx = 'abc'\n{FORWARD}{end}", store_history=True).success
    printed = capsys.readouterr().out
    assert ("abcdef" in printed) == (end == "x + 'def'")
    assert "modtrace  trace" in printed
    assert names(shell.user_ns["t"]) == THREE


@pytest.mark.parametrize("above", ["%%capture shown", "%%time"])
def test_below_another_magic(shell, capsys, above):
    assert shell.run_cell(f"{above}\n%%modtrace\n{FORWARD}", store_history=True).success
    assert names(shell.user_ns["t"]) == THREE
    shown = shell.user_ns["shown"].stdout if "capture" in above else capsys.readouterr().out
    assert "modtrace  trace" in shown


def test_above_another_magic(shell, capsys):
    assert shell.run_cell(f"%%modtrace\n\n%%time\n{FORWARD}'abc' + 'def'", store_history=True).success
    assert names(shell.user_ns["t"]) == THREE
    printed = capsys.readouterr().out
    assert "Wall time" in printed
    assert "modtrace  trace" in printed


FAILS = """def fails():
    return model(torch.ones(2, 5))

fails()"""


def frames_of(error):
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
        traceback = traceback.tb_next


def printed_without_colors(capsys):
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


def test_a_traceback_is_that_of_any_cell(shell, capsys):
    shell.run_cell("1", store_history=True)
    plain = shell.run_cell(f"# as below\n{FAILS}", store_history=True)
    expected = printed_without_colors(capsys)
    done = shell.run_cell(f"%%modtrace\n{FAILS}", store_history=True)
    printed, _, summary = printed_without_colors(capsys).partition("modtrace  trace")
    assert not [file for file, _ in frames_of(done.error_in_exec) if "/modtrace/" in file]
    lines = [line for file, line in frames_of(done.error_in_exec) if "ipython-input" in file]
    assert (
        lines == [line for file, line in frames_of(plain.error_in_exec) if "ipython-input" in file] == [5, 3]
    )
    heads = [
        re.sub(r"(ipython-input-\d+)-\w+", r"\1", line)
        for line in printed.splitlines()
        if line.startswith("File <ipython")
    ]
    assert heads == ["File <ipython-input-3>:5", "File <ipython-input-3>:3, in fails()"]
    assert plain.execution_count == 2
    assert "hidden" not in printed
    assert "File <ipython-input-2" in expected
    assert summary


def test_a_failed_cell_leaves_where_and_why(shell, capsys):
    shell.run_cell(f"%%modtrace\n{FAILS}")
    t = shell.user_ns["t"]
    assert [(place.name, place.type, place.tensors) for place in t.failure.path] == [
        ("", "Sequential", "f32[2,5]"), ("0", "Linear", "f32[2,5]")
    ]  # fmt: skip
    assert "5" in t.failure.reason
    assert t.run.state == "ended by RuntimeError"
    assert "f32[2,5]" in capsys.readouterr().out.partition("modtrace  trace")[2]


OPTIONS = {
    "--memory 0:2": {"memory": "0:2"}, "--kernels=auto": {"kernels": "auto"}, "--saved 1": {"saved": "1"},
    "--functions": {"functions": True}, "--no-flops": {"flops": False}, "--syncs": {"syncs": True},
    "--engine calls": {"engine": "calls"}, "--no-messages": {"messages": False},
    "--max-size 5MB": {"max_bytes": "5MB"}, "--max-size=5MB -q": {"max_bytes": "5MB"},
    "--output run.mtrace": {"path": "run.mtrace"}, "-f --output=run.mtrace": {"path": "run.mtrace", "force": True},
    "--no-flops --memory 0:2 --functions": {"memory": "0:2", "flops": False, "functions": True},
}  # fmt: skip


@pytest.mark.parametrize("words", OPTIONS)
def test_options_are_those_of_run(shell, monkeypatch, words, tmp_path):
    asked = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        magic, "trace", lambda model, **given: asked.update(given) or modtrace.trace(model, **given)
    )
    assert shell.run_cell(f"%%modtrace {words} -o kept model\n{FORWARD}").success
    assert {name: asked[name] for name in OPTIONS[words]} == OPTIONS[words]
    defaults = {option.argument: option.default for _, option in options()} | {
        "engine": "hooks",
        "messages": True,
        "force": False,
    }
    others = set(asked) - set(OPTIONS[words])
    assert {name: asked[name] for name in others} == {name: defaults[name] for name in others}
    assert len(names(shell.user_ns["kept"])) >= 3


def test_every_option_of_run_is_there_but_those_of_a_terminal():
    text = magic.parsed("--help").help
    flags = [name for option in run.OPTIONS for name in option.names]
    of_processes = {"--open", "--live", "--pdb", "--break-rank", "--fail-on"}
    assert {flag for flag in flags if not re.search(rf"(?m)^ .*{flag}\b", text)} == of_processes


def test_a_recording_ends_at_its_size(shell, capsys):
    cell = f"%%modtrace --max-size 20KB\nfor _ in range(600):\n    {FORWARD}"
    assert shell.run_cell(cell).success
    assert len(shell.user_ns["t"].calls) < 1800
    assert "limit" in " ".join(shell.user_ns["t"].gaps["reason"])
    assert "recorded until" in capsys.readouterr().out
    done = shell.run_cell("%%modtrace --max-size many\nran = True")
    assert str(done.error_in_exec) == "'many' is no size; write it like 512MB or 4GB"
    assert "ran" not in shell.user_ns


def test_a_trace_and_a_report_are_left_on_disk(shell, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cell = f"%%modtrace -o kept --output run.mtrace --html model\n{FORWARD}"
    assert shell.run_cell(cell).success
    assert names(modtrace.load("run.mtrace")) == THREE
    assert "wrote kept.html" in capsys.readouterr().out
    assert (tmp_path / "kept.html").read_bytes().startswith(b"<!DOCTYPE html>")
    for taken in ("--output run.mtrace", "--html=kept.html"):
        done = shell.run_cell(f"%%modtrace {taken}\nran = True")
        assert str(done.error_in_exec) == f"{taken.split()[-1].split('=')[-1]} exists already; -f replaces it"
        assert "ran" not in shell.user_ns
    assert shell.run_cell(cell.replace("-o", "-f -o", 1) + FORWARD).success
    assert names(modtrace.load("run.mtrace")) == THREE * 2


def test_a_report_that_cannot_be_written_hides_nothing(shell, capsys):
    done = shell.run_cell("%%modtrace --html=nosuch/a.html\nraise ValueError('of the cell')")
    assert isinstance(done.error_in_exec, ValueError)
    printed = capsys.readouterr().out
    assert "modtrace: no report: " in printed
    assert "modtrace  trace" in printed


@pytest.mark.parametrize(
    ("words", "there"),
    [
        ("-q", ""),
        ("--print none", ""),
        ("--print=tree", "Sequential"),
        ("--print summary", "modtrace  trace"),
    ],
)
def test_what_is_shown_is_chosen(shell, capsys, words, there):
    assert shell.run_cell(f"%%modtrace {words}\nx = {FORWARD}").success
    printed = capsys.readouterr().out
    assert (there in printed) if there else not printed
    assert ("WHERE THE TIME WENT" in printed) == (there == "modtrace  trace")
    assert names(shell.user_ns["t"]) == THREE


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("end", ["", "raise ValueError()"])
def test_a_notebook_is_shown_the_table_and_a_terminal_the_text(shell, capsys, kernel, end):
    """IPython's shell of a kernel is the one with a kernel; the front end takes the form that it can show."""
    if kernel:
        shell.kernel = object()
    shell.display_pub = CapturingDisplayPublisher()
    shell.run_cell(f"%%modtrace\nx = {FORWARD}{end}")
    t = shell.user_ns["t"]
    assert [output["data"] for output in shell.display_pub.outputs] == (
        [{"text/html": t._repr_html_(), "text/plain": t.summary().rstrip()}] if kernel else []
    )
    assert ("modtrace  trace" in capsys.readouterr().out) is not kernel


def test_values_may_stand_in_quotes():
    line = magic.parsed("--break 'fc and step=3' --break nan --watch \"a b\" nets['a b']")
    assert line.options["break_on"] == "fc and step=3\nnan"
    assert line.options["watch"] == "a b"
    assert line.model == "nets['a b']"


def test_an_expression_for_the_model_may_have_blanks(shell):
    shell.run_cell("nets = {'a b': model}")
    assert shell.run_cell(f"%%modtrace --no-flops nets['a b'][0]\n{FORWARD}").success
    assert names(shell.user_ns["t"]) == ["Linear"]


@pytest.mark.parametrize("cell", ["%%modtrace --help\nran = True", "%%modtrace -h", "%modtrace --help"])
def test_help(shell, capsys, cell):
    assert shell.run_cell(cell).success
    printed = capsys.readouterr().out
    assert "--memory STEPS" in printed
    assert "%%modtrace [options] [MODEL]" in printed
    assert not {"ran", "t"} & set(shell.user_ns)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--memory x", "memory='x' names no steps; give \"2:5\""),
        ("--memory", "argument --memory: expected one argument; %%modtrace --help lists the options"),
        ("--qqq", "unrecognized arguments: --qqq; %%modtrace --help lists the options"),
        ("-o 3", "-o takes the name of a variable, not '3'"),
        ("--engine fast", "fast"),
        ("nobody", "%%modtrace nobody: NameError: name 'nobody' is not defined"),
        ("3", "%%modtrace takes a torch.nn.Module, not int"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_without_a_traceback(shell, capsys, line, message):
    done = shell.run_cell(f"%%modtrace {line}\nran = True")
    assert message in str(done.error_in_exec)
    printed = printed_without_colors(capsys)
    assert printed.startswith("UsageError: ")
    assert printed.count("\n") == 1
    assert "ran" not in shell.user_ns


def test_cells_run_by_a_cell_belong_to_it(shell):
    cell = f"%%modtrace\n{FORWARD}get_ipython().run_cell('x = model(torch.ones(2, 3))')\n{FORWARD}"
    assert shell.run_cell(cell).success
    assert names(shell.user_ns["t"]) == THREE * 3


def test_a_cell_that_runs_a_recorded_one_goes_on_unrecorded(shell):
    cell = f"get_ipython().run_cell('%%modtrace\\n{FORWARD.strip()}')\n{FORWARD}"
    assert shell.run_cell(cell).success
    assert names(shell.user_ns["t"]) == THREE


def test_from_the_middle_of_a_cell(shell):
    assert shell.run_cell(f"{FORWARD}%modtrace -o kept\n{FORWARD}{FORWARD}").success
    assert names(shell.user_ns["kept"]) == THREE * 2


@pytest.mark.parametrize("call", ["run_cell_magic('modtrace', '', {!r})"])
def test_the_magic_as_a_function(shell, capsys, call):
    body = f"{FORWARD}1 + 41"
    assert shell.run_cell(f"get_ipython().{call.format(body)}").success
    assert names(shell.user_ns["t"]) == THREE
    assert "42" in capsys.readouterr().out
    done = shell.run_cell(f"get_ipython().{call.format(FAILS)}", store_history=True)
    assert isinstance(done.error_in_exec, RuntimeError)
    assert (
        len([file for file, _ in frames_of(done.error_in_exec) if file.endswith("/modtrace/magic.py")]) <= 1
    )
    assert "magic.py" not in printed_without_colors(capsys)
    assert names(shell.user_ns["t"]) == ["Sequential", "Linear"]


def test_a_recording_that_was_not_ended_is_ended_before_the_next_cell(shell):
    with_end = next(
        f for f in shell.events.callbacks["post_run_cell"] if isinstance(f.__self__, magic.CellMagic)
    )
    shell.events.unregister("post_run_cell", with_end)
    shell.run_cell(f"%%modtrace\n{FORWARD}")
    assert running()
    shell.events.register("post_run_cell", with_end)
    shell.run_cell("model(torch.ones(2, 3))")
    assert not running()
    assert names(shell.user_ns["t"]) == THREE
    assert shell.run_cell(f"%%modtrace -o again\n{FORWARD}").success
    assert names(shell.user_ns["again"]) == THREE


def test_unloading(shell):
    shell.run_line_magic("unload_ext", "modtrace")
    assert not shell.run_cell(f"%%modtrace\n{FORWARD}").success
    shell.run_line_magic("load_ext", "modtrace")
    shell.run_line_magic("reload_ext", "modtrace")
    assert shell.run_cell(f"%%modtrace\n{FORWARD}").success
    assert names(shell.user_ns["t"]) == THREE
    mine = [
        f
        for f in shell.input_transformers_cleanup
        if isinstance(getattr(f, "__self__", None), magic.CellMagic)
    ]
    assert len(mine) == 1


def test_a_cell_ends_at_a_blank_line_in_a_terminal(shell):
    check = shell.input_transformer_manager.check_complete
    assert check("%%modtrace\nx = 1\n")[0] == "incomplete"
    assert check("%%modtrace\nx = 1\n\n")[0] == "complete"


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
