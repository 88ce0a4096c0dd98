"""Runs made of numbers: own times of modules are told, all else follows from them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from modtrace.analysis.comparing.module_forest import ModuleForest, NamedModule
from modtrace.analysis.comparing.run_numbers import (
    MODULE_NUMBERS,
    RUN_NUMBERS,
    RunNumbers,
    StepTimes,
)

US = 1_000

NET = {
    "": ("Net", 20), "embed": ("Embedding", 300), "h": ("ModuleList", None),
    **{
        f"h.{block}{name}": facts
        for block in range(6)
        for name, facts in {
            "": ("Block", 50), ".norm": ("LayerNorm", 150), ".attn": ("Attention", 80), ".attn.qkv": ("Linear", 900),
            ".attn.out": ("Linear", 500), ".mlp": ("MLP", 60), ".mlp.fc": ("Linear", 1300), ".mlp.act": ("GELU", 200),
            ".mlp.proj": ("Linear", 1200),
        }.items()
    },
    "head": ("Linear", 2500),
}  # fmt: skip
"""Name -> class and own time a step in microseconds; None for a module that is never called. 59 modules."""
OUTSIDE = {"data": 700, "optimizer": 2600, "between phases": 400, "modtrace itself": 90}


def spread(values, steps, noise=0.0):
    values = np.array(values, np.int64)
    known = values >= 0
    wide = np.where(known, values * noise, 0).astype(np.int64)
    ran = np.where(known, steps, 0)
    return StepTimes(
        values, np.where(known, values - wide, -1), np.where(known, values + wide, -1), ran, values, values
    )


def run_of(
    net=None, *, outside=None, scale=None, steps=20, within=0.02, root="model", shapes=None, totals=None, numbers=None,
    environment=None, dtypes=None, outputs=None, share=None, **facts,
):  # fmt: skip
    """A run.

    net: as NET. scale: name -> factor of its own time. within: spread of the steps of the run. shapes, numbers, dtypes,
    outputs: by name. share: name -> part of the steps in which it ran.
    """
    net, outside, scale = net or NET, outside or OUTSIDE, scale or {}
    shapes = shapes or {}
    modules = [
        NamedModule(
            root,
            name,
            kind,
            "",
            shapes.get(
                name, (("weight", (len(name.rpartition(".")[2]) + 3, 5)),) if kind == "Linear" else ()
            ),
        )
        for name, (kind, _) in net.items()
    ]
    forest = ModuleForest(modules)
    names = list(net)
    own = np.array([(net[name][1] or 0) * US * scale.get(name, 1) for name in names])
    subtree = own.copy()
    for number in reversed(forest.parents_first()):
        if forest.above[number] >= 0:
            subtree[forest.above[number]] += subtree[number]
    called = np.array([net[name][1] is not None for name in names])
    outside_ns = [value * US * scale.get(name, 1) for name, value in outside.items()]
    tops = sum(subtree[top] for top in forest.tops)
    step_ns = tops + sum(outside_ns)
    times = {
        "forward": spread(np.where(called, subtree * 0.4, -1), steps, within),
        "backward": spread(np.where(called, subtree * 0.6, -1), steps, within),
        "device": StepTimes.unknown(len(names)),
        "subtree": spread(subtree, steps, within),
    }
    if share:
        ran = np.array([round(steps * share.get(name, 1)) for name in names])
        times["subtree"] = replace(times["subtree"], steps=ran)
    numbers = numbers or {}
    return RunNumbers(
        environment={"torch": "2.13.0", "threads": "2", **(environment or {})},
        modules=modules,
        dtypes=[
            (dtypes or {}).get(name, "float32" if module.shapes else "")
            for name, module in zip(names, modules, strict=True)
        ],
        outputs=[(outputs or {}).get(name, "f32[8,4]") if net[name][1] is not None else "" for name in names],
        operations=None,
        module_numbers={
            key: np.array([numbers.get(key, {}).get(name, 1 if key == "calls" and called[place] else -1)
                           for place, name in enumerate(names)], np.int64)
            for key in MODULE_NUMBERS
        },
        module_times=times,
        step_names=["step", "forward", "optimizer"],
        step_times=spread([step_ns, tops * 0.4, outside_ns[1]], steps, within),
        outside_names=list(outside),
        outside_times=spread(outside_ns, steps, within),
        totals={**dict.fromkeys(RUN_NUMBERS), "calls": int(called.sum()), **(totals or {})},
        steps=steps,
        training=True,
        **facts,
    )  # fmt: skip


def noisy_runs(count, seed, *, net=None, noise=0.01, drift=0.01, scale=None, **options):
    """Runs of one program: each module varies from run to run, and all of them together."""
    drawn, runs = random.Random(seed), []
    net = net or NET
    for _ in range(count):
        common = drawn.lognormvariate(0, drift)
        factors = {name: common * drawn.lognormvariate(0, noise) for name in [*net, *OUTSIDE]}
        for name, factor in (scale or {}).items():
            factors[name] = factors.get(name, 1) * factor
        runs.append(run_of(net, scale=factors, **options))
    return runs
