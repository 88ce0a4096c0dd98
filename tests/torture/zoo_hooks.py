"""Modules with hooks of their own, which belong to their call."""

from __future__ import annotations

import torch
from torch import nn

from tests.torture.case import case
from tests.torture.zoo_exceptions import Fault


def _mlp():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


@case(grad=True)
def hook_replaces_output() -> nn.Module:
    model = _mlp()
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    model.register_forward_hook(lambda module, args, output: {"logits": output, "half": output.half()})
    return model


@case(grad=True)
def pre_hook_replaces_input() -> nn.Module:
    model = _mlp()
    model[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.register_forward_pre_hook(lambda module, args, kwargs: (args, {}), with_kwargs=True)
    return model


@case(raises=Fault)
def hook_raises() -> nn.Module:
    def hook(module, args, output):
        raise Fault("from a hook")

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU()), nn.Linear(4, 4))
    model[1][0].register_forward_hook(hook)
    return model


@case(raises=Fault)
def pre_hook_raises() -> nn.Module:
    def hook(module, args):
        raise Fault("from a pre-hook")

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU()), nn.Linear(4, 4))
    model[1][0].register_forward_pre_hook(hook)
    return model


@case(grad=True)
class HooksCallModules(nn.Module):
    """Hooks that call other modules: those calls lie inside the call whose hook it is."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.probe = nn.Linear(4, 1)
        self.body.register_forward_pre_hook(lambda module, args: (args[0] + self.probe(args[0]),))
        self.body.register_forward_hook(lambda module, args, output: output + self.probe(output))
        self.body[0].register_forward_hook(lambda module, args, output: self.probe(output) * output)

    def forward(self, x):
        return self.body(self.body(x))


@case(grad=True)
def hooks_of_every_sort() -> nn.Module:
    model = _mlp()
    model[0].register_forward_hook(lambda module, args, kwargs, output: None, with_kwargs=True)
    model[0].register_forward_hook(lambda module, args, output: None, always_call=True)
    model[0].register_forward_hook(lambda module, args, output: None, prepend=True)
    model[2].register_forward_pre_hook(lambda module, args: args[0], prepend=True)
    model.register_state_dict_pre_hook(lambda module, prefix, keep_vars: None)
    return model


@case()
def always_called_hook_with_caught_error() -> nn.Module:
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad = nn.Linear(5, 5)
            self.good = nn.Linear(4, 4)
            self.bad.register_forward_hook(lambda module, args, output: None, always_call=True)

        def forward(self, x):
            try:
                return self.bad(x)
            except RuntimeError:
                return self.good(x)

    return Careful()


@case(grad=True)
def backward_hooks() -> nn.Module:
    model = _mlp()
    model[0].register_full_backward_hook(lambda module, grad_input, grad_output: None)
    model[2].register_full_backward_pre_hook(lambda module, grad_output: (grad_output[0] * 2,))
    model.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0],))
    return model


@case(grad=True)
class HookRemovesItself(nn.Module):
    """A hook that takes itself away, and one that adds another while hooks run."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.added = False
        handle = self.linear.register_forward_hook(lambda module, args, output: handle.remove())
        self.linear.register_forward_pre_hook(self._add)

    def _add(self, module, args):
        if not self.added:
            self.added = True
            module.register_forward_hook(lambda module, args, output: output + 1)

    def forward(self, x):
        return self.linear(self.linear(x))


class _GlobalHooks(nn.Module):
    """Registers hooks of its own on every module of the process, while it runs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen = []

    def forward(self, x):
        before = nn.modules.module.register_module_forward_pre_hook(
            lambda module, args: self.seen.append(type(module).__name__)
        )
        after = nn.modules.module.register_module_forward_hook(lambda module, args, output: None)
        try:
            x = self.linear(x)
        finally:
            before.remove()
            after.remove()
        return self.linear(x)


def _with_global_hooks(model):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output + 1 if isinstance(module, nn.Linear) else None
    )
    always = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: seen.append(type(module).__name__), always_call=True
    )
    try:
        return model(torch.randn(2, 4)), seen, model.seen
    finally:
        handle.remove()
        always.remove()


@case(run=_with_global_hooks)
def global_hooks() -> nn.Module:
    return _GlobalHooks()


def _tensor_hook(model):
    x = torch.randn(2, 4, requires_grad=True)
    y = model(x)
    y.register_hook(lambda grad: model.probe(grad))
    y.sum().backward()
    return y, x.grad


@case(run=_tensor_hook)
class CallsModulesInBackward(nn.Module):
    """A tensor hook that calls a module while the gradients are computed."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.probe = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x)
