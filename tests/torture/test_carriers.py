"""Both carriers give the same rows, and the one that replaces `Module.__call__` leaves nothing behind."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import pickle
import subprocess
import sys
import traceback
import warnings

import pandas as pd
import pytest
import torch
from torch import nn

import modtrace
from modtrace.errors import UsageError
from tests.torture.compare import assert_well_formed, module_calls
from tests.torture.models import CASE_LIST, CASES
from tests.torture.observe import observe, seed
from tests.torture.zoo_exceptions import Interrupt, RaisesAtOnce

PLAIN_CALL = nn.Module.__dict__["__call__"]
COLUMNS = [
    "kind", "name", "type", "root", "module_id", "parent", "depth", "last_call", "thread", "step", "phase", "status",
    "error", "inputs", "outputs", "flops", "forward",
]  # fmt: skip
OTHER_ROWS = {"never_initialised", "recursion_error"}
"""Cases whose rows differ: the replacement sees a call in which torch fails before its hooks, and each has its own
limit of recursion."""


def traced(engine, **options):
    return modtrace.trace(engine=engine, **options)


def rows(case, engine):
    seed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = case.make()
        with traced(engine) as trace, contextlib.suppress(case.raises or ()):
            case.run(model)
    return trace.calls


@pytest.mark.parametrize(
    "case", [case for case in CASE_LIST if case.name not in OTHER_ROWS], ids=lambda case: case.name
)
def test_the_same_rows(case):
    hooks, calls = rows(case, "hooks"), rows(case, "calls")
    if hooks["thread"].nunique() == 1:
        # What is collected when is chance, and with it whose name is free again.
        named = ["name", "module_id"] if case.name == "CollectsGarbage" else []
        pd.testing.assert_frame_equal(texts(hooks).drop(columns=named), texts(calls).drop(columns=named))
    else:  # which thread comes first is chance
        assert by_thread(hooks) == by_thread(calls)


def texts(calls):
    """What is compared; torch numbers the sizes of nested tensors (`j1`) on and on."""
    return calls[COLUMNS].astype(str).replace(r"\bj\d+\b", "j", regex=True)


def by_thread(calls):
    alike = [
        name
        for name in COLUMNS
        if name not in ("module_id", "parent", "last_call", "thread", "step", "forward")
    ]
    return sorted(list(part[alike].itertuples(index=False)) for _, part in texts(calls).groupby("thread"))


@pytest.mark.parametrize("case", CASE_LIST, ids=lambda case: case.name)
def test_replaced_run_is_bitwise_the_same(case):
    """Where python's limit of recursion is met included: no frame is added."""
    observe(case)
    untraced = observe(case)
    replaced = observe(case, lambda: traced("calls"))
    for key, value in untraced.items():
        if key == "warnings" and case.name == "recursion_error":
            continue  # modtrace says that it stopped recording
        assert replaced[key] == value, key
    assert nn.Module.__dict__["__call__"] is PLAIN_CALL


def printed(model, around):
    """The tracebacks that the program sees: where it catches the exception, and inside of a forward."""
    seen = []

    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            try:
                self.inner(x)
            except Exception:
                seen.append(traceback.format_exc())
            return self.inner(x)

    outer = Catches()
    with around():
        try:
            outer(torch.ones(1, 3))
        except Exception:
            seen.append(traceback.format_exc())
        handle = model.register_forward_hook(lambda *_: None)
        try:
            outer(torch.ones(1, 3))
        except Exception:
            seen.append(traceback.format_exc())
        handle.remove()
    assert len(seen) == 4
    return seen


def test_tracebacks_are_the_same_to_the_letter():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    untraced = printed(model, contextlib.nullcontext)
    assert printed(model, lambda: traced("calls")) == untraced
    assert "_wrapped_call_impl" in untraced[0]


@pytest.mark.parametrize("inner", ["hooks", "calls"])
def test_tracebacks_of_two_traces(inner):
    """The original is called through: its frame and ours stand for one."""
    model = nn.Sequential(nn.Linear(2, 2))

    def around():
        stack = contextlib.ExitStack()
        stack.enter_context(traced("calls"))
        stack.enter_context(traced("calls"))
        return stack

    assert printed(model, around) == printed(model, contextlib.nullcontext)


def test_functions_look_like_torchs():
    with traced("calls"):
        call = nn.Module.__call__
        model = nn.Linear(2, 2)
        assert call is not PLAIN_CALL
        assert inspect.signature(model) == inspect.signature(PLAIN_CALL.__get__(model))
        assert (call.__name__, call.__qualname__, call.__module__) == (
            PLAIN_CALL.__name__, PLAIN_CALL.__qualname__, PLAIN_CALL.__module__,
        )  # fmt: skip
        assert inspect.getsource(call) == inspect.getsource(PLAIN_CALL)
        bound = pickle.dumps(model.__call__)
    again = pickle.loads(bound)
    assert again.__func__ is PLAIN_CALL


class Deep(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.inner = Deep(depth - 1) if depth else nn.Identity()

    def forward(self, x):
        return self.inner(x)


def deepest(around):
    """How deep modules can be called: in 3.11 248, in 3.13 more, for a call of C takes no frame of python's there."""
    for depth in range(180, 500):
        model = Deep(depth)
        try:
            with around():
                model(torch.ones(1))
        except RecursionError:
            return depth
    return None


def test_models_may_be_as_deep_as_untraced():
    """But for what opens the innermost call: that takes some frames for a moment."""
    untraced = deepest(contextlib.nullcontext)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert deepest(lambda: traced("calls")) == untraced
    model = Deep(untraced - 12)
    with traced("calls") as trace:
        model(torch.ones(1))
    assert len(trace.calls) == untraced - 10
    assert not len(trace._stored.table("gaps"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, Interrupt])
def test_the_end_of_a_call_left_by_a_base_exception_is_known(error):
    model = nn.Sequential(nn.Identity(), nn.Sequential(RaisesAtOnce(error)))
    with pytest.raises(error), traced("calls") as trace:
        model(torch.ones(1))
    calls = trace.calls
    assert_well_formed(calls)
    assert list(calls["status"]) == ["aborted", "ok", "aborted", "aborted"]
    assert calls["duration_ns"].notna().all()
    assert list(calls["outputs"].isna()) == [True, False, True, True]
    assert calls["error"].isna().all()


def test_own_hooks_are_inside_of_the_call():
    model = nn.Linear(2, 2)
    model.register_forward_pre_hook(lambda module, args: (nn.functional.relu(args[0]),))
    inside = []
    model.register_forward_hook(lambda *_: inside.append(nn.Identity()(1)) or torch.ones(7))
    with traced("calls") as trace:
        model(torch.ones(1, 2))
    calls = trace.calls
    assert list(calls["depth"]) == [0, 1]
    assert calls["outputs"].iloc[0] == "f32[7]"
    assert calls["hooks_ns"].isna().all()


def test_what_the_program_puts_over_it_stays():
    original = nn.Module.__call__
    trace = traced("calls")
    trace.__enter__()
    replaced = nn.Module.__call__
    passed = []

    def over(self, *args, **kwargs):
        passed.append(self)
        return replaced(self, *args, **kwargs)

    nn.Module.__call__ = over
    try:
        model = nn.Identity()
        model(1)
        trace.__exit__(None, None, None)
        assert nn.Module.__call__ is over
        assert model(2) == 2
        assert passed == [model, model]
        assert len(trace.calls) == 1
        assert "replaced Module.__call__" in trace._stored.table("gaps")["reason"][0].as_py()
        nn.Module.__call__ = replaced
        assert model(3) == 3
        assert nn.Module.__call__ is original  # it takes itself away where it can
    finally:
        nn.Module.__call__ = original


@pytest.mark.parametrize("first", [0, 1])
def test_overlapping_traces(first):
    model = nn.Sequential(nn.Identity())
    with contextlib.ExitStack() as stack:
        traces = [stack.enter_context(traced("calls")) for _ in range(2)]
        model(1)
        traces[first].__exit__(None, None, None)
        model(2)
    model(3)
    counts = [4, 4]
    counts[first] = 2
    assert [len(trace.calls) for trace in traces] == counts
    assert nn.Module.__call__ is PLAIN_CALL
    for trace in traces:  # one of two at once counts FLOPs
        assert all(reason.startswith("FLOPs were not counted") for reason in trace.gaps["reason"])


@pytest.mark.parametrize("second", ["hooks", "calls"])
def test_one_carrier_beside_the_other(second):
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    first = "calls" if second == "hooks" else "hooks"
    with traced(first) as outer:
        model(torch.ones(1))
        with traced(second) as inner:
            model(torch.ones(1))
        model(torch.ones(1))
    assert [len(outer.calls), len(inner.calls)] == [9, 3]


def test_symbolic_tracing_stands_over_it():
    """torch.fx replaces `Module.__call__` too, calls torch's own, and puts back what it found."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    untraced = torch.fx.symbolic_trace(model).code
    with traced("calls") as trace:
        graph = torch.fx.symbolic_trace(model)
        graph(torch.ones(1, 2))
        model(torch.ones(1, 2))
    assert graph.code == untraced
    assert list(trace.calls["depth"]) == [0, 1, 1, 0, 1, 1]
    assert nn.Module.__call__ is PLAIN_CALL


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_fused_layers_stay_fused():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        untraced = model(x)
        with traced("calls") as trace:
            assert torch.equal(model(x), untraced)
    assert list(trace.calls["type"]) == ["TransformerEncoderLayer"]


def test_calls_of_forward_itself_are_none():
    model = nn.Sequential(nn.Identity())
    with traced("calls") as trace:
        model.forward(1)
        model._call_impl(1)
    assert list(trace.calls["type"]) == ["Identity", "Identity"]


def test_vmap_and_chosen_models():
    model, other = nn.Linear(2, 2), nn.ReLU()
    with traced("calls") as all_calls:
        torch.vmap(model)(torch.ones(3, 2))
    with modtrace.trace(model, engine="calls") as chosen:
        other(model(torch.ones(1, 2)))
    assert "vmap" in all_calls.calls["inputs"][0]
    assert list(chosen.calls["type"]) == ["Linear"]


def test_there_is_no_third_engine():
    with pytest.raises(UsageError, match="hooks or calls, not 'call'"):
        modtrace.trace(engine="call")


COMPILER_COMES_LATE = """
import sys, torch, modtrace
plain = torch.nn.Module.__call__
assert "torch._dynamo.utils" not in sys.modules

class Net(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(x)

model = Net(torch.nn.Linear(2, 2), torch.nn.ReLU())
with modtrace.trace(engine="calls") as trace:
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(torch.ones(1, 2))
    held = compiled.forward._torchdynamo_orig_callable
utils = sys.modules["torch._dynamo.utils"]
assert utils.unpatched_nn_module_call is plain
assert held.__func__ is plain, held
assert list(trace.calls["type"]) == ["OptimizedModule"], trace.calls
assert utils.counters["stats"]["unique_graphs"] == 1
torch._dynamo.config.error_on_recompile = True
compiled(torch.ones(1, 2))
assert "_initialize" in vars(sys.modules["torch._dynamo.eval_frame"].OptimizedModule)
assert "modtrace" not in sys.modules["torch._dynamo.eval_frame"].OptimizedModule._initialize.__code__.co_filename
"""


def test_the_compiler_finds_torchs_own_call():
    """Where it is imported during a trace, and what it makes of a module then."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILER_COMES_LATE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_strict_export_works():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    x = torch.ones(2, 4)
    untraced = str(torch.export.export(model, (x,), strict=True).graph)
    with traced("calls"):
        assert str(torch.export.export(model, (x,), strict=True).graph) == untraced
    assert str(torch.export.export(model, (x,), strict=True).graph) == untraced


def test_run_takes_an_engine(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch\n"
        "model = torch.nn.Sequential(torch.nn.Linear(2, 2))\n"
        "print(torch.nn.Module.__call__ is torch.nn.Module._wrapped_call_impl)\n"
        "model(torch.ones(1, 2))\n"
        "model(torch.ones(1, 3))\n"
    )
    command = [sys.executable, "-m", "modtrace", "run", "-q", "-o", str(tmp_path / "t.mtrace")]
    done = subprocess.run(
        [*command, "--engine", "calls", str(script)], capture_output=True, text=True, check=False
    )
    plain = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n"
    assert done.stderr.startswith(plain.stderr)
    assert list(modtrace.load(tmp_path / "t.mtrace").calls["status"])[-2:] == ["raised", "raised"]
    done = subprocess.run(
        [*command, "--engine", "x", str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "engine is hooks or calls" in done.stderr


def test_chosen_model_is_bitwise_the_same():
    case = CASES["hooks_of_every_sort"]
    observe(case)
    untraced = observe(case)

    def run(model):
        with modtrace.trace(model, engine="calls"):
            return case.run(model)

    replaced = observe(dataclasses.replace(case, run=run))
    assert replaced == untraced


def test_rows_hold_the_same_calls_beside_phases():
    """A training step: phases and backward around and between the calls."""

    def record(engine):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with traced(engine, functions=True) as trace:
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
        # In which order texts were met, which their categories tell, is nothing that rows hold.
        columns = ["kind", "name", "type", "depth", "parent", "step", "inputs", "outputs"]
        return trace.calls[columns].astype(object)

    hooks, calls = record("hooks"), record("calls")
    pd.testing.assert_frame_equal(hooks, calls)
    assert len(module_calls(calls)) == 12
