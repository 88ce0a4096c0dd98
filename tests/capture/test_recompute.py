"""What checkpoints compute again: a row below the backward of the block, and in no module's backward.

The oracles are counts by hand (the backward of a Linear takes two products of the size of its forward), torch's
FlopCounterMode, and the order in which the modules really ran.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.utils import checkpoint as torch_checkpoint
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, checkpoint_sequential
from torch.utils.flop_counter import FlopCounterMode

import modtrace

STEPS = 3


class Block(nn.Module):
    """Three leaves in a checkpointed lambda; the inputs have three dimensions, so a view runs before each product."""

    def __init__(self, **how):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 8)
        self.how = how

    def forward(self, x):
        return checkpoint(lambda x: self.c(self.b(self.a(x).relu()).relu()), x, **self.how)


class Residual(nn.Module):
    """Adds before the product, so the backward of a block has begun when its checkpoint computes again."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(self.act(self.up(x)))


class Composite(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.first, self.second = Residual(), Residual()
        self.how = how

    def forward(self, x):
        return checkpoint(lambda x: self.second(self.first(x)), x, **self.how)


class OfModules(nn.Module):
    """The checkpoint is of a block, and of a leaf, as a whole."""

    def __init__(self, **how):
        super().__init__()
        self.block, self.leaf = Residual(), nn.Linear(8, 8)
        self.how = how

    def forward(self, x):
        return checkpoint(self.leaf, checkpoint(self.block, x, **self.how), **self.how)


class Frozen(nn.Module):
    """What runs first makes no graph."""

    def __init__(self, **how):
        super().__init__()
        self.frozen, self.drop, self.trained = nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.how = how

    def forward(self, x):
        return x + checkpoint(lambda x: self.trained(self.drop(self.frozen(x.detach()))), x, **self.how)


class Function(nn.Module):
    """No module is called in the checkpoint."""

    def __init__(self, **how):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.how = how

    def forward(self, x):
        return checkpoint(lambda x: (x @ self.weight).relu() @ self.weight, x, **self.how)


class Nested(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.inner, self.last = Block(**how), nn.Linear(8, 8)
        self.how = how

    def forward(self, x):
        return checkpoint(lambda x: self.last(self.inner(x)), x, **self.how)


KINDS = (Block, Composite, OfModules, Frozen, Function, Nested)
HOW = {
    "again": {"use_reentrant": False},
    "reentrant": {"use_reentrant": True},
    "to the end": {"use_reentrant": False, "early_stop": False},
    "without rng": {"use_reentrant": False, "preserve_rng_state": False},
}


def train(model, given, steps=STEPS, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace(**options) as t:
        for _ in range(steps):
            optimizer.zero_grad()
            model(given).sum().backward()
            optimizer.step()
    assert not t._tracer.gaps
    return t


def make(kind, how):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), kind(**how), kind(**how))


def backward_per_forward(t):
    """Backward FLOPs over forward FLOPs of the modules that have any, but for what holds all of them."""
    modules = t.modules[(t.modules["forward_flops"].fillna(1) > 0) & (t.modules["name"] != "")]
    assert modules["forward_flops"].notna().all()
    share = (modules["backward_flops"] / modules["forward_flops"]).fillna(0.0)
    return dict(zip(modules["name"], share.astype(float), strict=True))


def owners(t):
    """(module made again, name of the module whose backward it is below) of the outermost calls made again."""
    calls = t.calls
    found = set()
    again = calls[(calls["phase"] == "recompute") & (calls["kind"] == "module")]
    for _, row in again.iterrows():
        above = calls.loc[row["parent"]]
        if above["kind"] == "module":
            continue
        assert (above["kind"], above["name"]) == ("phase", "recompute")
        around = calls.loc[above["parent"]]
        found.add((row["name"], around["name"] if around["kind"] == "backward" else None))
    return found


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_flops_of_backward_are_its_own(kind, how):
    model = make(kind, HOW[how])
    t = train(model, torch.randn(2, 3, 8))
    expected = dict.fromkeys(backward_per_forward(t), 2.0)
    # The input of the first needs no gradient; the frozen ones are not trained.
    expected |= {name: 0.0 for name in expected if name.endswith("frozen")} | {"0": 1.0}
    expected |= {name: 1.0 for name in expected if name.endswith("trained")}
    if kind is Frozen:
        expected |= {"1": 0.5, "2": 0.5}
    assert backward_per_forward(t) == expected


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_hold_all_that_was_computed(kind, how):
    model, given = make(kind, HOW[how]), torch.randn(2, 3, 8)
    t = train(model, given)
    with FlopCounterMode(display=False) as counter:
        model(given).sum().backward()
    assert t.steps["flops"].tolist() == [counter.get_total_flops()] * STEPS


BELOW = {
    Block: {"1.a": "1", "1.b": "1", "1.c": "1"},
    Composite: {"1.first": "1", "1.second": "1"},
    OfModules: {"1.block": "1.block", "1.leaf": "1"},
    Frozen: {"1.frozen": "1", "1.drop": "1", "1.trained": "1"},
    Function: {},
}


@pytest.mark.parametrize("how", ["again", "to the end", "without rng"])
@pytest.mark.parametrize("kind", BELOW)
def test_it_hangs_below_the_backward_of_the_block(kind, how):
    t = train(make(kind, HOW[how]), torch.randn(2, 3, 8))
    second = {name.replace("1", "2", 1): of.replace("1", "2", 1) for name, of in BELOW[kind].items()}
    assert owners(t) == {*BELOW[kind].items(), *second.items()}
    rows = t.calls[(t.calls["kind"] == "phase") & (t.calls["name"] == "recompute")]
    assert len(rows) == STEPS * (4 if kind is OfModules else 2)
    assert (t.calls.loc[rows["parent"], "kind"] == "backward").all()
    assert (rows["status"] == "ok").all()


def test_it_hangs_below_the_block_with_reentry():
    t = train(make(Block, HOW["reentrant"]), torch.randn(2, 3, 8))
    assert owners(t) == {(f"{n}.{leaf}", str(n)) for n in (1, 2) for leaf in "abc"}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_times_are_in_one_place_only(kind, how):
    t = train(make(kind, HOW[how]), torch.randn(2, 3, 8))
    modules, calls = t.modules, t.calls
    parts = modules["forward_total_ns"] + modules["backward_total_ns"].fillna(0)
    assert (modules["total_ns"] == parts + modules["recompute_ns"].fillna(0)).all()
    for row in calls.itertuples():
        own = calls.loc[row.Index : row.last_call]
        assert own["self_ns"].sum() + own["tracer_ns"].sum() == row.duration_ns, (row.kind, row.name)
        inner = own[own["parent"] == row.Index]
        assert (inner["start_ns"] >= row.start_ns).all()
        assert (inner["start_ns"] + inner["duration_ns"] <= row.start_ns + row.duration_ns).all()
    # Leaves have nothing below their backward.
    leaves = {name for name in modules["name"] if not any(n.startswith(f"{name}.") for n in modules["name"])}
    if kind is not Function:
        backward = calls[(calls["kind"] == "backward") & calls["name"].isin(leaves - {""})]
        assert len(backward)
        assert (backward["last_call"] == backward.index).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_of_a_leaf_begins_anew_behind_it(kind):
    """At most two rows a call, in order, and what is computed again stands between them."""
    t = train(make(kind, HOW["again"]), torch.randn(2, 3, 8))
    calls = t.calls
    for _, rows in calls[calls["kind"] == "backward"].groupby("forward"):
        assert len(rows) <= (4 if kind is Nested else 2)
        for before, after in zip(rows.index[:-1], rows.index[1:], strict=True):
            between = calls.loc[before + 1 : after - 1]
            assert ((between["kind"] == "phase") & (between["name"] == "recompute")).any()


def test_a_row_that_was_only_opened_is_taken_back():
    """A Linear of two dimensions begins with its product: nothing of it has run when the checkpoint computes again."""
    t = train(make(Block, HOW["again"]), torch.randn(4, 8))
    backward = t.calls[t.calls["kind"] == "backward"]
    assert not backward["forward"].duplicated().any()
    assert backward_per_forward(t) == {name: 1.0 if name == "0" else 2.0 for name in backward_per_forward(t)}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_sequential_in_segments(use_reentrant):
    torch.manual_seed(0)
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6)])
    given = torch.randn(2, 3, 8, requires_grad=True)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            return checkpoint_sequential(self.layers, 3, x, use_reentrant=use_reentrant)

    for model in (Net(), None):
        optimizer = torch.optim.SGD(layers.parameters(), 0.01)
        with modtrace.trace() as t:
            for _ in range(STEPS):
                run = model or functools.partial(
                    checkpoint_sequential, layers, 3, use_reentrant=use_reentrant
                )
                run(given).sum().backward()
                optimizer.step()
        linears = t.modules[t.modules["type"] == "Linear"]
        assert (linears["backward_flops"] == 2 * linears["forward_flops"]).all()
        assert {of for _, of in owners(t)} == ({""} if model is not None else {None})
        assert linears["recompute_calls"].sum() == STEPS * 4  # the last segment is not checkpointed


def test_selective_checkpoints():
    """Products are kept, so nothing is multiplied again; what stands around them is."""

    def policy(_, operation, *args, **kwargs):
        products = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
        return CheckpointPolicy.MUST_SAVE if operation in products else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(torch_checkpoint.create_selective_checkpoint_contexts, policy)
    model, given = make(Block, {"use_reentrant": False, "context_fn": contexts}), torch.randn(4, 8)
    t = train(model, given)
    with FlopCounterMode(display=False) as counter:
        model(given).sum().backward()
    modules = t.modules.set_index("name")
    assert owners(t) == {(f"{n}.{leaf}", str(n)) for n in (1, 2) for leaf in "abc"}
    known = modules["backward_flops"].notna() & (modules["forward_flops"] > 0) & (modules.index != "")
    assert (
        (modules["backward_flops"] / modules["forward_flops"])[known & (modules.index != "0")].eq(2.0).all()
    )
    assert counter.get_total_flops() > 0


def test_two_backwards_of_one_graph():
    model = make(Block, HOW["again"])
    with modtrace.trace() as t:
        loss = model(torch.randn(2, 3, 8)).sum()
        loss.backward(retain_graph=True)
        loss.backward()
    rows = t.calls[(t.calls["kind"] == "phase") & (t.calls["name"] == "recompute")]
    assert len(rows) == 4
    assert owners(t) == {(f"{n}.{leaf}", str(n)) for n in (1, 2) for leaf in "abc"}


def test_an_error_while_computing_again():
    class Fails(Block):
        times = 0

        def forward(self, x):
            def run(x):
                Fails.times += 1
                if Fails.times > 1:
                    raise ZeroDivisionError
                return self.c(self.b(self.a(x)))

            return checkpoint(run, x, use_reentrant=False)

    model = Fails()
    with modtrace.trace() as t, pytest.raises(ZeroDivisionError):
        model(torch.randn(2, 3, 8)).sum().backward()
    row = t.calls[(t.calls["kind"] == "phase") & (t.calls["name"] == "recompute")].iloc[0]
    assert row["status"] == "raised"
    Fails.times = 0
    with modtrace.trace() as t:
        model(torch.randn(2, 3, 8))  # the next trace is whole
    assert (t.calls["status"] == "ok").all()


def test_results_and_torch_are_left_as_they_were():
    names = ("_checkpoint_hook", "_recomputation_hook", "detach_variable")
    before = [getattr(torch_checkpoint, name) for name in names]
    results = []
    for traced in (False, True):
        for kind in KINDS:
            model = make(kind, HOW["again"])
            torch.manual_seed(1)
            if traced:
                train(model, torch.randn(2, 3, 8))
            else:
                optimizer = torch.optim.SGD(model.parameters(), 0.01)
                given = torch.randn(2, 3, 8)
                for _ in range(STEPS):
                    optimizer.zero_grad()
                    model(given).sum().backward()
                    optimizer.step()
            results.append([p.detach().clone() for p in model.parameters()])
    for one, other in zip(results[: len(KINDS)], results[len(KINDS) :], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert [getattr(torch_checkpoint, name) for name in names] == before


def test_functions_inside_it():
    t = train(make(Block, HOW["again"]), torch.randn(2, 3, 8), functions=True)
    calls = t.calls
    inside = calls[(calls["kind"] == "function") & (calls["phase"] == "recompute")]
    assert len(inside)
    assert owners(t) == {(f"{n}.{leaf}", str(n)) for n in (1, 2) for leaf in "abc"}


def test_the_gradient_checkpointing_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    model.train()
    ids = torch.randint(0, 50, (2, 8))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with modtrace.trace() as t:
        for _ in range(STEPS):
            model(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    modules = t.modules[t.modules["type"].isin(["Conv1D", "Linear"])]
    assert (modules["backward_flops"] == 2 * modules["forward_flops"]).all()
    assert {of for _, of in owners(t)} == {"transformer.h.0", "transformer.h.1"}
    assert all(name.startswith(of) for name, of in owners(t))
