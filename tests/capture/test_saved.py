"""What is kept for backward, against saved-tensor hooks in a plain run; and that looking at it changes nothing."""

from __future__ import annotations

import gc
import shutil
import threading
import warnings
import weakref

import pandas as pd
import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import modtrace
import modtrace.analysis.calls
import modtrace.analysis.timeline
from modtrace.analysis.saved_totals import most_kept
from modtrace.capture.mechanisms import saved_storages as saving
from modtrace.capture.torch_private import lookup
from modtrace.errors import TraceError
from modtrace.trace.reader import open_trace
from modtrace.trace.stream_reader import read_batches
from modtrace.trace.writer import Writer

FLOAT = 4


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.name = "an attribute of the program's"
        doubled = x * 2
        ctx.save_for_backward(x, doubled)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        _, doubled = ctx.saved_tensors
        return gradient * doubled


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)

    def forward(self, x):
        return Square.apply(self.first(x))


class Views(nn.Module):
    """Saves parts of one storage, and one tensor twice."""

    def __init__(self):
        super().__init__()
        self.wide, self.tall = nn.Linear(6, 12), nn.Linear(6, 2)

    def forward(self, x):
        left, right = self.wide(x).chunk(2, dim=1)
        mixed = left.sin() * right * left
        return self.tall(mixed).exp()


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(6, 5, num_layers=2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.cells(x.unsqueeze(1).expand(-1, 3, -1))[0][:, -1])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=True)

    def forward(self, x):
        return self.layer(x.unsqueeze(0)).squeeze(0)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x):
        return self.inner(self.inner(x))


class Indexing(nn.Module):
    """Lists of saved tensors, with nothing in some places."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 6)

    def forward(self, x):
        rows = self.table(torch.tensor([1, 2, 3]))
        return (
            x[:3, torch.tensor([0, 1])].sum() * torch.stack([rows, rows.cos()]).prod(0)[torch.tensor([0, 1])]
        )


MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)),
    "in place": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 2)
    ),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 3, 2, padding=1),
        nn.BatchNorm2d(3),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ),
    "lstm": Recurrent,
    "attention": Attending,
    "custom function": Custom,
    "views": Views,
    "twice": Twice,
    "indexing": Indexing,
}


def storages_of(model):
    return {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}


def told_by_hooks(model, given, loss):
    """Bytes of the storages that each module's own operations save, by hooks of torch's own, and of those outside.

    The module around an operation is known from hooks on the modules of the model.
    """
    own, seen, held = storages_of(model), set(), []
    inside, sizes = [], {}
    names = {module: name for name, module in model.named_modules()}
    handles = []

    def left(*_):
        inside.pop()

    for module in model.modules():
        handles.append(module.register_forward_pre_hook(lambda module, _: inside.append(names[module])))
        handles.append(module.register_forward_hook(left))

    def pack(tensor):
        storage = tensor.untyped_storage()
        held.append(tensor)
        if storage._cdata not in own and storage._cdata not in seen:
            seen.add(storage._cdata)
            place = inside[-1] if inside else None
            sizes[place] = sizes.get(place, 0) + storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = loss(model(given))
    for handle in handles:
        handle.remove()
    del result
    return sizes


def mean_square(output):
    return output.pow(2).mean()


def traced(model, given, loss=mean_square, **options):
    with modtrace.trace(**{"saved": "0:9", "flops": False, **options}) as t:
        loss(model(given)).backward()
    assert not t._tracer.gaps
    return t


def own_of(t):
    """Bytes that calls keep themselves, by name; None for outside of modules."""
    table = t._read().table("saved").to_pandas()
    place = modtrace.analysis.timeline.timeline(t._read()).place
    calls = t.calls
    sizes = {}
    for row in table.itertuples():
        call = calls.loc[place[row.call]]
        name = None if row.call == row.backward else call["name"]
        sizes[name] = sizes.get(name, 0) + row.saved_bytes
    return {name: size for name, size in sizes.items() if size}


@pytest.mark.parametrize("name", MODELS)
def test_what_hooks_of_torch_tell_in_a_plain_run(name):
    torch.manual_seed(0)
    model, given = MODELS[name](), torch.randn(4, 6, requires_grad=name == "indexing")
    expected = told_by_hooks(model, given, mean_square)
    t = traced(model, given)
    assert own_of(t) == expected
    kept = most_kept(t._read())
    assert kept.complete
    assert kept.saved_bytes == sum(expected.values()) > 0
    assert sum(one.saved_bytes for one in kept.keepers) == kept.saved_bytes
    phase = t.calls[(t.calls["kind"] == "phase") & (t.calls["name"] == "backward")]
    assert phase["saved_bytes"].tolist() == [kept.saved_bytes]


def test_calls_and_modules_have_what_is_inside_them():
    model, given = MODELS["in place"](), torch.randn(4, 6)
    t = traced(model, given)
    calls = t.calls[t.calls["kind"] == "module"].set_index("name")["saved_bytes"]
    rows = 4 * 8 * FLOAT
    assert calls.to_dict() == {
        "": 4 * 6 * FLOAT + 4 * rows + 2 * 8 * FLOAT,
        "0": 4 * 6 * FLOAT,  # its input
        "1": rows + 2 * 8 * FLOAT,  # its input, mean and variance; running ones are buffers
        "2": rows,  # its result, which is in the storage of the BatchNorm's
        "3": rows,  # the noise
        "4": rows,  # its input
    }
    modules = t.modules.set_index("name")["saved_bytes"]
    assert modules.to_dict() == calls.to_dict()


def test_a_module_called_twice_has_both_and_one_in_itself_once():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x, depth=2):
            return self.first(x).exp() if not depth else self(x.sin(), depth - 1)

    t = traced(Twice(), torch.randn(4, 6))
    root, inner = (t.modules.set_index("name")["saved_bytes"][name] for name in ("", "inner"))
    assert root == inner == 3 * 4 * 6 * FLOAT  # the input and the results of both, one the next's input
    t = traced(Nested(), torch.randn(4, 6, requires_grad=True))
    calls = t.calls[t.calls["kind"] == "module"]
    assert t.modules["saved_bytes"].iloc[0] == calls["saved_bytes"].iloc[0] == 4 * 4 * 6 * FLOAT


def test_only_the_steps_that_are_asked_for():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with modtrace.trace(saved="1:3") as t:
        for _ in range(5):
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    roots = t.calls[(t.calls["kind"] == "module") & (t.calls["name"] == "")]
    assert roots["saved_bytes"].notna().tolist() == [False, True, True, False, False]
    assert most_kept(t._read()).backwards == 2
    with modtrace.trace() as t:
        model(torch.ones(2, 4)).sum().backward()
    assert t.calls["saved_bytes"].isna().all()
    assert t._read().table("saved").num_rows == 0
    assert most_kept(t._read()) is None


def test_forward_without_backward_is_not_known():
    model = nn.Linear(4, 4)
    with modtrace.trace(saved="0:9") as t:
        model(torch.ones(2, 4))
        with torch.no_grad():
            model(torch.ones(2, 4))
    assert t.calls["saved_bytes"].isna().all()
    assert t.modules["saved_bytes"].isna().all()


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.before, self.after = nn.Linear(6, 6), nn.Linear(6, 6)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

    def forward(self, x):
        x = self.before(x).sin()
        return self.after(checkpoint(self.block, x, use_reentrant=self.reentrant))


def forward_and_again(t):
    calls = t.calls[t.calls["kind"] == "module"]
    again = calls["phase"] == "recompute"
    return calls[~again].set_index("name")["saved_bytes"], calls[again].set_index("name")["saved_bytes"]


def test_what_a_checkpoint_holds_is_not_counted():
    t = traced(Checkpointed(reentrant=False), torch.randn(4, 6))
    forward, _ = forward_and_again(t)
    size = 4 * 6 * FLOAT
    assert forward[["before", "after"]].to_dict() == {"before": size, "after": size}
    assert forward[["", "block", "block.0", "block.1"]].isna().all()
    modules = t.modules.set_index("name")["saved_bytes"]
    assert modules[["", "block", "block.0", "block.1"]].isna().all()
    kept = most_kept(t._read())
    assert kept.packed > 0
    assert not kept.complete
    assert {one.name for one in kept.keepers if one.packed} == {"block.0", "block.1"}


def test_a_checkpoint_that_runs_without_gradients_is_not_counted_until_it_is_made_again():
    t = traced(Checkpointed(reentrant=True), torch.randn(4, 6))
    forward, again = forward_and_again(t)
    size = 4 * 6 * FLOAT
    assert forward[["block", "block.0", "block.1"]].isna().all()
    assert forward[["before", "after"]].to_dict() == {"before": size, "after": size}
    assert forward[""] == 4 * size  # with what sin keeps and what the checkpoint itself does: its input
    assert again.to_dict() == {"block": 2 * size, "block.0": size, "block.1": size}
    assert most_kept(t._read()).backwards == 1  # that of the checkpoint is inside the other
    assert t.modules.set_index("name")["saved_bytes"][["block", "block.0"]].isna().all()


def test_hooks_of_the_program_run_as_often_as_without_us():
    def run(context):
        torch.manual_seed(0)
        log = []
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh())

        def note(word):
            def hook(tensor):
                log.append(word)
                return tensor

            return hook

        with context() as t, saved_tensors_hooks(note("pack"), note("unpack")):
            loss = model(torch.ones(4, 6)).sum()
            log.append("backward")
            loss.backward()
        return log, t

    plain, _ = run(lambda: modtrace.trace(flops=False))
    counted, t = run(lambda: modtrace.trace(flops=False, saved="0:9"))
    assert counted == plain
    assert "unpack" in plain
    assert t.calls["saved_bytes"].isna().all()
    assert most_kept(t._read()).packed == plain.count("pack")


def test_save_on_cpu_is_not_counted():
    model = nn.Linear(6, 6)
    with modtrace.trace(saved="0:9") as t, save_on_cpu():
        model(torch.ones(4, 6)).sum().backward()
    assert t.calls["saved_bytes"].isna().all()
    assert most_kept(t._read()).packed


def in_place(y, w):
    y[0].mul_(w)
    return y


def sparse(y, w):
    return torch.sparse.mm(torch.eye(4).to_sparse(), y)


class Wrapped(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args = [one.inner if isinstance(one, Wrapped) else one for one in args]
        return function(*args, **(kwargs or {}))


def wrapped(y, w):
    return y * Wrapped(torch.ones(4, 6))


@pytest.mark.parametrize(
    ("change", "name"), [(in_place, "CopySlices"), (sparse, "sparse_coo tensor"), (wrapped, "Wrapped")]
)
def test_what_cannot_be_counted_is_named(change, name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.weight = nn.Linear(6, 6), nn.Parameter(torch.ones(6))

        def forward(self, x):
            return change(self.first(x), self.weight)

    t = traced(Net(), torch.ones(4, 6), torch.sum)
    calls = t.calls[t.calls["kind"] == "module"].set_index("name")["saved_bytes"]
    assert calls[""] is pd.NA
    assert calls["first"] == 4 * 6 * FLOAT
    assert most_kept(t._read()).uncounted == (name,)


def test_backwards_of_one_graph():
    """Each backward has all that it needs; a call has the most of them."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 30)

        def forward(self, x):
            x = self.trunk(x).tanh()
            return self.a(x).exp(), self.b(x).exp()

    model = Heads()
    with modtrace.trace(saved="0:9", flops=False) as t:
        a, b = model(torch.ones(4, 6))
        a.sum().backward(retain_graph=True)
        b.sum().backward()
    size = 4 * 6 * FLOAT
    calls = t.calls[t.calls["kind"] == "module"].set_index("name")["saved_bytes"]
    assert calls.to_dict() == {"": 2 * size + 4 * 30 * FLOAT, "trunk": size, "a": 0, "b": 0}
    phases = t.calls[(t.calls["kind"] == "phase") & (t.calls["name"] == "backward")]["saved_bytes"].tolist()
    assert phases == [2 * size + 4 * 3 * FLOAT, 2 * size + 4 * 30 * FLOAT]


def test_a_graph_that_is_gone_is_the_error_it_was():
    def run(**options):
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        with modtrace.trace(**options):
            loss = model(torch.ones(4, 6)).sum()
            loss.backward()
            with pytest.raises(RuntimeError) as caught:
                loss.backward()
        return str(caught.value)

    assert run(saved="0:9") == run()


# nothing is changed -----------------------------------------------------------------------------------------------


def test_a_change_in_place_is_the_error_it_was():
    def run(**options):
        model = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid())
        with modtrace.trace(**options) as t:
            output = model(torch.ones(4, 6))
            loss = output.sum()
            output.data.zero_()  # not seen by autograd
            with torch.no_grad():
                output.zero_()
            with pytest.raises(RuntimeError) as caught:
                loss.backward()
        return str(caught.value), t

    plain, _ = run()
    found, t = run(saved="0:9")
    assert found == plain
    assert "modified by an inplace operation" in found
    assert not t._tracer.gaps


@pytest.mark.parametrize("name", [*MODELS, "checkpoint", "reentrant"])
def test_gradients_random_numbers_and_allocations_are_the_same(name):
    makers = {
        **MODELS,
        "checkpoint": lambda: Checkpointed(reentrant=False),
        "reentrant": lambda: Checkpointed(reentrant=True),
    }

    def run(**options):
        torch.manual_seed(0)
        model = makers[name]()
        optimizer = torch.optim.Adam(model.parameters())
        given = torch.randn(4, 6, requires_grad=name in ("indexing", "reentrant"))
        gc.collect()
        with modtrace.trace(flops=False, **options):
            mean_square(model(given)).backward()  # what torch makes once in a process
            with torch.autograd.profiler.profile(profile_memory=True) as profiler:
                mean_square(model(given)).backward()
                optimizer.step()
        events = []
        pending = list(profiler.kineto_results.experimental_event_tree())
        while pending:
            event = pending.pop()
            pending += event.children
            if str(event.tag).endswith("Allocation"):
                events.append((event.start_time_ns, int(event.extra_fields.alloc_size)))
        parts = [*model.parameters(), *(one.grad for one in model.parameters()), *model.buffers()]
        return (
            [part.detach().clone() for part in parts],
            torch.get_rng_state(),
            [size for _, size in sorted(events)],
        )

    run()
    plain, counted = run(), run(saved="0:9")
    assert all(torch.equal(a, b) for a, b in zip(plain[0], counted[0], strict=True))
    assert torch.equal(plain[1], counted[1])
    assert plain[2] == counted[2]
    assert plain[2]


@pytest.mark.parametrize("asked", [None, "0:9"])
def test_tensors_die_when_they_would_have(asked):
    """With the garbage collector off: nothing that is counted gets into a cycle."""
    gc.disable()
    try:
        model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), Custom())
        with modtrace.trace(saved=asked, flops=False):
            given = torch.ones(4, 6)
            middle = model[:2](given)
            result = model[2](middle)
            dying = [weakref.ref(one) for one in (given, middle, result)]
            storage = weakref.ref(middle.untyped_storage())
            loss = result.sum()
            del given, middle
            assert dying[0]() is not None  # a Linear keeps its input
            loss.backward(retain_graph=True)
            assert dying[0]() is not None
            loss.backward()
            assert dying[0]() is None
            del loss, result
            assert [one() for one in dying] == [None] * 3
            assert storage() is None
    finally:
        gc.enable()


def test_a_copy_on_write_is_not_made():
    class Net(nn.Module):
        def forward(self, x, y):
            return x * y

    lazy = torch._lazy_clone(torch.ones(4, 6))
    with modtrace.trace(saved="0:9", flops=False) as t:
        output = Net()(torch.ones(4, 6, requires_grad=True), lazy).sum()
        before = torch._C._is_cow_tensor(lazy)
        output.register_hook(lambda _: found.append(torch._C._is_cow_tensor(lazy)))
        found = []
        output.backward()
    assert (before, found) == (True, [True])
    assert t.calls["saved_bytes"].dropna().tolist() == [4 * 6 * FLOAT] * 2


# odd graphs -------------------------------------------------------------------------------------------------------


def test_double_backward_and_a_backward_inside_a_forward():
    class Penalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)

        def forward(self, x):
            y = self.first(x).tanh()
            (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            return y + gradient

    t = traced(Penalised(), torch.randn(4, 6, requires_grad=True))
    kept = most_kept(t._read())
    assert kept.backwards == 2
    assert kept.complete
    assert t.calls[t.calls["name"] == ""]["saved_bytes"].iloc[0] > 0


def test_another_thread():
    model, found = nn.Sequential(nn.Linear(6, 6), nn.Tanh()), []
    with modtrace.trace(saved="0:9") as t:
        threads = [
            threading.Thread(target=lambda: found.append(model(torch.ones(4, 6)).sum().backward()))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert len(found) == 2
    known = t.calls[(t.calls["kind"] == "module") & (t.calls["name"] == "0")]["saved_bytes"].dropna()
    assert set(known.tolist()) <= {4 * 6 * FLOAT}


def test_a_compiled_region():
    model = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid(), nn.Linear(6, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend="aot_eager")
        given = torch.randn(4, 6)
        compiled(given).sum().backward()
        with modtrace.trace(saved="0:9", flops=False) as t:
            compiled(given).sum().backward()
    torch._dynamo.reset()
    kept = most_kept(t._read())
    assert kept.complete
    assert (
        kept.saved_bytes == 2 * 4 * 6 * FLOAT
    )  # the input, and what the Sigmoid returned: both Linears share it


def test_a_fault_ends_counting_alone(monkeypatch):
    def broken(*_):
        raise IndexError("made up")

    monkeypatch.setattr(saving, "count", broken)
    model = nn.Linear(4, 4)
    with pytest.warns(RuntimeWarning, match="kept for backward") as caught, modtrace.trace(saved="0:9") as t:
        for _ in range(3):
            model(torch.ones(2, 4)).sum().backward()
    assert len(caught) == 1
    assert (t.calls["kind"] == "backward").sum() == 3
    assert t._read().table("gaps").column("reason").to_pylist() == [
        "what is kept for backward is not counted from here on: IndexError"
    ]


def test_a_torch_that_does_not_give_it_out(monkeypatch):
    absent, look_up = "torch._C._autograd.SavedTensor.data", lookup.look_up
    monkeypatch.setattr(lookup, "look_up", lambda path: look_up(path if path != absent else "torch.nothing"))
    with modtrace.trace(saved="0:9") as t:
        nn.Linear(4, 4)(torch.ones(2, 4)).sum().backward()
    assert t.calls["saved_bytes"].isna().all()
    assert absent in t._tracer.gaps[0]


# rows that somebody made up ---------------------------------------------------------------------------------------


def forged(tmp_path, **columns):
    """A trace whose table says something else in its first row."""
    path, writing = tmp_path / "t.mtrace", tmp_path / "writing"
    with modtrace.trace(path=path, saved="0:9") as t:
        nn.Linear(4, 4)(torch.ones(2, 4)).sum().backward()
    stream = path / "rank-0" / "saved.arrows"
    rows = next(read_batches(stream, "saved")).rows.slice(0, 1).to_pydict() | columns
    assert t.calls["saved_bytes"].notna().any()
    writing.mkdir()
    writer = Writer(writing)
    writer.append("saved", rows, at_ns=1)
    writer.close()
    shutil.copy(writing / "saved.arrows", stream)
    return path


@pytest.mark.parametrize("column", ["saved_bytes", "storages", "packed"])
@pytest.mark.parametrize("value", [-1, 1 << 60])
def test_impossible_rows(tmp_path, column, value):
    with pytest.raises(TraceError, match=column):
        open_trace(forged(tmp_path, **{column: [value]})).table("saved")


@pytest.mark.parametrize("column", ["call", "backward"])
def test_rows_of_calls_that_are_not_there(tmp_path, column):
    t = modtrace.load(forged(tmp_path, **{column: [1 << 30]}))
    assert t.calls["saved_bytes"].isna().all()
    assert t.modules["saved_bytes"].isna().all()


def test_a_backward_that_is_none(tmp_path):
    """Rows that say that a module call was the backward of itself are shown as they can be."""
    t = modtrace.load(forged(tmp_path, backward=[0], call=[0]))
    assert t.calls["saved_bytes"].notna().sum() <= 1
    assert "?" not in t.summary()
