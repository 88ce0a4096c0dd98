"""What torch itself does around modules: checkpoints, scripts, parametrisations, transforms, fused paths."""

from __future__ import annotations

import copy
import io
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.torture.case import case


def _packed(model):
    batch = pack_padded_sequence(torch.randn(3, 5, 4), [5, 3, 2], batch_first=True)
    output, (hidden, cell) = model(batch)
    return pad_packed_sequence(output)[0], hidden, cell


@case(run=_packed, grad=True)
def packed_lstm() -> nn.Module:
    return nn.LSTM(4, 6, num_layers=2, bidirectional=True)


@case(run=lambda model: model(torch.randint(0, 9, (3, 4))), grad=True)
def sparse_embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 4))


@case(run=lambda model: model(torch.randn(2, 3, 8, 8)), grad=True)
def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 2),
    )


def _encoder(**options):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2)


def _encode_padded(model):
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 3:] = True
    with torch.no_grad():
        return model(torch.randn(3, 5, 8), src_key_padding_mask=mask)


@case(run=_encode_padded)
def transformer_in_eval() -> nn.Module:
    """Takes torch's fused path, inside which nested tensors are passed on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _encoder().eval()


@case(run=lambda model: model(torch.randn(3, 5, 8)), grad=True)
def transformer_in_training() -> nn.Module:
    return _encoder(dropout=0.2)


@case(run=lambda model: model(torch.randn(3, 5, 8), torch.randn(3, 6, 8)), grad=True)
def transformer_with_decoder() -> nn.Module:
    return nn.Transformer(8, 2, 1, 1, 16, batch_first=True)


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return torch.tanh(self.dropout(self.linear(x)))


class _Checkpointed(nn.Module):
    def __init__(self, *, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(4, 4)
        self.block = nn.Sequential(_Block(), _Block())
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        x = self.first(x)
        x = checkpoint(self.block, x, use_reentrant=self.reentrant)
        return self.last(x)


def _forward_backward(model):
    output = model(torch.randn(2, 4))
    output.sum().backward()
    return output


@case(run=_forward_backward)
def reentrant_checkpoint() -> nn.Module:
    return _Checkpointed(reentrant=True)


_ONE_BLOCK = ("ok", "ok", "ok")


@case(run=_forward_backward, statuses=("ok", "ok", "ok", *_ONE_BLOCK * 2, "ok", "ok", *_ONE_BLOCK * 2))
def checkpoint_stopped_early() -> nn.Module:
    """An exception of torch's own ends the recomputation when it has what it needs: that is no fault."""
    return _Checkpointed(reentrant=False)


def _checkpoint_sequential(model):
    x = torch.randn(2, 4, requires_grad=True)
    output = checkpoint_sequential(model, 2, x, use_reentrant=True)
    output.sum().backward()
    return output, x.grad


@case(run=_checkpoint_sequential)
def checkpoint_of_segments() -> nn.Module:
    """The root itself is never called."""
    return nn.Sequential(_Block(), _Block(), _Block())


@case(grad=True)
def parametrised() -> nn.Module:
    """Reading the weight calls modules and moves the state of a power iteration."""

    class Symmetric(nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).transpose(-1, -2)

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    parametrizations.spectral_norm(model[1])
    parametrizations.weight_norm(model[2])
    return model


def _parametrised_cached(model):
    with parametrize.cached():
        return model(torch.randn(2, 4)), model(torch.randn(2, 4))


@case(run=_parametrised_cached, grad=True)
def parametrised_and_cached() -> nn.Module:
    return parametrised()


@case(grad=True)
def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()))


@case()
class ScriptedChild(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
            self.traced = torch.jit.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4))

    def forward(self, x):
        return self.traced(self.scripted(x))


@case(grad=True)
class SymbolicChild(nn.Module):
    def __init__(self):
        super().__init__()
        self.graph = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))

    def forward(self, x):
        return self.graph(x)


def _functional(model):
    parameters = {name: value.detach() * 2 for name, value in model.named_parameters()}
    return functional_call(model, parameters, (torch.randn(2, 4),)), model(torch.randn(2, 4))


@case(run=_functional)
def functional() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def _transforms(model):
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    batch = torch.randn(5, 4)

    def loss(values, x):
        return functional_call(model, values, (x,)).sum()

    per_example = vmap(grad(loss), in_dims=(None, 0))(parameters, batch)
    hessian = torch.func.hessian(loss, argnums=1)(parameters, batch[0])
    return per_example, hessian, vmap(model)(batch)


@case(run=_transforms)
def functional_transforms() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))


def _ensemble(model):
    models = [copy.deepcopy(model) for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(model).to("meta")

    def call(values, state, x):
        return functional_call(base, (values, state), (x,))

    return vmap(call, in_dims=(0, 0, None))(parameters, buffers, torch.randn(2, 4))


@case(run=_ensemble, fixed_tree=False)
def ensemble() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


class _CallsModule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, module):
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (result,) = torch.autograd.grad(ctx.module(x), x, gradient)
        return result, None


def _through_function(model):
    x = torch.randn(2, 4, requires_grad=True)
    output = model(x)
    output.sum().backward()
    return output, x.grad


@case(run=_through_function)
class ModuleInAutogradFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        return _CallsModule.apply(x, self.inner)


def _modes(model):
    outputs = []
    with torch.no_grad():
        outputs.append(model(torch.randn(2, 4)))
    with torch.inference_mode():
        outputs.append(model(torch.randn(2, 4)).clone())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs.append(model(torch.randn(2, 4)))
    torch.use_deterministic_algorithms(True)
    try:
        outputs.append(model(torch.randn(2, 4)))
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.random.fork_rng():
        outputs.append(model(torch.randn(2, 4)))
    return outputs


@case(run=_modes)
def modes() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.LayerNorm(4))


def _trains(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    losses = []
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        loss = F.mse_loss(model(torch.randn(8, 4)), torch.randn(8, 2))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@case(run=_trains)
def training_steps() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 2))


def _saved_and_loaded(model):
    output = model(torch.randn(2, 4))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    return output, loaded(torch.randn(2, 4)), buffer.getvalue()


@case(run=_saved_and_loaded, fixed_tree=False)
def saved_and_loaded() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())


@case(grad=True)
def loss_modules() -> nn.Module:
    class WithLoss(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.loss = nn.CrossEntropyLoss()

        def forward(self, x):
            return self.loss(self.linear(x), torch.tensor([0, 3]))

    return WithLoss()
