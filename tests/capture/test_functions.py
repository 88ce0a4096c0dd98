"""Functions of torch as rows: which ones, where, and that the program does not notice."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import modtrace


class FeatureL2Norm(nn.Module):
    def forward(self, feature):
        epsilon = 1e-6
        norm = torch.pow(torch.sum(torch.pow(feature, 2), 1) + epsilon, 0.5).unsqueeze(1).expand_as(feature)
        return torch.div(feature, norm)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return Square.apply(self.linear(x)).sum()


def functions(calls):
    return calls[calls["kind"] == "function"]


def names(calls):
    return functions(calls)["name"].tolist()


def traced(run, **options):
    with modtrace.trace(functions=True, **options) as t:
        run()
    return t


def test_a_module_without_submodules_shows_what_it_does():
    t = traced(lambda: FeatureL2Norm()(torch.ones(2, 4, 3, 3)))
    calls = t.calls[t.calls["root"] != "?"]
    module = calls.index[calls["kind"] == "module"][0]
    inside = calls[calls["parent"] == module]
    assert inside["name"].tolist() == [
        "torch.pow", "torch.sum", "Tensor.add", "torch.pow", "Tensor.unsqueeze", "Tensor.expand_as", "torch.div",
    ]  # fmt: skip
    assert inside["inputs"].tolist()[0] == "f32[2,4,3,3], int"
    assert inside["outputs"].tolist()[1] == "f32[2,3,3]"
    first = inspect.getsourcelines(FeatureL2Norm.forward)[1]
    assert inside["source_line"].tolist() == [first + 2] * 6 + [first + 3]
    assert set(inside["source_file"]) == {__file__}


def test_the_tree_shows_each_place_in_order():
    t = traced(lambda: [FeatureL2Norm()(torch.ones(2, 4, 3, 3)) for _ in range(3)])
    shown = [line.split()[0] for line in t.tree().splitlines()]
    at = shown.index("FeatureL2Norm")
    assert shown[at + 1 : at + 8] == [
        "torch.pow", "torch.sum", "Tensor.add", "torch.pow", "Tensor.unsqueeze", "Tensor.expand_as", "torch.div",
    ]  # fmt: skip


def test_functions_by_other_ways_of_calling_them():
    def run():
        x = torch.ones(2, 3)
        x + 1, x @ x.t(), -x, x[0], x.relu_(), F.relu(x), F.layer_norm(x, (3,)), nn.functional.gelu(x)
        torch.einsum("ab->ba", x), x.split(1), torch.cat([x, x]), torch.linalg.norm(x), F.linear(x, x)

    assert names(traced(run).calls) == [
        "torch.ones", "Tensor.add", "Tensor.t", "Tensor.matmul", "Tensor.neg", "Tensor.__getitem__", "Tensor.relu_",
        "F.relu", "F.layer_norm", "F.gelu", "torch.einsum", "Tensor.split", "torch.cat",
        "torch.linalg_norm", "F.linear",
    ]  # fmt: skip


def test_what_computes_nothing_is_no_row():
    def run():
        x = torch.ones(2, 3, requires_grad=True)
        x.shape, x.size(0), x.dim(), x.dtype, x.grad_fn, len(x), repr(x), x.is_contiguous(), x.requires_grad

    assert names(traced(run).calls) == ["torch.ones"]


def test_only_the_outermost_function_is_a_row_and_modules_keep_theirs():
    criterion = nn.CrossEntropyLoss()
    t = traced(lambda: criterion(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])))
    assert names(t.calls) == ["torch.randn", "torch.tensor", "F.cross_entropy"]
    row = functions(t.calls).iloc[-1]
    assert t.calls.loc[row["parent"], "type"] == "CrossEntropyLoss"


def test_functions_of_a_loss_are_in_the_loss():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    target = torch.zeros(4, 1)

    def run():
        for _ in range(2):
            optimizer.zero_grad()
            F.mse_loss(model(torch.ones(4, 3)), target).backward()
            optimizer.step()

    t = traced(run)
    calls = t.calls
    loss = functions(calls)[functions(calls)["name"] == "F.mse_loss"]
    assert loss["phase"].tolist() == ["loss", "loss"]
    assert [calls.loc[row, "name"] for row in loss["parent"]] == ["loss", "loss"]
    assert (t.steps.filter(regex="(data|h2d|forward|eval|loss|backward|optimizer|zero_grad|other)_ns").sum(axis=1)
            == t.steps["duration_ns"]).all()  # fmt: skip


def test_an_autograd_function_shows_its_forward_and_its_backward():
    model = Squares()
    t = traced(lambda: model(torch.ones(2, 3)).backward())
    calls = t.calls
    forward = calls[calls["name"] == "Square.forward"]
    backward = calls[calls["name"] == "Square.backward"]
    assert calls.loc[forward["parent"].iloc[0], "kind"] == "module"
    assert calls.loc[backward["parent"].iloc[0], "kind"] == "backward"
    assert forward["inputs"].tolist() == forward["outputs"].tolist() == ["f32[2,3]"]
    assert calls[calls["parent"] == forward.index[0]]["name"].tolist() == ["Tensor.mul"]
    assert calls[calls["parent"] == backward.index[0]]["name"].tolist() == ["Tensor.mul", "Tensor.mul"]
    assert forward["type"].tolist() == ["autograd.Function"]
    assert forward["source_line"].iloc[0] == inspect.getsourcelines(Square.forward)[1]


def test_times_add_up():
    model = Squares()

    def run():
        for _ in range(3):
            model(torch.ones(2, 3)).backward()

    calls = traced(run).calls
    inside = calls.groupby("parent")["duration_ns"].sum()
    own = calls["duration_ns"] - calls["self_ns"] - calls["tracer_ns"]
    for call, children in inside.items():
        if call != -1 and calls.loc[call, "kind"] in ("module", "function", "backward"):
            assert own[call] == children
    assert (calls["self_ns"].dropna() >= 0).all()


@pytest.mark.parametrize("reentrant", [False, True])
def test_functions_of_recomputed_calls(reentrant):
    block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    given = torch.ones(2, 3, requires_grad=True)
    t = traced(lambda: checkpoint(block, given, use_reentrant=reentrant).sum().backward())
    again = t.calls[(t.calls["phase"] == "recompute") & (t.calls["kind"] == "function")]
    # Checkpointing itself asks for a device before it runs the block again.
    assert [name for name in again["name"] if name != "torch.device"][:1] == ["F.linear"]
    assert len(t.steps) == 1
    assert t.modules["calls"].tolist() == [1, 1, 1]


def test_a_function_that_raises_is_closed_and_the_failure_is_found():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))
    with modtrace.trace(functions=True) as t, pytest.raises(RuntimeError) as caught:
        model(torch.ones(2, 3))
    rows = functions(t.calls)
    assert rows["status"].tolist()[-2:] == ["ok", "raised"]
    assert "1 Linear" in t.summary()
    files = {str(entry.frame.code.path) for entry in caught.traceback}
    assert not any("modtrace" in file and "tests" not in file for file in files)


def test_an_interrupt_leaves_no_function_open():
    class Interrupts(nn.Module):
        def forward(self, x):
            x.register_hook(lambda _: None)
            raise KeyboardInterrupt

    given = torch.ones(2, requires_grad=True)
    with modtrace.trace(functions=True) as t:
        with pytest.raises(KeyboardInterrupt):
            Interrupts()(given)
        torch.neg(given)
        nn.Identity()(given)
    calls = t.calls
    assert calls["parent"].tolist().count(-1) == 3
    assert calls["status"].tolist() == ["aborted", "ok", "ok"]


def test_nothing_is_left_behind():
    before = vars(torch.autograd.Function)["apply"], torch.overrides.has_torch_function
    with modtrace.trace(functions=True):
        assert torch._C._len_torch_function_stack() == 1
        Square.apply(torch.ones(2))
    assert torch._C._len_torch_function_stack() == 0
    assert (vars(torch.autograd.Function)["apply"], torch.overrides.has_torch_function) == before
    x = torch.ones(3, requires_grad=True)
    assert Square.apply(x).sum().backward() is None


def test_a_way_to_apply_that_was_kept_from_a_trace_still_computes():
    with modtrace.trace(functions=True):
        square = Square.apply
    x = torch.full((2,), 3.0, requires_grad=True)
    result = square(x)
    assert result.tolist() == [9, 9]
    result.sum().backward()
    assert x.grad.tolist() == [6, 6]


def test_modes_that_are_entered_inside_stay_in_order():
    class Counts(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.seen.append(function)
            return function(*args, **(kwargs or {}))

    with Counts() as outer, modtrace.trace(functions=True) as t, Counts() as inner:
        torch.set_default_device("meta")
        device = torch.neg(torch.ones(2)).device.type
        torch.set_default_device(None)
    assert outer.seen == inner.seen
    assert outer.seen.count(torch.neg) == 1
    assert device == "meta"
    assert [name for name in names(t.calls) if name in ("torch.ones", "torch.neg")] == [
        "torch.ones",
        "torch.neg",
    ]
    assert torch._C._len_torch_function_stack() == 0


def test_other_threads_are_not_recorded_but_undisturbed():
    model, found = nn.Linear(3, 3), []

    def run():
        found.append(torch._C._len_torch_function_stack())
        model(torch.ones(2, 3))

    with modtrace.trace(functions=True) as t:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert found == [0]
    assert t.calls["kind"].tolist() == ["module"]


def test_generic_code_asks_whether_a_tensor_is_overridden():
    x = torch.ones(2)

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    with modtrace.trace(functions=True):
        assert not torch.overrides.has_torch_function((x,))
        with Mode():
            assert torch.overrides.has_torch_function((x,))
        assert not torch.overrides.has_torch_function((x,))
        assert torch._C._len_torch_function_stack() == 1


def test_one_place_that_calls_many_functions_and_sizes():
    def run():
        for function in (torch.neg, torch.abs, torch.neg):
            for size in (2, 3, 3, 3, 2):
                function(torch.ones(size))

    rows = functions(traced(run).calls)
    rows = rows[rows["name"] != "torch.ones"]
    assert rows["name"].tolist() == ["torch.neg"] * 5 + ["torch.abs"] * 5 + ["torch.neg"] * 5
    assert rows["inputs"].tolist() == [f"f32[{size}]" for size in (2, 3, 3, 3, 2)] * 3
    assert rows["outputs"].tolist() == rows["inputs"].tolist()


@pytest.mark.parametrize("grad", [True, False])
def test_signatures_are_right_however_arguments_change(grad):
    """Calls at one place that differ from the one before in one thing, each against a fresh look at its arguments."""
    a, b = torch.ones(2, 2), torch.ones(2, 2, requires_grad=True)
    calls = [
        ((a, b), {}), ((a, b), {}), ((a, b), {}), ((b, a), {}), ((a, a), {}), ((a, 1), {}), ((a, 1), {}), ((a, 1), {}),
        ((a, 1.5), {}), ((a, b), {"alpha": 2}), ((a, b), {"alpha": 2}), ((a, b), {"alpha": 2}),
        ((a, b), {"alpha": 2.5}),
        ((a, b.double()), {}), ((a, b), {}), ((a[0], b), {}),
    ]  # fmt: skip

    def run():
        with torch.set_grad_enabled(grad):
            for args, kwargs in calls:
                torch.add(*args, **kwargs)

    t = traced(run)
    rows = functions(t.calls)
    rows = rows[rows["name"] == "torch.add"]
    shown = {torch.float32: "f32", torch.float64: "f64"}

    def text(value):
        if isinstance(value, torch.Tensor):
            return f"{shown[value.dtype]}[{','.join(map(str, value.shape))}]"
        return type(value).__name__

    def signature(args, kwargs):
        texts = [text(arg) for arg in args]
        left = f"{texts[0]} x2" if texts[0] == texts[1] else ", ".join(texts)
        return ", ".join([left, *(f"{name}={text(value)}" for name, value in kwargs.items())])

    assert rows["inputs"].tolist() == [signature(args, kwargs) for args, kwargs in calls]
    stored = t._read()
    tensors = stored.table("signatures").column("tensors").to_pylist()
    codes = [code for code in stored.table("calls").column("inputs").to_pylist() if code is not None]
    added = [code for code in codes if len(tensors[code]) in (1, 2)][-len(calls) :]
    expected = [[v.requires_grad for v in args if isinstance(v, torch.Tensor)] for args, _ in calls]
    assert [[one["requires_grad"] for one in tensors[code]] for code in added] == expected


COMPILED = """
import torch, modtrace
from torch import nn
graphs = []
def backend(graph, inputs):
    graphs.append([node.name for node in graph.graph.nodes])
    return graph.forward
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
compiled = torch.compile(model, backend=backend)
x = torch.ones(2, 4)
BEFORE
with modtrace.trace(functions=True) as t:
    x * 2
    for _ in range(2):
        compiled(x)
    x * 2
compiled(x)
print(len(graphs), graphs[0], torch._dynamo.utils.counters["stats"]["unique_graphs"])
import sys
print(t._read().table("gaps").column("reason").to_pylist(), file=sys.stderr)
"""


@pytest.mark.parametrize(("before", "reason"), [("", "any more"), ("compiled(x)", "before the trace")])
def test_compiled_graphs_are_as_without(before, reason):
    script = COMPILED.replace("BEFORE", before)
    runs = []
    for text in (script, script.replace("modtrace.trace(functions=True)", "modtrace.trace()")):
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
        runs.append(done)
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.startswith("1 ")
    assert reason in runs[0].stderr


def test_a_run_with_functions(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
            import torch
            torch.manual_seed(0)
            x = torch.ones(2, 3, requires_grad=True)
            loss = torch.nn.Linear(3, 1)(x).sum()
            loss.backward()
            print(x.grad)
        """)
    )
    command = [sys.executable, "-m", "modtrace", "run", "--functions", "-o", "t.mtrace", "train.py"]
    plain = subprocess.run(
        [sys.executable, "train.py"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == plain.stdout
    shown = names(modtrace.load(tmp_path / "t.mtrace").calls)
    assert [name for name in shown if name in ("F.linear", "Tensor.sum")] == ["F.linear", "Tensor.sum"]


def test_a_function_next_to_the_limit_of_recursion_costs_that_call_alone():
    """Wherever in our handler python's limit is met, the program sees its own error and the recording goes on."""

    def deeper(x):
        torch.neg(x)
        return deeper(x)

    x, relu = torch.ones(2), nn.ReLU()
    limit = sys.getrecursionlimit()
    with warnings.catch_warnings(record=True) as caught, modtrace.trace(functions=True) as trace:
        warnings.simplefilter("always")
        for more in range(12):  # each time another frame is the one too many
            sys.setrecursionlimit(limit + more)
            with pytest.raises(RecursionError):
                deeper(x)
        sys.setrecursionlimit(limit)
        relu(x)
    sys.setrecursionlimit(limit)
    assert not [warning for warning in caught if "switched off" in str(warning.message)]
    assert (trace.calls["kind"] == "module").sum() == 1
