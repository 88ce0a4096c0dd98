"""Each private name of torch, taken away: one feature is lost and told of, the rest and the program are as before."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modtrace.capture.torch_private import contexts, lookup, names, tracing
from tests.places import PACKAGE

HERE = Path(__file__).parent
CAPTURE = PACKAGE / "capture"
PRIVATE = CAPTURE / "torch_private"

NOT_IN_USE = {
    lookup.CUDA_MEMORY, lookup.CUDA_HISTORY, lookup.CUDA_TIMES, lookup.XPU_TIMES, lookup.DEVICE_ROWS,
    lookup.CUDA_MARKS, lookup.COLLECTIVES,
}  # fmt: skip
"""Parts that a program of one rank on the processor has nothing of."""
WATCHED = {"memory", "kernels"}
"""What torch's profiler tells, which may lose events on a busy machine."""

LOSES = {
    "torch.nn.modules.module._global_forward_pre_hooks": {"cost"},
    "torch.nn.modules.module._global_forward_hooks": {"cost"},
    "torch.nn.modules.module._global_forward_hooks_with_kwargs": {"cost"},
    "torch.nn.modules.module._global_forward_hooks_always_called": {"cost"},
    "torch.nn.Module()._forward_hooks": {"own hooks"},
    "torch.nn.Module()._forward_hooks_always_called": {"own hooks"},
    "torch._C._functorch.maybe_current_level": {"vmap"},
    "torch._C._functorch.is_batchedtensor": {"vmap"},
    "torch._C._current_graph_task_id": set(),  # checkpointing tells of itself
    "torch._C._DisableTorchDispatch": {"wrapped"},
    "torch.autograd._get_sequence_nr": {"backward", "saved", "custom backward"},
    "torch._C._functions.AddBackward0._sequence_nr": {"backward", "saved", "custom backward"},
    "torch._dynamo.compiled_autograd.compiled_autograd_enabled": {"backward", "saved", "custom backward"},
    "torch.autograd._engine_run_backward": {"backward phase", "backward", "saved", "custom backward"},
    # Without them the steps to be watched are not known, so all are, and nothing is counted beside a profiler.
    "torch.optim.optimizer._global_optimizer_pre_hooks": {"optimizer", "flops"},
    "torch.optim.optimizer._global_optimizer_post_hooks": {"optimizer", "flops"},
    "torch.autograd.function.BackwardCFunction": {"custom backward"},
    "torch._C._autograd._profiler_enabled": {"flops"},
}
"""By the first path of a name what is lost without it, as far as it is not all of its part."""
WHOLE_PARTS = {
    lookup.FUNCTIONS: {"functions", "custom forward", "custom backward"},
    lookup.FLOPS: {"flops"},
    lookup.PROFILER: WATCHED,
    lookup.SAVED: {"saved"},
}


def removals(part):
    """What the processes of `without_names.py` print for a part: plain python, all names, then each without one."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "without_names.py"), part]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=1_000, check=False
    )
    assert done.returncode == 0, done.stderr
    plain, (_, whole), *rest = map(json.loads, done.stdout.splitlines())
    return plain, whole, rest


PARTS = sorted({name.part for name in lookup.TABLE})
assert len(lookup.TABLE) > 60, (contexts, names, tracing)


@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("part", PARTS)
def test_without_a_name(part):
    plain, whole, rest = removals(part)
    assert whole["computed"] == plain["computed"]
    assert whole["tree"] == plain["tree"]
    assert len(whole["features"]) >= 15
    of_part = [name for name in lookup.TABLE if name.part == part]
    assert {tuple(paths) for paths, _ in rest} == {name.paths for name in of_part}
    for paths, without in rest:
        assert "failed" not in without, (paths, without["failed"])
        assert without["computed"] == plain["computed"], paths
        assert without["tree"] == plain["tree"], paths
        lost = set(whole["features"]) - set(without["features"])
        expected = LOSES.get(paths[0], WHOLE_PARTS.get(part, set()))
        assert lost - WATCHED == expected - WATCHED, paths
        if part == lookup.PROFILER:
            assert not WATCHED & set(without["features"]), paths
        if part in NOT_IN_USE:
            continue
        told = [gap for gap in without["gaps"] if gap not in whole["gaps"]]
        for name in of_part:
            if list(name.paths) == paths:
                assert name.gap in told, paths
                assert torch.__version__ in name.gap
                assert paths[0] in name.gap


def test_names_of_a_device_are_told_of_where_it_is_used(monkeypatch):
    look_up = lookup.look_up

    def without(path):
        if any(
            part in path for part in ("cuda", "accelerator", "_KinetoEvent", "MemoryMetadata", "distributed")
        ):
            raise AttributeError(path)
        return look_up(path)

    monkeypatch.setattr(lookup, "look_up", without)
    for part in NOT_IN_USE:
        gaps = lookup.missing(part)
        assert gaps, part
        assert all(torch.__version__ in gap for gap in gaps)


def test_this_torch_has_all_that_a_processor_needs():
    parts = {name.part for name in lookup.TABLE} - NOT_IN_USE
    assert lookup.missing(*parts) == []


ELSEWHERE = {("hooks.py", "_forward_hooks")}
"""The one that the hot path reads by itself: a function around it would cost each call 30 ns."""
OF_PYTHON = {"_getframe", "_current_frames", "_run_module_as_main", "_replace", "_popen", "_identity"}


def own_names():
    """Names with an underscore that modtrace itself defines."""
    found = set()
    for file in CAPTURE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ):
                found.add(node.attr)
    return found


def test_private_names_stand_in_one_place():
    own = own_names() | OF_PYTHON
    for file in CAPTURE.rglob("*.py"):
        if PRIVATE in file.parents:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
            ):
                assert node.attr in own or (file.name, node.attr) in ELSEWHERE, f"{file.name}:{node.lineno}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
                assert "torch._" not in node.value, f"{file.name}:{node.lineno}"
