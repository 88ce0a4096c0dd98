"""Ranges of values are those that torch gives, in the steps that were asked for, and nothing is changed."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import modtrace
from modtrace.capture.mechanisms.value_tensors import tensors_of
from modtrace.errors import UsageError


class Parts(nn.Module):
    """Outputs in a dict, a list, and of types that cannot be read."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        h = self.inner(x)
        return {
            "h": h,
            "more": [h.double() * 3, h.half()],
            "complex": torch.complex(h, -2 * h),
            "small": h.to(torch.float8_e4m3fn),
            "empty": h[:0],
            "sparse": h.detach().to_sparse(),
            "meta": h.detach().to("meta"),
            "numbers": torch.arange(3),
        }


def steps(model, count=4, seed=0):
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(3, 4)).pow(2).mean().backward()
        optimizer.step()


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def rows_of(trace, **wanted):
    frame = trace.values
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    return frame


def test_outputs_are_as_torch_has_them():
    seen = []
    model = small()
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: seen.append(output.detach().clone()))
    with modtrace.trace(values=(0, 4), values_with="norm") as trace:
        steps(model)
    rows = rows_of(trace, kind="output")
    assert len(rows) == len(seen) == 16
    assert rows["minimum"].tolist() == [output.min().item() for output in seen]
    assert rows["maximum"].tolist() == [output.max().item() for output in seen]
    assert rows["absolute_maximum"].tolist() == [output.abs().max().item() for output in seen]
    assert np.allclose(rows["norm"].tolist(), [output.norm().item() for output in seen])
    assert rows["step"].tolist() == [step for step in range(4) for _ in range(4)]
    assert rows["name"].tolist()[:4] == ["0", "1", "2", "model"]


def test_parameters_and_gradients_are_as_an_optimizer_has_them():
    model = small()
    gradients, parameters = [], []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            gradients.extend(p.grad.abs().max().item() for p in model.parameters())
            super().step(closure)
            parameters.extend(p.abs().max().item() for p in model.parameters())

    with modtrace.trace(values=(0, 3)) as trace:
        optimizer = Watched(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).pow(2).mean().backward()
            optimizer.step()
    assert rows_of(trace, kind="parameter_gradient")["absolute_maximum"].tolist() == gradients
    rows = rows_of(trace, kind="parameter")
    assert rows["absolute_maximum"].tolist() == parameters
    assert rows["name"].tolist()[:4] == ["0", "0", "2", "2"]
    assert rows["path"].tolist()[:4] == ["weight", "bias", "weight", "bias"]


def test_gradients_arrive_as_a_tensor_hook_has_them():
    model, seen = small(), []

    def remember(module, args, output):
        output.register_hook(lambda gradient: seen.append(gradient.abs().max().item()))

    for module in model:
        module.register_forward_hook(remember)
    with modtrace.trace(values=(0, 1)) as trace:
        model(torch.ones(3, 4)).pow(2).mean().backward()
    rows = rows_of(trace, kind="gradient")
    of_modules = rows[rows["name"].isin(["0", "1", "2"])]
    assert of_modules["name"].tolist() == ["2", "1", "0"]
    assert of_modules["absolute_maximum"].tolist() == seen


def test_structures_and_what_cannot_be_read():
    model = Parts()
    with modtrace.trace(values=(0, 2)) as trace:
        output = model(torch.ones(2, 4))
    rows = rows_of(trace, kind="output", name="model").set_index("path")
    assert set(rows.index) == {"h", "more.0", "more.1", "complex", "small", "sparse", "meta"}
    assert rows.loc["more.0", "maximum"] == output["more"][0].max().item()
    assert rows.loc["more.1", "minimum"] == output["more"][1].min().item()
    assert rows.loc["complex", "maximum"] == max(output["complex"].real.max(), output["complex"].imag.max())
    assert rows.loc["small", "maximum"] == output["small"].float().max().item()
    for path, word in (("sparse", "sparse_coo"), ("meta", "meta")):
        assert word in rows.loc[path, "reason"]
        assert rows["minimum"].isna()[path]


def test_the_steps_that_were_asked_for():
    def recorded(asked):
        with modtrace.trace(values=asked) as trace:
            steps(small(), 6)
        return sorted(set(rows_of(trace, kind="output")["step"].dropna().tolist()))

    assert set(recorded((1, 3))) >= {1, 2}
    assert set(recorded("every 2")) >= {0, 2, 4}
    assert 3 not in recorded("every 2")


@pytest.mark.parametrize("asked", ["every 0", "every x", "5:2", "never"])
def test_steps_that_make_no_sense(asked):
    with pytest.raises(UsageError):
        modtrace.trace(values=asked).__enter__()


@pytest.mark.parametrize(
    "options", [{"values": (0, 9)}, {"nan": True}, {"nan_pin": True}, {"nan_stop": True}]
)
@pytest.mark.parametrize("engine", ["hooks", "calls"])
def test_a_run_is_bitwise_the_same(options, engine):
    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 2)
            )

        def forward(self, x):
            return self.net(x)

    def run(model):
        steps(model, 5)
        return [*model.parameters(), *model.buffers(), torch.get_rng_state()]

    torch.manual_seed(3)
    model = Dropping()
    twin = copy.deepcopy(model)
    plain = run(model)
    with modtrace.trace(engine=engine, **options):
        traced = run(twin)
    assert all(torch.equal(one, other) for one, other in zip(plain, traced, strict=True))


@pytest.mark.parametrize("options", [{"values": (0, 9)}, {"nan": True}, {"nan_pin": True}])
def test_nothing_is_kept_alive(options):
    def run():
        model = small()
        x = torch.randn(3, 4)
        output = model(x)
        loss = output.mean()
        loss.backward()
        return [weakref.ref(one) for one in (model, x, output, loss, model[0].weight.grad)]

    gc.disable()
    try:
        with modtrace.trace(**options):
            references = run()
            assert [reference() for reference in references] == [None] * 5
    finally:
        gc.enable()


@pytest.mark.parametrize("options", [{"values": (0, 99)}, {"nan": True}])
def test_no_step_waits_for_a_device(options):
    """The recorder of waits sees none that the program has not asked for."""
    with modtrace.trace(syncs=True, **options) as trace:
        steps(small(), 4)
    assert not len(trace.syncs)


def test_modes_of_the_program_see_nothing():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(getattr(function, "__name__", str(function)))
            return function(*args, **(kwargs or {}))

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    def run():
        seen.clear()
        with Functions(), Operations():
            small()(torch.ones(3, 4)).mean().backward()
        return list(seen)

    plain = run()
    with modtrace.trace(values=(0, 9), nan=True, flops=False):
        assert run() == plain


def test_inference_and_autocast_and_half_precision():
    model = small()
    with modtrace.trace(values=(0, 99)) as trace:
        with torch.inference_mode():
            model(torch.ones(3, 4))
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.ones(3, 4)).float().mean().backward()
    rows = rows_of(trace, kind="output")
    assert set(rows["dtype"]) == {"float32", "bfloat16"}
    assert not rows["minimum"].isna().any()


def test_functions_that_torch_transforms_are_left_out():
    model = nn.Linear(4, 2)
    with modtrace.trace(values=(0, 99), nan=True) as trace:
        torch.func.vmap(model)(torch.ones(3, 4))
        torch.func.grad(lambda x: model(x).sum())(torch.ones(4))
    assert not len(rows_of(trace, kind="output"))
    assert not trace.gaps["reason"].str.contains("fault|from here on").any()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_transform_that_was_left_by_an_error_is_over(error):
    class Fails(nn.Linear):
        fails = True

        def forward(self, x):
            if self.fails:
                raise error
            return super().forward(x)

    model = Fails(4, 2)
    with modtrace.trace(values=(0, 99)) as trace:
        with pytest.raises(error):
            torch.func.vmap(model)(torch.ones(3, 4))
        model.fails = False
        expected = model(torch.ones(3, 4)).abs().max().item()
    assert rows_of(trace, kind="output")["absolute_maximum"].tolist() == [expected]


def test_a_compiled_model_is_not_broken():
    model = small()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with modtrace.trace(values=(0, 99), nan=True) as trace:
        for _ in range(3):
            compiled(torch.ones(3, 4)).mean().backward()
    assert not trace.gaps["reason"].str.contains("from here on").any()


# what the command says ----------------------------------------------------------------------------------------------

SCRIPT = """
import torch
class Log(torch.nn.Module):
    def forward(self, x):
        return torch.log(x)
net = torch.nn.Sequential(torch.nn.Linear(4, 4), Log(), torch.nn.Linear(4, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(4):
    optimizer.zero_grad()
    with torch.no_grad():
        net[0].weight.fill_(-1.0 if step == BAD else 1.0); net[0].bias.zero_()
    net(torch.ones(2, 4)).mean().backward()
    optimizer.step()
print("end")
"""


def run(tmp_path, *options, bad=2):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.replace("BAD", str(bad)))
    command = [
        sys.executable,
        "-m",
        "modtrace",
        "run",
        "-o",
        str(tmp_path / "t.mtrace"),
        *options,
        str(script),
    ]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


def test_the_summary_begins_with_where_it_began(tmp_path):
    ended = run(tmp_path, "--nan", "--nan-pin")
    assert (ended.returncode, ended.stdout) == (0, "end\n")
    lines = ended.stderr.splitlines()
    assert lines[0] == "modtrace: NaN began in step 2: output of 1 (Log)"
    head = next(place for place, line in enumerate(lines) if "WHERE NAN BEGAN" in line)
    assert lines[head].strip() == "WHERE NAN BEGAN   step 2   forward   1 (Log)"
    assert head < 6
    assert "log   at" in "\n".join(lines[head : head + 6])
    assert "train.py:5" in "\n".join(lines[head : head + 6])
    assert len(lines) <= 32


def test_exit_status_of_fail_on(tmp_path):
    assert run(tmp_path, "-q", "--fail-on", "nan").returncode == 3
    ended = run(tmp_path, "-q", "-f", "--fail-on", "nan", bad=9)
    assert (ended.returncode, ended.stdout) == (0, "end\n")
    assert run(tmp_path, "-q", "-f", "--fail-on", "slow").returncode == 2


def test_stop_raises_in_the_step_itself(tmp_path):
    ended = run(tmp_path, "--nan-stop")
    assert (ended.returncode, ended.stdout) == (1, "")
    last = [line for line in ended.stderr.splitlines() if "NonFiniteError" in line]
    assert "step 2: the output of 1 (Log) is not finite" in last[0]
    assert "modtrace/capture" not in ended.stderr


def test_allowed_modules_are_told_of_as_such(tmp_path):
    ended = run(tmp_path, "--nan", "--nan-allow", "Log")
    assert "WHERE NAN BEGAN" not in ended.stderr
    assert "which is allowed" in ended.stderr


def test_a_step_that_a_scaler_leaves_out_is_no_fault(capsys):
    model = small()
    optimizer, scaler = (
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.amp.GradScaler("cpu", init_scale=2.0**120),
    )
    with modtrace.trace(nan=True) as trace:
        for _ in range(4):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(3, 4)).pow(2).mean() * 1e3).backward()
            scaler.step(optimizer)
            scaler.update()
    verdicts = trace.nonfinite["verdict"].tolist()
    assert verdicts
    assert set(verdicts) == {"skipped"}
    assert "began" not in capsys.readouterr().err


def test_masks_of_minus_infinity_are_meant():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask, self.out = Mask(), nn.Linear(4, 4)

        def forward(self, x):
            return self.out(torch.softmax(self.mask(x @ x.T), -1) @ x)

    class Mask(nn.Module):
        def forward(self, scores):
            return scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)

    with modtrace.trace(nan=True) as trace:
        model = Attention()
        for _ in range(4):
            model(torch.randn(4, 4)).mean().backward()
    assert not len(trace.nonfinite)


def test_an_infinity_that_only_chooses_is_meant_in_the_first_call_too():
    """Its indices have no range: whether the call around it is finite decides."""

    class Chooses(nn.Module):
        def forward(self, scores):
            return scores.argmin(-1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.choose = nn.Linear(4, 4), Chooses()

        def forward(self, x):
            scores = self.linear(x)
            place = self.choose(scores.masked_fill(scores < scores.mean(), torch.inf))
            return scores.gather(-1, place[:, None])

    with modtrace.trace(nan=True) as trace:
        Net()(torch.randn(3, 4))
    assert trace.calls["type"].tolist() == ["Net", "Linear", "Chooses"]
    assert not len(trace.nonfinite)


def test_every_fact_of_a_fault_is_in_its_table():
    model = small()
    with modtrace.trace(nan=True) as trace:
        for step in range(3):
            model(torch.full((2, 4), torch.nan if step == 2 else 1.0)).mean().backward()
    row = trace.nonfinite.iloc[0]
    assert row["where"] == "input 0 of model (Sequential)"
    assert (row["verdict"], row["step"], bool(row["is_nan"])) == ("fault", 2, True)
    assert row["line"].endswith(f":{test_every_fact_of_a_fault_is_in_its_table.__code__.co_firstlineno + 4}")
    assert dataclasses.is_dataclass(modtrace.load) is False


def test_json_has_texts_for_what_it_has_no_numbers_for(tmp_path):
    import json

    with modtrace.trace(values=(0, 9)) as trace:
        nn.Identity()(torch.tensor([torch.nan, 1.0]))
        nn.Identity()(torch.tensor([-torch.inf, 1.0]))
    trace.to_json(tmp_path / "t.json")
    table = json.loads((tmp_path / "t.json").read_text())["tables"]["values"]
    column = table["columns"].index("minimum")
    assert [row[column] for row in table["data"]] == ["nan", "-inf"]


# what the zoo has found ---------------------------------------------------------------------------------------------


def test_each_range_belongs_to_its_call_whatever_thread_ends_a_step():
    """Threads read at the same time, and each call of a root ends a step of them all."""
    import threading

    def work(number):
        layer = nn.Identity()
        for count in range(60):
            layer(torch.full((3,), float(1000 * number + count)))

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with modtrace.trace(values=(0, 10_000), nan=True) as trace:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(switching)
    assert not trace.gaps["reason"].str.contains("from here on").any()
    calls = trace.calls[trace.calls["kind"] == "module"].sort_values(["thread", "start_ns"])
    found = [group["output_maximum"].tolist() for _, group in calls.groupby("thread")]
    assert sorted(found) == [[1000.0 * number + count for count in range(60)] for number in range(6)]
    assert calls["output_minimum"].tolist() == calls["output_maximum"].tolist()


def test_a_tensor_with_operations_of_its_own_is_asked_nothing():
    from tests.torture.models import CASES

    with modtrace.trace(values=(0, 9)) as trace:
        case = CASES["wrapper_subclass_asked_for_size"]
        case.run(case.make())
    rows = trace.values
    own = rows[rows["reason"].fillna("").str.contains("operations of its own")]
    assert len(own)
    assert own["elements"].isna().all()
    assert rows[rows["reason"].isna()]["elements"].notna().all()


def test_names_in_a_dict_are_not_asked_for_a_text():
    class Name:
        def __str__(self):
            raise AssertionError("asked")

        __repr__ = __format__ = __str__

    class Gives(nn.Module):
        def forward(self, x):
            return {Name(): x, 3: -x}

    with modtrace.trace(values=(0, 9), nan=True) as trace:
        Gives()(torch.ones(2))
    assert rows_of(trace, kind="output")["path"].tolist() == ["Name", "3"]
    assert not len(trace.gaps)


def test_a_backward_inside_of_a_transform_is_left_out():
    def loss(x):
        return x.pow(2).sum()

    def each(x):
        with torch.enable_grad():
            return torch.func.grad(loss)(x)

    with modtrace.trace(values=(0, 99), nan=True) as trace:
        torch.func.vmap(each)(torch.ones(3, 4))
        nn.Identity()(torch.ones(1))
    assert not trace.gaps["reason"].str.contains("from here on").any()
    assert rows_of(trace, kind="output")["maximum"].tolist() == [1.0]


def test_a_structure_that_holds_itself_comes_to_an_end():
    ones = torch.ones(2)
    inner = [ones]
    inner.append(inner)
    places = [place for place, _ in tensors_of({"a": inner, "b": (ones, [ones])})]
    assert places[0] == "a.0"
    assert {"b.0", "b.1.0"} <= set(places)
    assert 3 <= len(places) < 100


@pytest.mark.parametrize(("steps_asked", "expected"), [("every 3", (0, 3)), ((2, 4), (2, 1))])
def test_the_trace_says_which_steps_were_asked_for(steps_asked, expected):
    with modtrace.trace(values=steps_asked) as trace:
        steps(small(), 2)
    (row,) = trace._read().table("asked").to_pylist()
    assert (row["what"], row["first_step"], row["every"] or 1) == ("values", *expected)
