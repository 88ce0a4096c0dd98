"""What `gpu.py` runs: models, batches, and the ways to watch them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpt2 import GPT2, Size
from resnet import ResNet
from torch import nn

import modtrace


@dataclass(frozen=True)
class Workload:
    """Something that is run again and again. `forward` runs under no_grad, `step` trains."""

    name: str
    model: nn.Module
    forward: Callable[[], Any]
    step: Callable[[], Any]
    calls: int


@dataclass(frozen=True)
class Variant:
    """A way to watch a run; `share` of the runs of a window are enough for slow ones."""

    name: str
    around: Callable[[], AbstractContextManager[object]]
    share: float = 1.0


@contextmanager
def traced() -> Iterator[None]:
    """modtrace, writing into a folder that is then removed."""
    with TemporaryDirectory() as folder, modtrace.trace(path=Path(folder) / "run.mtrace"):
        yield


def profiler(device: str) -> AbstractContextManager[Any]:
    """torch's profiler of the host and the device."""
    kinds = torch.profiler.ProfilerActivity
    some = [kinds.CPU, kinds.CUDA] if device == "cuda" else [kinds.CPU]
    return torch.profiler.profile(activities=some)


@contextmanager
def events_by_hand() -> Iterator[None]:
    """A pair of CUDA events around every module call, kept and never read: what one would write first."""
    kept: list[Any] = []

    def mark(*_: object) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        kept.append(event)

    modules = nn.modules.module
    handles = (
        modules.register_module_forward_pre_hook(mark),
        modules.register_module_forward_hook(mark, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def variants(device: str) -> list[Variant]:
    """All ways to watch that this device has; the first is none."""
    found = [
        Variant("untraced", nullcontext),
        Variant("modtrace", traced),
        Variant("torch.profiler", lambda: profiler(device), share=0.25),
    ]
    return [*found, Variant("CUDA events by hand", events_by_hand)] if device == "cuda" else found


def _workload(name: str, model: nn.Module, given: torch.Tensor, loss: Callable[[Any], Any]) -> Workload:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    def forward() -> None:
        with torch.no_grad():
            model(given)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(given)).backward()
        optimizer.step()

    handle = nn.modules.module.register_module_forward_pre_hook(count)
    forward()
    handle.remove()
    return Workload(name, model, forward, step, calls)


def gpt2(device: str, *, large: bool, small_model: bool) -> Workload:
    """GPT-2 on few or many tokens."""
    size = Size(layers=2, width=32, vocabulary=256, length=64) if small_model else Size(width=768, heads=12)
    batch, length = (2, 16) if small_model else (16, 512)
    batch, length = (batch, length) if large else (1, length // 8)
    tokens = torch.randint(0, size.vocabulary, (batch, length), device=device)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    return _workload(f"GPT-2, {batch} x {length} tokens", GPT2(size).to(device), tokens, loss)


def resnet(device: str, *, large: bool, small_model: bool) -> Workload:
    """A ResNet on few or many images."""
    model = ResNet(8, (1, 1), 10) if small_model else ResNet()
    batch, edge = (4 if large else 1, 32) if small_model else (128 if large else 2, 224)
    images = torch.randn(batch, 3, edge, edge, device=device)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return logits.logsumexp(1).mean()

    return _workload(f"ResNet, {batch} x {edge}^2 images", model.to(device), images, loss)


def small_layers(device: str, *, count: int) -> Workload:
    """Many layers that compute next to nothing: the host has all the work."""
    model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(count)]).to(device)
    given = torch.randn(1, 8, device=device)
    return _workload(f"{count} linear layers of 8", model, given, torch.sum)
