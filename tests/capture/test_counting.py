"""FLOPs and operations of each module, against torch's own counter and against counts made by hand."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import modtrace
from modtrace.analysis.flops import _flags as flags

aten = torch.ops.aten


def oracle(run):
    """torch's own counter around a run: FLOPs by the module's name below its root, "" for the root.

    The kernel of attention on a CPU is missing in it: it is given the formula of the others. That of the backward of a
    convolution takes no heed of groups: it is as much as forward for each gradient that is wanted.
    """
    count, count_backward = flop_counter.sdpa_flop_count, flop_counter.sdpa_backward_flop_count
    more = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
            count_backward(g, q, k, v)
        ),
        aten.convolution_backward: lambda grad, given, weight, *rest, **_: (
            sum(rest[-1][:2]) * 2 * math.prod(given if rest[4] else grad) * math.prod(weight[1:])
        ),
    }
    with flop_counter.FlopCounterMode(display=False, custom_mapping=more) as counter:
        run()
    found = {}
    for name, by_operation in counter.get_flop_counts().items():
        if name != "Global":
            found[name.partition(".")[2]] = sum(by_operation.values())
    return counter.get_total_flops(), found


class Attention(nn.Module):
    def __init__(self, width=16, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Products(nn.Module):
    """Products that no module makes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 5))

    def forward(self, x):
        y = torch.einsum("bi,ij->bj", x, self.weight)
        return torch.bmm(y[:, :, None], y[:, None, :]) + torch.matmul(y, y.t()).sum()


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4, stride=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.flat = nn.Conv1d(4, 3, 1)

    def forward(self, x):
        return self.flat(self.up(self.grouped(self.act(self.norm(self.plain(x))))).flatten(2))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.block = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6))
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(checkpoint(self.block, x, use_reentrant=self.reentrant))


CASES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 3)), (4, 6)),
    "attention": (lambda: nn.Sequential(Attention(), nn.LayerNorm(16), Attention()), (2, 5, 16)),
    "products": (Products, (3, 6)),
    "convolutions": (Convolutions, (2, 4, 9, 9)),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True), (2, 5, 16)),
    "checkpoint": (lambda: Checkpointed(reentrant=False), (4, 6)),
    "reentrant": (lambda: Checkpointed(reentrant=True), (4, 6)),
}


def trained(make, shape, steps, **options):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = torch.randn(shape, requires_grad=True)
    with modtrace.trace(**options) as t:
        for _ in range(steps):
            optimizer.zero_grad()
            model(given).sum().backward()
            optimizer.step()
    return t


@pytest.mark.parametrize("name", CASES)
def test_flops_of_a_step_are_those_of_torchs_counter(name):
    make, shape = CASES[name]
    torch.manual_seed(0)
    model, given = make(), torch.randn(CASES[name][1], requires_grad=True)
    total, _ = oracle(lambda: model(given).sum().backward())
    t = trained(make, shape, 3)
    assert t.steps["flops"].tolist() == [total] * 3
    assert total > 0
    assert t.steps["counted"].tolist() == [True, True, False]


@pytest.mark.parametrize("name", [name for name in CASES if "checkpoint" not in name and name != "reentrant"])
def test_flops_of_each_module_are_those_of_torchs_counter(name):
    make, shape = CASES[name]
    torch.manual_seed(0)
    model, given = make(), torch.randn(shape, requires_grad=True)
    _, forward = oracle(lambda: model(given))
    t = trained(make, shape, 2)
    ran = t.modules[t.modules["calls"] > 0]
    assert dict(zip(ran["name"], ran["forward_flops"], strict=True)) == {
        name: 2 * forward.get(name, 0) for name in ran["name"]
    }


def test_a_linear_and_its_backward_by_hand():
    t = trained(lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU()), (4, 6), 2)
    linear = t.modules.set_index("name").loc["0"]
    product = 2 * 4 * 6 * 12
    assert linear["forward_flops"] == 2 * product
    assert linear["backward_flops"] == 2 * 2 * product  # of the weight and of the input
    assert linear["operations"] == ["t", "addmm"]
    assert t.modules.set_index("name").loc["1", "forward_flops"] == 0
    assert t.calls[t.calls["kind"] == "backward"]["flops"].tolist() == [2 * product, 0, 2 * product] * 2


def test_attention_counts_two_products_forward_and_five_backward():
    class Bare(nn.Module):
        def forward(self, q):
            return F.scaled_dot_product_attention(q, q, q)

    given = torch.randn(2, 3, 5, 4, requires_grad=True)
    with modtrace.trace() as t:
        Bare()(given).sum().backward()
    product = 2 * 2 * 3 * 5 * 5 * 4
    assert t.modules["forward_flops"].tolist() == [2 * product]
    assert t.modules["backward_flops"].tolist() == [5 * product]


def test_recomputed_calls_count_once_more():
    t = trained(lambda: Checkpointed(reentrant=False), (4, 6), 2)
    rows = t.calls[t.calls["name"] == "block.0"]
    assert rows.groupby("phase", observed=True)["flops"].sum().to_dict() == {
        "forward": 2 * 576,
        "backward": 2 * 2 * 576,
        "recompute": 2 * 576,
    }


def test_another_signature_is_counted_anew_and_the_same_is_not():
    model = nn.Sequential(nn.Linear(4, 2))
    with modtrace.trace() as t:
        for size in (3, 5, 3, 5, 3):
            model(torch.randn(size, 4))
    roots = t.calls[t.calls["depth"] == 0]
    assert roots["flops"].tolist() == [2 * size * 8 for size in (3, 5, 3, 5, 3)]
    assert t.steps["counted"].tolist() == [True, True, True, True, False]


def test_keyword_arguments_are_a_part_of_the_signature():
    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, *, given):
            return self.linear(given)

    model = Keyed()
    with modtrace.trace() as t:
        for size in (3, 5, 3):
            model(given=torch.randn(size, 4))
    assert t.calls[t.calls["depth"] == 0]["flops"].tolist() == [48, 80, 48]


def test_a_training_step_is_counted_after_a_validation_of_the_same_sizes():
    model, given = nn.Linear(4, 2), torch.randn(3, 4)
    with modtrace.trace() as t:
        with torch.no_grad():
            model(given)
        for _ in range(2):
            model(given).sum().backward()
    assert t.modules["backward_flops"].tolist() == [2 * 48]


def test_what_was_never_counted_is_unknown():
    """Data that decide which part runs: the second call runs a part with inputs that no counted call had."""

    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)
            self.times = 0

        def forward(self, x):
            self.times += 1
            return self.linear(x.repeat(self.times, 1))

    model = Grows()
    with modtrace.trace() as t:
        for _ in range(4):
            model(torch.randn(3, 4))
    roots = t.calls[t.calls["depth"] == 0]
    assert roots["flops"].fillna(-1).tolist() == [48, 96, -1, 192]
    assert roots["flops_at_least"].tolist() == [48, 96, 0, 192]
    assert t.modules["forward_flops"].isna().all()


def test_a_fused_layer_is_unknown_in_eval_and_known_in_training():
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    given = torch.randn(2, 5, 16)
    with modtrace.trace() as t:
        layer(given)
        layer.eval()
        with torch.no_grad():
            layer(given)
    first, second = t.calls[t.calls["name"].eq("") & t.calls["kind"].eq("module")]["flops"].fillna(-1)
    assert first > 0
    assert second == -1
    with modtrace.trace() as t, torch.no_grad():
        layer(given)
    assert t.modules.set_index("name").loc["", "uncounted"] == ["_transformer_encoder_layer_fwd"]


def test_an_operation_of_the_users_own_is_named_as_uncounted():
    from torch import library

    @library.custom_op("modtrace_test::product", mutates_args=())
    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b

    class Own(nn.Module):
        def forward(self, x):
            return torch.ops.modtrace_test.product(x, x) + x

    with modtrace.trace() as t:
        for _ in range(2):
            Own()(torch.randn(3, 3))
    assert t.modules["uncounted"].tolist()[0] == ["modtrace_test.product"]
    assert t.modules["forward_flops"].isna().all()


def test_nothing_is_counted_when_not_asked_for():
    t = trained(CASES["mlp"][0], (4, 6), 2, flops=False)
    assert t.calls[t.calls["kind"].isin(["module", "backward"])]["flops"].isna().all()
    assert not t.steps["counted"].any()
    assert t.steps["flops"].isna().all()


def test_statistics_leave_counted_steps_out():
    model = nn.Linear(4, 2)
    with modtrace.trace() as t:
        for size in (3, 5, 3, 3, 5, 3):
            model(torch.randn(size, 4)).sum().backward()
    took = t.series("Linear")["forward_ns"]
    assert t.steps["counted"].tolist() == [True, True, True, False, True, True]
    assert t.modules["forward_max_ns"].tolist() == [took.iloc[3]]


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def test_modes_of_the_program_are_left_alone():
    model, given = nn.Sequential(nn.Linear(4, 2), nn.ReLU()), torch.randn(3, 4)

    def run():
        model.zero_grad()
        with Seen() as outer:
            model(given).sum().backward()
        return outer.seen

    plain = run()
    with modtrace.trace() as t:
        assert run() == plain
    assert t.modules["forward_flops"].isna().all()  # nothing is counted beside a mode of the program's

    class Inner(nn.Module):
        def forward(self, x):
            with Seen() as mode:
                y = model(x)
            self.seen = mode.seen
            return y

    inner = Inner()
    inner(given)
    before = inner.seen
    with modtrace.trace() as t:
        inner(given)
        assert torch._C._len_torch_dispatch_stack() == 0
    assert inner.seen == before
    assert t.calls["flops"].iloc[0] == 48


def test_no_code_sees_that_a_mode_is_active():
    from torch.utils._python_dispatch import is_in_torch_dispatch_mode

    asked = []

    class Asks(nn.Module):
        def forward(self, x):
            asked.append(is_in_torch_dispatch_mode())
            return x + 1

    with modtrace.trace() as t:
        Asks()(torch.randn(2))
    assert asked == [False]
    assert t.modules["operations"].tolist() == [["add"]]


class Stops(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        y = self.linear(x)
        if self.error is not None:
            raise self.error
        return y


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_a_call_that_does_not_return_counts_nothing_and_leaves_no_mode(error):
    model, given = Stops(error), torch.randn(3, 4)
    with modtrace.trace() as t:
        with pytest.raises(type(error)):
            model(given)
        model.error = None
        model(given)
        assert torch._C._len_torch_dispatch_stack() == 0
        model(given[:2])
    assert torch._C._len_torch_dispatch_stack() == 0
    assert (
        t.calls[t.calls["status"] == "ok"].groupby("inputs", observed=True)["flops"].max()["f32[2,4]"] == 32
    )


def test_no_mode_is_left_when_a_trace_ends_inside_a_call():
    recording = modtrace.trace()

    class Ends(nn.Module):
        def forward(self, x):
            x = x + 1
            recording.__exit__(None, None, None)
            assert torch._C._len_torch_dispatch_stack() == 0
            return x + 1

    recording.__enter__()
    Ends()(torch.randn(2))
    assert recording.calls["status"].tolist() == ["unfinished"]


@pytest.mark.parametrize("where", ["operation", "keywords_key", "crossing", "Unit"])
def test_a_fault_while_counting_ends_the_counting_alone(monkeypatch, where):
    from modtrace.capture.mechanisms import operation_counting as counting

    def fails(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(counting, where, fails)
    model, given = nn.Linear(4, 2), torch.randn(3, 4)
    expected = model(given)
    with modtrace.trace() as t:
        assert torch.equal(model(input=given), expected)
        assert torch.equal(model(given), expected)
    assert torch._C._len_torch_dispatch_stack() == 0
    assert "not counted" in t.summary()
    assert "ZeroDivisionError" in t.summary()
    assert t.calls["status"].tolist() == ["ok", "ok"]
    assert t.calls["flops"].isna().all()


def test_calls_on_other_threads_are_looked_up():
    import threading

    model, given = nn.Linear(4, 2), torch.randn(3, 4)
    with modtrace.trace() as t:
        model(given)
        thread = threading.Thread(target=lambda: model(given))
        thread.start()
        thread.join()
    assert t.calls["flops"].tolist() == [48, 48]
    assert t.steps["counted"].tolist() == [True, False]


def test_models_that_run_on_other_threads_only_are_told_of():
    import threading

    both, other, given = nn.Linear(4, 2), nn.Linear(4, 3), torch.randn(3, 4)
    with modtrace.trace() as t:
        both(given)
        thread = threading.Thread(target=lambda: (both(given), other(given), other(given)))
        thread.start()
        thread.join()
    reasons = [reason for reason in t.gaps["reason"] if "FLOPs" in reason]
    assert reasons == ["FLOPs were not counted: 1 root module ran on other threads only"]
    assert t.calls["flops"].isna().tolist() == [False, False, True, True]


def within(make):
    def run(call):
        with make():
            call()

    return run


@pytest.mark.parametrize(
    ("around", "options", "told"),
    [
        (within(torch.profiler.profile), {}, "while torch's profiler did"),
        (lambda call: call(), {"memory": "0:9"}, "while torch's profiler did"),
        (within(lambda: flop_counter.FlopCounterMode(display=False)), {}, "in a dispatch mode"),
        (lambda call: torch.vmap(lambda _: call())(torch.zeros(2)), {}, "inside transforms of torch.func"),
    ],
    ids=["profiler", "memory", "mode", "transform"],
)
def test_models_that_could_not_be_counted_are_told_of(around, options, told):
    model, given = nn.Linear(4, 2), torch.randn(3, 4)
    with modtrace.trace(**options) as t:
        around(lambda: model(given))
    reasons = [reason for reason in t.gaps["reason"] if "FLOPs" in reason]
    assert len(reasons) == 1
    assert reasons[0].startswith("FLOPs were not counted: 1 root module ran " + told)
    assert t.calls["flops"].isna().all()


def test_a_model_that_a_trace_around_counts_is_told_of():
    class Outer(nn.Module):
        def forward(self, x):
            with modtrace.trace() as self.inner:
                return model(x)

    model, outer, given = nn.Linear(4, 2), Outer(), torch.randn(3, 4)
    with modtrace.trace() as t:
        outer(given)
    assert t.calls["flops"].tolist() == [48, 48]
    assert outer.inner.calls["flops"].isna().all()
    assert ["in a dispatch mode" in reason for reason in outer.inner.gaps["reason"]] == [True]


def test_only_so_many_kinds_of_inputs_are_counted_at_any_price(monkeypatch):
    from modtrace.capture.mechanisms import operation_counting as counting

    monkeypatch.setattr(counting, "SHARE", 0.0)
    model = nn.Linear(4, 2)
    with modtrace.trace() as t:
        for size in range(1, 9):
            model(torch.randn(size, 4))
    assert t.steps["counted"].sum() == counting.FIRST
    assert t.calls["flops"].isna().sum() == 8 - counting.FIRST


def test_a_compiled_region_is_unknown_and_compiles_as_it_would():
    script = """
        import torch, modtrace
        from torch import nn
        graphs = []
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(4, 4)
                self.b = torch.compile(nn.Linear(4, 4), backend=BACKEND)
            def forward(self, x):
                return self.b(self.a(x))
        net = Net()
        with modtrace.trace() as t:
            for _ in range(3):
                net(torch.ones(2, 4)).sum().backward()
        net(torch.ones(2, 4))
        print(len(graphs), torch._dynamo.utils.counters["stats"]["unique_graphs"])
        print(t.modules["forward_flops"].fillna(-1).tolist()[:3])
    """
    for backend, graphs in (("backend", 1), ("'aot_eager'", 0)):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script).replace("BACKEND", backend)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines() == [f"{graphs} 1", "[-1, 192, -1]"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_as_their_products_do(kind):
    """torch's fused kernel of a CPU beside the products that it stands for."""
    given = torch.randn(5, 3, 6, requires_grad=True)

    def run(**options):
        model = kind(6, 7, 2, bidirectional=True)
        with warnings.catch_warnings(), modtrace.trace() as t:
            warnings.simplefilter("ignore")  # torch's own, about accelerators that are not there
            with torch.backends.mkldnn.flags(**options):
                model(given)[0].sum().backward()
        return t.modules[["forward_flops", "backward_flops"]].iloc[0].tolist()

    forward = 2 * 5 * 3 * gates(kind) * 7 * ((6 + 7) + (14 + 7)) * 2
    assert run(enabled=False)[0] == forward
    fused = run(enabled=True)
    assert fused[0] == forward
    assert kind is not nn.LSTM or fused[1] == 2 * forward  # torch fuses the backward of no other


def gates(kind):
    return {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]


def test_the_formula_of_cudas_recurrent_kernel():
    from modtrace.capture.mechanisms.flop_formulas import _recurrent

    weights = [(28, 6), (28, 7), (28,), (28,)]
    assert _recurrent((5, 3, 6), weights, 4, None, (1, 3, 7)) == 2 * 5 * 3 * 28 * 13
    assert _recurrent((15, 6), weights, 4, None, (1, 3, 7)) == 2 * 15 * 28 * 13  # packed


def test_a_criterion_made_in_every_forward_is_known_by_the_first():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x, target):
            return nn.CrossEntropyLoss()(self.linear(x), target)

    model, given = Net(), (torch.ones(2, 4), torch.tensor([0, 2]))
    with modtrace.trace() as t:
        for _ in range(3):
            model(*given).backward()
    assert t.steps["flops"].tolist() == [3 * 48 - 48] * 3  # the input needs no gradient


def test_nothing_is_counted_while_the_program_profiles():
    """torch's profiler would show each operation twice: as it was called, and as the mode called it on."""
    model, given = nn.Linear(4, 4), torch.ones(2, 4)
    with modtrace.trace() as t:
        with torch.profiler.profile() as profiler:
            model(given)
        model(given)
    assert sum(event.key == "aten::addmm" for event in profiler.events()) == 1
    assert t.steps["counted"].tolist() == [False, True]


class Applied(nn.Module):
    """Multiplies by its weight as often as `times` says for each call: 2,048 FLOPs each time."""

    def __init__(self, times):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16))
        self.times = times
        self.calls = 0

    def forward(self, x, *given, **named):
        self.calls += 1
        for _ in range(self.times(self.calls, *given, **named)):
            x = x @ self.weight
        return x


EACH = 2 * 4 * 16 * 16


def right_or_null(t, times):
    """Steps whose FLOPs are known, every one of which is right; where they are not, nothing is claimed."""
    steps = t.steps
    assert steps["flops"].notna().any()
    for found, least, counted, count in zip(
        steps["flops"], steps["flops_at_least"], steps["counted"], times, strict=True
    ):
        assert found is pd.NA or found == count * EACH
        assert found is not pd.NA or not counted
        assert least <= count * EACH
    return steps["flops"].notna().tolist()


def test_calls_are_counted_again_at_powers_of_two():
    model, given = nn.Linear(4, 2), torch.randn(3, 4)
    with modtrace.trace() as t:
        for _ in range(40):
            model(given).sum().backward()
    assert np.flatnonzero(t.steps["counted"]).tolist() == [0, 1, 3, 7, 15, 31]
    assert t.steps["flops"].tolist() == [2 * 48] * 40


def test_state_that_changes_what_is_computed():
    x = torch.randn(4, 16)
    model = Applied(lambda calls: calls)
    with modtrace.trace() as t:
        for _ in range(6):
            model(x)
    assert right_or_null(t, range(1, 7)) == [True, True, False, True, False, False]
    assert "at least 0 FLOP, without Applied" in t.summary()


def test_state_that_changes_late_makes_what_was_not_counted_unknown():
    x = torch.randn(4, 16)
    model = Applied(lambda calls: 1 if calls < 6 else 2)
    with modtrace.trace() as t:
        for _ in range(9):
            model(x)
    times = [1] * 5 + [2] * 4
    assert right_or_null(t, times) == [True, True, False, True, False, False, False, True, False]


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4, 1, 2, 3, 4],
        [True, False, True, True, False],
        [1.0, 2.5, 1.0, 3.0],
        ["a", "bb", "ccc", "a"],
        [None, 2, None],
    ],
)
def test_numbers_among_the_arguments_decide(values, named, inner):
    def times(calls, n):
        return len(n) if type(n) is str else int(n or 0)

    model, x = Applied(times), torch.randn(4, 16)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.applied = model

        def forward(self, x, n):
            return self.applied(x, n=n) if named else self.applied(x, n)

    root = Outer() if inner else model
    with modtrace.trace() as t:
        for n in values:
            if named:
                root(x, n=n)
            else:
                root(x, n)
    assert all(right_or_null(t, [times(0, n) for n in values]))
    kinds = {
        "None" if n is None else f"str({len(n)})" if type(n) is str else type(n).__name__ for n in values
    }
    prefix = "n=" if named else ""
    assert set(t.calls["inputs"].dropna()) == {f"f32[4,16], {prefix}{kind}" for kind in kinds}


class Cfg:
    """An object that cannot be looked into."""

    __slots__ = ("n",)

    def __init__(self, n):
        self.n = n


class Open:
    def __init__(self, n):
        self.inside = {"n": [n]}


def test_an_object_that_is_data_is_looked_into_and_another_is_not():
    x = torch.randn(4, 16)
    model = Applied(lambda calls, c: c.inside["n"][0] if type(c) is Open else c.n)
    with modtrace.trace() as t:
        for n in (1, 2, 1, 2, 3):
            model(x, Open(n))
    assert all(right_or_null(t, (1, 2, 1, 2, 3)))
    with modtrace.trace() as t:
        for n in (1, 1, 1, 1, 2):
            model(x, Cfg(n))
    assert right_or_null(t, (1, 1, 1, 1, 2)) == [True, True, False, True, False]


def test_no_code_of_an_object_runs_when_it_is_looked_into():
    ran = []

    class Shouts:
        def __init__(self):
            self.n = 1

        def __getattribute__(self, name):
            ran.append(name)
            return object.__getattribute__(self, name)

        def __eq__(self, other):
            ran.append("eq")
            return True

        __hash__ = None

    shouts = Shouts()
    ran.clear()
    with modtrace.trace():
        Applied(lambda calls, c: 1)(torch.randn(4, 16), shouts)
    assert ran == []


def test_chance_that_decides_is_never_looked_up():
    class Drop(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                if torch.rand(()) < 0.7:
                    x = x @ layer.weight
            return x

    for seed in range(8):
        x, model = torch.randn(4, 16), Drop()
        torch.manual_seed(seed)
        times = [sum(bool(torch.rand(()) < 0.7) for _ in model.layers) for _ in range(7)]
        torch.manual_seed(seed)
        with modtrace.trace() as t:
            for _ in range(7):
                model(x)
        right_or_null(t, times)


def test_a_dropout_and_a_value_that_is_read_leave_the_work_known():
    class Checks(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 16))

        def forward(self, x):
            x = F.dropout(x, 0.5)
            assert torch.isfinite(x).all().item()
            return x @ self.weight

    x, model = torch.randn(8, 16), Checks()
    with modtrace.trace() as t:
        for _ in range(3):
            model(x)
    assert t.steps["flops"].tolist() == [2 * EACH] * 3


def test_layers_that_chance_leaves_out_are_known_where_they_are_modules():
    class Drop(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                if torch.rand(()) < 0.7:
                    x = layer(x)
            return x

    x, model = torch.randn(4, 16), Drop()
    with modtrace.trace() as t:
        for _ in range(9):
            model(x)
    calls = t.calls[t.calls["type"] == "Linear"].groupby("step").size().reindex(range(9), fill_value=0)
    assert t.steps["flops"].tolist() == (calls * EACH).tolist()


def test_parameters_that_are_trained_later_change_the_backward():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight.requires_grad_(False)
    given, product = torch.randn(3, 4), 2 * 3 * 4 * 4
    with modtrace.trace() as t:
        for step in range(12):
            if step == 9:
                model[1].weight.requires_grad_(True)
            model(given).sum().backward()
    true = [2 * product + 2 * product] * 9 + [2 * product + 3 * product] * 3
    assert t.steps["flops"].notna()[[0, 1, 3, 7, 9, 10]].all()
    for found, right in zip(t.steps["flops"], true, strict=True):
        assert found is pd.NA or found == right


def test_modules_made_in_forward_are_told_by_class_and_place():
    class Act(nn.Module):
        def __init__(self, weight=None):
            super().__init__()
            self.product = weight

        def forward(self, x):
            return x if self.product is None else x @ self.product

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.weight = torch.randn(8, 8)

        def forward(self, x):
            x = Act()(self.a(x))
            return Act(self.weight)(nn.Softmax(-1)(x))

    net = Net()
    with modtrace.trace() as t:
        for _ in range(7):
            net(torch.randn(2, 8)).sum().backward()
    linear, product = 2 * 2 * 8 * 8, 2 * 2 * 8 * 8
    assert t.steps["flops"].tolist() == [2 * linear + 2 * product] * 7
    own = t.calls[t.calls["type"].eq("Act") & t.calls["kind"].eq("module")]["flops"]
    assert own.tolist() == [0, product] * 7


def test_modules_made_in_one_line_of_a_forward_are_told_by_their_order():
    """They have one number, since each dies before the next is made."""

    class Act(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weights = () if weight is None else (weight,)

        def forward(self, x):
            return x @ self.weights[0] if self.weights else x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.weight = nn.Linear(8, 8), torch.randn(8, 8)

        def forward(self, x):
            x = self.a(x)
            for weight in (None, self.weight, None):
                x = Act(weight)(x)
            return x

    net = Net()
    with modtrace.trace() as t:
        for _ in range(7):
            net(torch.randn(2, 8))
    own = t.calls[t.calls["type"].eq("Act")]
    assert own["module_id"].nunique() == 1
    assert own["flops"].tolist() == [0, 2 * 2 * 8 * 8, 0] * 7


def test_an_operation_without_a_formula_leaves_a_lower_bound_everywhere(tmp_path):
    from torch import library

    @library.custom_op("modtrace_bound::nms", mutates_args=())
    def nms(boxes: torch.Tensor) -> torch.Tensor:
        return boxes.sum(1)

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return torch.ops.modtrace_bound.nms(self.head(x))

    model, given, product = Detector(), torch.randn(100, 4), 2 * 100 * 4 * 4
    with torch.no_grad(), modtrace.trace() as t:
        for _ in range(5):
            model(given)
    assert "at least 3.20 kFLOP, without nms" in t.summary()
    assert t.steps["flops"].isna().all()
    assert t.steps["flops_at_least"].tolist() == [product] * 5
    assert t.steps["uncounted"].tolist() == [["modtrace_bound.nms"]] * 5
    modules = t.modules.set_index("name")
    assert modules["forward_flops"].fillna(-1).tolist() == [-1, 5 * product]
    assert modules["forward_flops_at_least"].tolist() == [5 * product] * 2
    assert modules["backward_flops_at_least"].isna().all()
    roots = t.calls[t.calls["name"] == ""]
    assert roots["flops"].isna().all()
    assert roots["flops_at_least"].tolist() == [product] * 5
    assert t.series("Detector")["flops_at_least"].tolist() == [product] * 5
    t.to_chrome(tmp_path / "a.json")
    assert '"flops_at_least":3200' in (tmp_path / "a.json").read_text()


def test_what_is_made_of_other_operations_is_known_in_inference_mode():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.conv = nn.Linear(4, 6), nn.Conv1d(1, 1, 3)

        def forward(self, x):
            return torch.einsum("bi,bj->ij", self.conv(self.linear(x)[:, None])[:, 0], x)

    model, given = Net(), torch.randn(3, 4)
    expected = model(given)
    with torch.inference_mode(), modtrace.trace() as t:
        assert torch.equal(model(given), expected)
    assert t.steps["flops"].tolist() == [2 * 3 * 4 * 6 + 2 * 3 * 4 * 3 + 2 * 3 * 4 * 4]


def test_a_flag_of_an_older_trace_is_set():
    """A column that a trace does not have is null; what may have been counted is taken to have been."""
    table = pa.table({"counted": pa.array([True, False, None])})
    assert flags(table, "counted").tolist() == [True, False, True]
