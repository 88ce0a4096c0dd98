"""Real models in real wrappers: each module is aligned with itself, whatever it is called there."""

from __future__ import annotations

import copy
import random
from contextlib import contextmanager

import pytest
import torch
import transformers
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from transformers.pytorch_utils import Conv1D

from modtrace.analysis.comparing.alignment import align
from modtrace.analysis.comparing.module_forest import ModuleForest, NamedModule
from tests.architectures.tiny import ARCHITECTURES

MODELS = ("bert", "gpt2", "llama", "mixtral", "t5", "vit", "whisper", "clip", "mamba", "convnext")


def made(name):
    config = transformers.AutoConfig.for_model(name, **ARCHITECTURES[name].options)
    return transformers.AutoModel.from_config(config)


def forest_of(model):
    """The modules of a model as a trace has them, and which each is."""
    rows, objects = [], []
    for name, module in model.named_modules():
        shapes = tuple(
            (key, tuple(value.shape)) for key, value in module._parameters.items() if value is not None
        )
        rows.append(NamedModule("model", name, type(module).__name__, type(module).__module__, shapes))
        objects.append(module)
    return ModuleForest(rows), objects


def unaligned(plain_model, twin, same=None):
    """Names of modules that are not paired with themselves in a twin; `same` says which is which in a copy."""
    (one, objects), (other, twin_objects) = forest_of(plain_model), forest_of(twin)
    truth = same or {id(module): id(module) for module in objects}
    return not_paired(one, objects, other, twin_objects, truth)


def not_paired(one, objects, other, twin_objects, truth):
    found = align(one, other)
    right = {
        id(objects[pair.baseline])
        for pair in found.pairs
        if truth[id(objects[pair.baseline])] == id(twin_objects[pair.candidate])
    }
    return [one.path[number] for number in one.parents_first() if id(objects[number]) not in right]


@contextmanager
def process_group(path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


class LowRank(nn.Module):
    """As peft's: the layer that was there, and two thin ones beside it."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, 4, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(4, base_layer.out_features, bias=False)})


class Holder(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


def adapted(model):
    """The model with every second linear layer in an adapter, inside two more levels, and what each layer is there."""
    for module in list(model.modules()):
        linear = [name for name, child in module.named_children() if type(child) is nn.Linear]
        for name in linear[::2]:
            setattr(module, name, LowRank(getattr(module, name)))
    return Holder(base_model=Holder(model=model))


def twin_of(model):
    """A copy, and which module of it is which."""
    twin = copy.deepcopy(model)
    return twin, {id(one): id(other) for one, other in zip(model.modules(), twin.modules(), strict=True)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_in_data_parallel_compile_and_checkpoints(name, tmp_path):
    model = made(name)
    assert unaligned(model, nn.DataParallel(model)) == []
    assert unaligned(model, torch.compile(model)) == []
    with process_group(tmp_path / "store"):
        ddp = nn.parallel.DistributedDataParallel(model)
        assert unaligned(model, ddp) == []
        assert unaligned(model, torch.compile(ddp)) == []
    twin, same = twin_of(model)
    apply_activation_checkpointing(
        twin, check_fn=lambda module: type(module).__name__.endswith(("Layer", "Block"))
    )
    assert unaligned(model, nn.DataParallel(twin), same) == []


@pytest.mark.parametrize("name", MODELS)
def test_in_adapters(name):
    model = made(name)
    one, objects = forest_of(model)  # before the layers get other names
    other, twin_objects = forest_of(nn.DataParallel(adapted(model)))
    truth = {id(module): id(module) for module in objects}
    assert not_paired(one, objects, other, twin_objects, truth) == []


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_in_those_of_peft(name):
    peft = pytest.importorskip("peft")
    model = made(name)
    one, objects = forest_of(model)
    kinds = (nn.Linear, Conv1D)
    linear = {part.rpartition(".")[2] for part, child in model.named_modules() if type(child) in kinds}
    linear -= {"out_proj"} if name == "mamba" else set()
    if not linear:
        pytest.skip("it has no layers to adapt")
    twin = peft.get_peft_model(model, peft.LoraConfig(target_modules=sorted(linear)))
    other, twin_objects = forest_of(twin)
    truth = {id(module): id(module) for module in objects}
    assert not_paired(one, objects, other, twin_objects, truth) == []


@pytest.mark.parametrize("name", MODELS)
def test_with_names_that_changed(name):
    model = made(name)
    for seed in range(5):
        twin, same = twin_of(model)
        rename(twin, random.Random(seed))
        assert unaligned(model, nn.DataParallel(twin), same) == [], seed


def rename(model, chance):
    """Another name for five attributes that hold modules, in their places; alike in all modules of a class."""
    holders = [
        module
        for module in model.modules()
        if module._modules and not next(iter(module._modules)).isdecimal()
    ]
    for _ in range(5):
        holder = chance.choice(holders)
        old = chance.choice(list(holder._modules))
        for module in model.modules():
            if type(module) is type(holder) and old in module._modules:
                items = [
                    (f"{old}_v2" if key == old else key, child) for key, child in module._modules.items()
                ]
                module._modules.clear()
                module._modules.update(items)
