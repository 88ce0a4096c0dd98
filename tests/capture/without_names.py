"""Records one program again and again, each time in a process whose torch lacks one more private name.

Run as a script with a part of the table of names. Prints one line of JSON a name: what was recorded, told and computed
without it; the first line is that of a torch that lacks nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import ClassVar

# What takes long to import is imported once: each name is removed in a fork of this process.
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch._dynamo.compiled_autograd
import torch.utils.flop_counter
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from tests.torture.oracle import Oracle

assert np, pd
assert pa


ASKS_FOR_GRAPHS = {"calls", "compiling"}
"""Parts whose names matter while torch makes a graph; that takes most of the time."""


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


class Logged(torch.Tensor):
    """Notes what it is asked for."""

    asked: ClassVar = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.asked.append(function.__name__)
        return super().__torch_function__(function, types, args, kwargs or {})


class Wrapped(torch.Tensor):
    """Runs its operations itself, and counts them."""

    count = 0

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        Wrapped.count += 1
        args = [arg.inner if isinstance(arg, Wrapped) else arg for arg in args]
        return function(*args, **(kwargs or {}))


class Same(nn.Module):
    def forward(self, x):
        return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.hooked = nn.Linear(4, 4)
        self.hooked.register_forward_hook(lambda module, args, output: output * 2)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.same = Same()

    def called_from_here(self, x):
        return self.hooked(x)

    def forward(self, x):
        x = self.called_from_here(self.first(x))
        x = checkpoint(self.block, x, use_reentrant=False)
        self.same(torch.zeros(2).as_subclass(Logged))
        self.same(Wrapped(torch.zeros(3)))
        return Square.apply(x)


class Traced(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x).relu()


class Asked(torch.overrides.TorchFunctionMode):
    """A function mode of the program's own: it sees what the program calls, and nothing else."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.asked.append(getattr(function, "__name__", "?"))
        return function(*args, **(kwargs or {}))


class Done(torch.utils._python_dispatch.TorchDispatchMode):
    """A dispatch mode of the program's own."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.done.append(str(function))
        return function(*args, **(kwargs or {}))


def train():
    """A short training; everything that it computed, bit for bit."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for (batch,) in DataLoader(TensorDataset(torch.rand(6, 4)), batch_size=2):
        optimizer.zero_grad()
        loss = net(batch).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item().hex())
    return {
        "losses": losses,
        "parameters": [[value.hex() for value in one.flatten().tolist()] for one in net.parameters()],
        "random": torch.rand(2).tolist(),
    }


def look():
    """Calls under modes of the program's own, inside vmap, and where nothing has a gradient."""
    torch.manual_seed(1)
    layer, given = nn.Linear(4, 4), torch.rand(3, 4)
    with Asked() as mode:
        layer(given)
    with Done() as operations, torch.no_grad():
        layer(given)
    mapped = torch.vmap(layer)(given)
    return {
        "asked": mode.asked,
        "done": operations.done,
        "mapped": mapped.tolist(),
        "logged": Logged.asked,
        "wrapped": Wrapped.count,
    }


def make_graphs():
    """The graphs that torch makes of a model."""
    torch.manual_seed(2)
    given = torch.rand(2, 4)
    traced = torch.jit.trace(Traced(), given)
    exported = torch.export.export(Traced(), (given,), strict=False)
    compiled = torch.compile(Traced(), backend="eager", fullgraph=True)(given)
    return {
        "fx": torch.fx.symbolic_trace(Traced()).code,
        "jit": str(traced.graph),
        "export": str(exported.graph),
        "compiled": compiled.tolist(),
        "frames": torch._dynamo.utils.counters["frames"]["total"],
    }


def tree(oracle):
    return [[call.depth, call.type] for call in oracle.calls]


def without(paths, part):
    """What is recorded in this process, with a torch that has none of `paths`."""
    from modtrace.capture.torch_private import lookup

    original = lookup.look_up

    def look_up(asked):
        if asked in paths:
            raise AttributeError(asked)
        return original(asked)

    lookup.look_up = look_up
    return recorded(part)


def plain(part):
    with Oracle() as oracle:
        computed = {**train(), **look()}
    if part in ASKS_FOR_GRAPHS:
        computed |= make_graphs()
    return {"computed": computed, "tree": tree(oracle)}


def recorded(part):
    """What was recorded, in two traces: functions are not, once torch compiles."""
    import modtrace
    from modtrace.capture.torch_private import lookup

    options = {"functions": True, "memory": "1:2", "kernels": "1:2", "saved": "0:9"}
    path = Path(tempfile.mkdtemp()) / "first.mtrace"
    with modtrace.trace(path=path, **options) as first:
        computed = {**train(), **look()}
    with modtrace.trace() as second:
        graphs = make_graphs() if part in ASKS_FOR_GRAPHS else {}
    stored, calls, facts = first._read(), first.calls, first.modules
    process = json.loads(next(path.glob("*/process.json")).read_text())
    modules = calls[calls["kind"] == "module"]
    found = {
        "computed": {**computed, **graphs},
        "tree": module_tree(calls),
        "graph_calls": second.calls["type"].astype(str).tolist(),
        "gaps": first._tracer.gaps + second._tracer.gaps,
        "table": [[list(name.paths), name.part] for name in lookup.TABLE],
        "features": sorted(
            name
            for name, recorded in {
                "backward": (calls["kind"] == "backward").any(),
                "backward phase": has(calls, "phase", "backward"),
                "optimizer": has(calls, "phase", "optimizer"),
                "data": has(calls, "phase", "data"),
                "functions": has(calls, "function", "Tensor.mul"),
                "custom forward": has(calls, "function", "Square.forward"),
                "custom backward": has(calls, "function", "Square.backward"),
                "flops": bool((modules["flops"].fillna(0) > 0).any()),
                "memory": len(stored.table("allocations")) > 0,
                "kernels": len(stored.table("operators")) > 0,
                "saved": bool((calls["saved_bytes"].fillna(0) > 0).any()),
                "own hooks": calls["hooks_ns"].notna().any(),
                "cost": process["cost"]["call_ns"] > 0,
                "sizes": bool((facts["parameter_count"].fillna(0) > 0).any()),
                "wrapped": any("Wrapped:" in text for text in calls["inputs"].dropna()),
                "vmap": any("vmap" in text for text in calls["inputs"].dropna()),
                "inside backward": bool((calls["phase"] == "recompute").any()),
            }.items()
            if recorded
        ),
    }
    shutil.rmtree(path.parent)
    return found


def has(calls, kind, name):
    return bool(((calls["kind"] == kind) & (calls["name"] == name)).any())


def module_tree(calls):
    """(depth among module calls, class) of each module call, in order of start."""
    depths, found = {-1: 0}, []
    for call, kind, parent, name in calls[["kind", "parent", "type"]].itertuples():
        depths[call] = depths[parent] + (kind == "module")
        if kind == "module":
            found.append([depths[parent], str(name)])
    return found


def forked(action):
    """What `action` returns in a fork of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as file:
            text = file.read()
        os.waitpid(child, 0)
        return json.loads(text)
    os.close(reading)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            answer = action()
    except BaseException:
        answer = {"failed": traceback.format_exc()}
    with os.fdopen(writing, "w") as file:
        json.dump(answer, file)
    os._exit(0)


def main(part):
    warnings.simplefilter("ignore")
    print(json.dumps(forked(lambda: plain(part))))
    whole = forked(lambda: recorded(part))
    print(json.dumps(["", whole]))
    for paths in dict.fromkeys(tuple(paths) for paths, of in whole["table"] if of == part):
        print(json.dumps([paths, forked(lambda paths=paths: without(paths, part))]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
