"""Check 10: types of tensors on their way to the GPU, and peaks with other allocators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpu_checks.check import Check, Measured, Place, Verdict, verdict
from gpu_checks.scripts import run

PEAKS = """
import json, sys
import torch
from torch import nn
import modtrace

def main():
    device = sys.argv[1]
    cuda = device == "cuda"
    model = nn.Sequential(*[nn.Linear(512, 512) for _ in range(4)]).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    peaks = []
    with modtrace.trace(flops=False) as trace:
        for step in range(6):
            optimizer.zero_grad()
            model(torch.randn(256 * (step + 1), 512, device=device)).sum().backward()
            optimizer.step()
            if cuda:
                peaks.append(torch.cuda.max_memory_allocated())
                torch.cuda.reset_peak_memory_stats()
    ours = trace.steps["memory_peak_bytes"].iloc[: len(peaks)]
    ours = [None if missing else int(one) for one, missing in zip(ours, ours.isna())]
    backend = torch.cuda.get_allocator_backend() if cuda else "none"
    gaps = trace._read().table("gaps").column("reason").to_pylist()
    print(json.dumps({"ours": ours, "torch": peaks, "backend": backend, "gaps": gaps}))

main()
"""


def _subclass() -> Any:
    """A tensor whose type follows `torch.Tensor.to` alone, as torchvision's do."""
    import torch

    keeps = {torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu}

    class Keeping(torch.Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001
                result = func(*args, **(kwargs or {}))
            return result.as_subclass(cls) if func in keeps else result

    return torch.zeros(3).as_subclass(Keeping)


def _tensors() -> dict[str, Callable[[], Any]]:
    """Ways to make tensors of special types on the host."""
    import torch

    def distributed() -> Any:
        from torch import distributed
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor

        if not distributed.is_initialized():
            distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        return DTensor.from_local(torch.zeros(4), init_device_mesh("cpu", (1,)))

    makers: dict[str, Callable[[], Any]] = {
        "subclass": _subclass,
        "Parameter": lambda: torch.nn.Parameter(torch.zeros(3)),
        "NestedTensor": lambda: torch.nested.nested_tensor(
            [torch.zeros(2), torch.zeros(3)], layout=torch.jagged
        ),
        "DTensor": distributed,
    }
    try:
        from torchvision import tv_tensors
    except ImportError:
        return makers
    makers["tv_tensors.Image"] = lambda: tv_tensors.Image(torch.zeros(3, 4, 4))
    makers["tv_tensors.Mask"] = lambda: tv_tensors.Mask(torch.zeros(4, 4))
    return makers


def _types(place: Place, makers: dict[str, Callable[[], Any]]) -> dict[str, str]:
    import torch

    found = {}
    for name, make in makers.items():
        outcomes = []
        for move in (
            lambda one: one.to(place.device),
            lambda one: one.to(place.device, torch.float16, non_blocking=True),
            lambda one: one.cuda() if place.cuda else one.cpu(),
        ):
            try:
                outcomes.append(type(move(make())).__name__)
            except Exception as error:
                outcomes.append(type(error).__name__)
        found[name] = ", ".join(outcomes)
    return found


def measure_types(place: Place) -> Measured:
    """What `.to` and `.cuda` give, untraced and traced, and whether `torch.Tensor` is what it was."""
    import torch

    import modtrace

    makers = _tensors()
    names = [name for name in dir(torch.Tensor) if not name.startswith("__")]
    before = {name: getattr(torch.Tensor, name) for name in names}
    untraced = _types(place, makers)
    with modtrace.trace():
        torch.nn.Linear(2, 2).to(place.device)(torch.zeros(1, 2, device=place.device))
        replaced = [name for name in names if getattr(torch.Tensor, name) != before[name]]
        traced = _types(place, makers)
    return {"untraced": untraced, "traced": traced, "replaced": replaced}


def judge_types(measured: Measured) -> Verdict:
    """All types as untraced, and nothing of `torch.Tensor` is replaced."""
    untraced, traced = measured["untraced"], measured["traced"]
    differ = [
        f"{name}: {traced.get(name)}, not {types}"
        for name, types in untraced.items()
        if traced.get(name) != types
    ]
    good = not differ and not measured["replaced"] and len(untraced) >= 4
    left_out = "" if "tv_tensors.Image" in untraced else " (torchvision is not installed)"
    figures = f"{len(untraced) - len(differ)} of {len(untraced)} as untraced{left_out}"
    replaced = [f"torch.Tensor.{name} replaced" for name in measured["replaced"]]
    return verdict("; ".join([figures, *differ, *replaced]), good=good)


def _measure_peaks(place: Place, setting: str) -> Measured:
    with TemporaryDirectory() as folder:
        environment = {"PYTORCH_ALLOC_CONF": setting} if place.cuda else {}
        return dict(run(Path(folder), PEAKS, place.device, environment=environment).value)


def _judge_peaks(measured: Measured) -> tuple[int, int, str]:
    """(known peaks, wrong ones, text)."""
    pairs = list(zip(measured["ours"], measured["torch"], strict=False))
    known = [(ours, theirs) for ours, theirs in pairs if ours is not None]
    wrong = sum(ours != theirs for ours, theirs in known)
    figures = (
        f"{len(known)} of {len(measured['torch'])} peaks known, {wrong} wrong; backend {measured['backend']}"
    )
    return len(known), wrong, "; ".join([figures, *measured["gaps"]])


def measure_expandable(place: Place) -> Measured:
    """Peaks of steps with expandable segments."""
    return _measure_peaks(place, "expandable_segments:True")


def judge_expandable(measured: Measured) -> Verdict:
    """Each peak is known, and torch's."""
    known, wrong, figures = _judge_peaks(measured)
    return verdict(figures, good=wrong == 0 and known == len(measured["torch"]) > 0 and not measured["gaps"])


def measure_async(place: Place) -> Measured:
    """Peaks of steps with CUDA's own pool."""
    return _measure_peaks(place, "backend:cudaMallocAsync")


def judge_async(measured: Measured) -> Verdict:
    """Peaks that are known are torch's. It counts no totals, so not all need be known."""
    known, wrong, figures = _judge_peaks(measured)
    return verdict(figures, good=wrong == 0 and known > 0 and measured["backend"] == "cudaMallocAsync")


_TYPES = {
    "subclass": "Keeping",
    "Parameter": "Parameter",
    "NestedTensor": "NestedTensor",
    "DTensor": "DTensor",
}
_PEAKS = {"ours": [100, 200, 300], "torch": [100, 200, 300], "gaps": []}

CHECKS = (
    Check(
        "10a",
        "`.to` and `.cuda` of a subclass, DTensor, NestedTensor, tv_tensors",
        "types as untraced; nothing of torch.Tensor is replaced",
        measure_types,
        judge_types,
        good={"untraced": _TYPES, "traced": _TYPES, "replaced": []},
        bad=(
            {"traced": {**_TYPES, "subclass": "Tensor"}},
            {"replaced": ["to"]},
            {"untraced": {}, "traced": {}},
        ),
        on_cpu=True,
    ),
    Check(
        "10b",
        "`PYTORCH_ALLOC_CONF=expandable_segments:True`",
        "peaks of all steps equal torch's",
        measure_expandable,
        judge_expandable,
        good={**_PEAKS, "backend": "native"},
        bad=(
            {"ours": [100, 200, 301]},
            {"ours": [100, None, 300]},
            {"ours": [], "torch": []},
            {"gaps": ["no counters"]},
        ),
    ),
    Check(
        "10c",
        "`PYTORCH_ALLOC_CONF=backend:cudaMallocAsync`",
        "peaks that are known equal torch's",
        measure_async,
        judge_async,
        good={**_PEAKS, "ours": [100, None, 300], "backend": "cudaMallocAsync"},
        bad=({"ours": [100, None, 301]}, {"ours": [None] * 3}, {"backend": "native"}),
    ),
)
