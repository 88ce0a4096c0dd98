"""Module classes that do odd things with python: each question a tool might ask raises, lies or acts."""

from __future__ import annotations

import torch
from torch import nn

from tests.torture.case import case


class _Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x)


@case(grad=True)
class Unhashable(_Linear):
    def __eq__(self, other):
        raise RuntimeError("do not compare modules")

    __hash__ = None


@case(grad=True)
class AllEqual(nn.Module):
    """Two different modules that say they are the same."""

    class Twin(nn.Linear):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    def __init__(self):
        super().__init__()
        self.left = self.Twin(4, 4)
        self.right = self.Twin(4, 4)

    def forward(self, x):
        return self.right(self.left(x))


@case(grad=True)
class Falsy(_Linear):
    def __len__(self):
        return 0

    def __bool__(self):
        raise RuntimeError("neither true nor false")


@case(grad=True)
class Unprintable(_Linear):
    def __repr__(self):
        raise RuntimeError("no text")

    __str__ = __repr__

    def extra_repr(self):
        raise RuntimeError("no extra text")


@case(grad=True)
class CountsQuestions(_Linear):
    """Asking it for its description or its parameters changes what it computes."""

    def __init__(self):
        super().__init__()
        self.questions = 0

    def extra_repr(self):
        self.questions += 1
        return str(self.questions)

    def named_parameters(self, *args, **kwargs):
        self.questions += 1
        return super().named_parameters(*args, **kwargs)

    def forward(self, x):
        return self.linear(x) + self.questions


@case(grad=True)
class RaisesForUnknown(_Linear):
    def __getattr__(self, name):
        if name in ("_modules", "linear"):
            return super().__getattr__(name)
        raise RuntimeError(f"{name} is nobody's business")


@case(grad=True)
class Frozen(_Linear):
    """No attribute can be set once it is made."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "frozen", True)

    def __setattr__(self, name, value):
        if self.__dict__.get("frozen"):
            raise RuntimeError("frozen")
        super().__setattr__(name, value)

    def __delattr__(self, name):
        raise RuntimeError("frozen")


@case()
class TrainingIsProperty(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @property
    def training(self):
        raise RuntimeError("neither")

    @training.setter
    def training(self, value):
        pass

    def forward(self, x):
        return self.linear(x)


@case(grad=True)
class Slotted(_Linear):
    __slots__ = ("hidden",)

    def __init__(self):
        super().__init__()
        self.hidden = 1


@case(grad=True)
class Proxy(nn.Module):
    """Passes every unknown attribute on to what it wraps."""

    def __init__(self):
        super().__init__()
        self.wrapped = _Linear()

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)

    def forward(self, x):
        return self.linear(x) + self.wrapped(x)


class Meta(type):
    @property
    def __name__(cls):
        raise RuntimeError("no name")

    def __repr__(cls):
        raise RuntimeError("no text")

    def __eq__(cls, other):
        raise RuntimeError("no comparison")

    __hash__ = None


class _OddClass(nn.Module, metaclass=Meta):
    def __init__(self):
        nn.Module.__init__(self)

    def forward(self, x):
        return x + 1


@case()
class ClassWithOddMetaclass(nn.Module):
    def __init__(self):
        super().__init__()
        self.odd = _OddClass()

    def forward(self, x):
        return self.odd(x)


@case(grad=True)
class LyingClass(_Linear):
    @property
    def __class__(self):
        return nn.Conv2d


@case(grad=True)
class ModulesAreProperty(nn.Module):
    """Methods that list its parts raise: only its dictionary tells."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def named_modules(self, *args, **kwargs):
        raise RuntimeError("no modules")

    modules = children = named_children = named_modules

    def named_buffers(self, *args, **kwargs):
        raise RuntimeError("no buffers")

    buffers = named_buffers

    def forward(self, x):
        return self.linear(x)


@case(grad=True)
class OwnCall(nn.Module):
    """Its `__call__` never gets to torch's, and what it calls does."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def __call__(self, x):
        return self.linear(x)


@case(grad=True)
class OwnCallWithSuper(_Linear):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs) * 2


@case(grad=True)
class ForwardDirectly(nn.Module):
    """A child whose `forward` is called: its own children hang under the caller."""

    def __init__(self):
        super().__init__()
        self.child = _Linear()

    def forward(self, x):
        return self.child.forward(x)


@case(grad=True, fixed_tree=False)
def forward_replaced() -> nn.Module:
    """`forward` as an attribute of the instance: a function, and another module."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.ReLU())
    model[0].forward = lambda x: x * 2
    model[2].__dict__["forward"] = nn.Tanh()
    return model


@case(grad=True)
class StaticForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    forward = staticmethod(lambda x: x.relu())


@case(grad=True)
class PropertyCallsModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    @property
    def doubled(self):
        return self.linear.weight.sum() * 2 + self.linear(torch.ones(1, 4)).sum()

    def forward(self, x):
        return self.linear(x) * self.doubled


@case(grad=True)
class HostileParameters(nn.Module):
    """Parameters whose names come from a stranger, and one that is shared."""

    def __init__(self):
        super().__init__()
        weight = nn.Parameter(torch.ones(4))
        self.register_parameter("\x1b[31m</script>", weight)
        self._parameters["a.b"] = weight
        self._parameters[""] = nn.Parameter(torch.ones(0))
        self.register_buffer("\u202ebuffer", torch.ones(4), persistent=False)

    def forward(self, x):
        return x * next(iter(self._parameters.values()))


@case(grad=True)
class SwapsClass(nn.Module):
    """Changes the class of its child, as lazy modules and parametrisations do."""

    class Other(nn.Linear):
        pass

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(4, 4)

    def forward(self, x):
        self.child.__class__ = self.Other
        return self.child(x)
