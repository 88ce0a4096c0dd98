"""Models of torchvision, built without weights: they compute the same when they are traced, and no call is missing."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

import modtrace
from tests.torture.compare import module_calls, oracle_rows, traced_rows, traced_threads
from tests.torture.oracle import Oracle

if os.environ.get("MODTRACE_REQUIRE_TORCHVISION"):
    import torchvision
else:
    torchvision = pytest.importorskip("torchvision")


def images(size, count=2):
    return (torch.rand(count, 3, size, size),)


def detection(size):
    pictures = [torch.rand(3, size, size), torch.rand(3, size, size + 16)]
    target = {"boxes": torch.tensor([[2.0, 2.0, 30.0, 40.0]]), "labels": torch.tensor([1])}
    return pictures, [dict(target), dict(target)]


MODELS = {
    "resnet18": (lambda models: models.resnet18(num_classes=5), lambda: images(32)),
    "mobilenet_v3_small": (lambda models: models.mobilenet_v3_small(num_classes=5), lambda: images(32)),
    "vit": (
        lambda models: models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
        ),
        lambda: images(32),
    ),
    "fasterrcnn_mobilenet": (
        lambda models: models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96
        ),
        lambda: detection(64),
    ),
}


def tensors(value):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def work(make, inputs, *, training):
    """One forward, and one step where it trains; everything that came out of it."""
    torch.manual_seed(0)
    model = make(torchvision.models).train(training)
    given = inputs()
    if not training:
        with torch.no_grad():
            return tensors(model(*given[:1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = tensors(model(*given))
    torch.stack([one.sum() for one in found]).sum().backward()
    optimizer.step()
    return found + [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_same_and_seen_whole(name, training):
    make, inputs = MODELS[name]
    with Oracle() as oracle:
        expected = work(make, inputs, training=training)
    assert len(oracle.calls) > 10
    with modtrace.trace() as trace:
        found = work(make, inputs, training=training)
    assert len(found) == len(expected)
    assert all(map(same_bits, found, expected))
    (rows,) = traced_threads(trace.calls)
    assert traced_rows(rows) == oracle_rows(oracle, oracle.calls)
    assert trace._tracer.gaps == []
    assert set(module_calls(trace.calls)["status"].astype(str)) == {"ok"}
    flops = trace.calls["flops"]
    assert (flops.fillna(0) > 0).any()


def same_bits(one, other):
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


def test_a_module_alone_is_seen():
    """Not only whole models: what nobody called by a model is a root."""
    layer = nn.Sequential(torchvision.ops.Conv2dNormActivation(3, 4), nn.Flatten())
    with modtrace.trace() as trace:
        layer(*images(8))
    assert trace.calls[trace.calls["kind"] == "module"]["type"].astype(str).tolist() == [
        "Sequential", "Conv2dNormActivation", "Conv2d", "BatchNorm2d", "ReLU", "Flatten",
    ]  # fmt: skip
