"""Exceptions of every kind, caught at every place, and programs that go on afterwards."""

from __future__ import annotations

import signal

import torch
from torch import nn

from tests.torture.case import case


class Fault(Exception):
    """The models' own exception."""


class Interrupt(BaseException):
    """One that `except Exception` does not catch, like KeyboardInterrupt."""


class Raises(nn.Module):
    def __init__(self, error=Fault):
        super().__init__()
        self.error = error
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        self.linear(x)
        raise self.error


class Catches(nn.Module):
    """Calls `risky`, and when it raises, `spare` and then `after`."""

    def __init__(self, risky, catch=Exception):
        super().__init__()
        self.risky = risky
        self.catch = catch
        self.spare = nn.Linear(4, 4)
        self.after = nn.ReLU()

    def forward(self, x):
        try:
            x = self.risky(x)
        except self.catch:
            x = self.spare(x)
        return self.after(x)


@case(raises=RuntimeError)
def wrong_shape() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(5, 2)), nn.ReLU())


@case(raises=Fault)
def raises_through_all() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Identity(), nn.Sequential(Raises())), nn.Identity())


@case(grad=True)
def caught_in_parent() -> nn.Module:
    return nn.Sequential(Catches(Raises()), nn.Linear(4, 4))


@case()
def caught_far_above() -> nn.Module:
    return Catches(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Sequential(Raises()))))


def _interrupted_then_again(model):
    outputs = []
    for _ in range(3):
        try:
            model(torch.randn(2, 4))
        except BaseException as error:
            outputs.append(type(error).__name__)
    outputs.append(model[0](torch.randn(2, 4)))
    return outputs


@case(run=_interrupted_then_again, aborts=True)
def keyboard_interrupt_caught_outside() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Raises(KeyboardInterrupt)))


@case(aborts=True)
def keyboard_interrupt_caught_inside() -> nn.Module:
    return nn.Sequential(
        Catches(nn.Sequential(Raises(KeyboardInterrupt)), KeyboardInterrupt), nn.Linear(4, 4)
    )


@case(aborts=True, raises=KeyboardInterrupt)
def keyboard_interrupt_let_out() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(Raises(KeyboardInterrupt)))


@case(aborts=True)
def system_exit_caught_inside() -> nn.Module:
    return Catches(nn.Sequential(Raises(SystemExit(3))), SystemExit)


@case(aborts=True)
def own_base_exception_twice() -> nn.Module:
    risky = Catches(nn.Sequential(Raises(Interrupt)), Interrupt)
    return Catches(nn.Sequential(risky, Raises(Interrupt)), Interrupt)


@case(aborts=True)
class SameModuleAfterAbort(nn.Module):
    """The module left open by an interrupt is called again at once: not a child of itself."""

    def __init__(self):
        super().__init__()
        self.flaky = _Flaky()

    def forward(self, x):
        for _ in range(3):
            try:
                x = self.flaky(x)
            except Interrupt:
                continue
        return x


class _Flaky(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.inner(x)
        if self.calls % 2:
            raise Interrupt
        return self.inner(x)


@case(aborts=True, run=lambda model: model(torch.randn(2, 4), 3))
class RecursionAfterAbort(nn.Module):
    """The same module is aborted and called again at several depths of its own recursion."""

    def __init__(self):
        super().__init__()
        self.leaf = nn.Identity()

    def forward(self, x, depth):
        x = self.leaf(x)
        if not depth:
            raise Interrupt
        for _ in range(2):
            try:
                self(x, depth - 1)
            except Interrupt:
                x = self.leaf(x)
        if depth == 2:
            raise Interrupt
        return x


class Turns(nn.Module):
    """Turns an exception of one kind into another, as wrappers do."""

    def __init__(self, inner, catch, error):
        super().__init__()
        self.inner = inner
        self.catch = catch
        self.error = error

    def forward(self, x):
        try:
            return self.inner(x)
        except self.catch as error:
            raise self.error from error


class _RaisesAtOnce(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class RaisesAtOnce(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


@case(statuses=("ok", "raised", "aborted", "ok", "aborted", "raised", "ok"))
class MixedKinds(nn.Module):
    """An interrupt turned into an exception on its way up, and the other way round."""

    def __init__(self):
        super().__init__()
        self.into_exception = Turns(RaisesAtOnce(Interrupt), Interrupt, Fault)
        self.into_interrupt = Turns(RaisesAtOnce(Fault), Fault, Interrupt)
        self.between = nn.Identity()

    def forward(self, x):
        for risky in (self.into_exception, self.into_interrupt):
            try:
                risky(x)
            except (Fault, Interrupt):
                x = self.between(x)
        return x


class ReturnsNone(nn.Module):
    def forward(self, x):
        return None


@case()
class WorksInExceptBlock(nn.Module):
    """Models that run, and return None, while another exception is being handled."""

    def __init__(self):
        super().__init__()
        self.risky = Raises()
        self.nothing = ReturnsNone()
        self.spare = nn.Sequential(nn.Linear(4, 4), ReturnsNone())
        self.inner = Catches(Raises(ValueError))

    def forward(self, x):
        try:
            self.risky(x)
        except Fault:
            self.nothing(x)
            self.spare(x)
            x = self.inner(x)
            try:
                self.risky(x)
            except Fault:
                self.nothing(x)
        return self.nothing(x)


@case()
class SameExceptionObject(nn.Module):
    """One exception object raised again and again, also while it is itself being handled."""

    def __init__(self):
        super().__init__()
        error = Fault("the only one")
        self.first = RaisesAtOnce(error)
        self.second = nn.Sequential(RaisesAtOnce(error))
        self.nothing = ReturnsNone()

    def forward(self, x):
        for _ in range(2):
            try:
                self.first(x)
            except Fault:
                self.nothing(x)
                try:
                    self.second(x)
                except Fault:
                    self.nothing(x)
        return x


@case(raises=Fault)
class RaisedAgainByCaller(nn.Module):
    """An exception caught from one module and let out of another."""

    def __init__(self):
        super().__init__()
        self.risky = nn.Sequential(Raises())
        self.after = nn.Linear(4, 4)

    def forward(self, x):
        try:
            self.risky(x)
        except Fault as error:
            kept = error
        self.after(x)
        raise kept


@case()
class RetriesUntilItWorks(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        for width in (5, 4, 3):
            try:
                return self.linear(x[:, :width])
            except RuntimeError:
                continue
        return None


@case(raises=StopIteration)
def stop_iteration() -> nn.Module:
    return nn.Sequential(nn.Identity(), RaisesAtOnce(StopIteration("done")))


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


@case(raises=Unprintable)
def unprintable_exception() -> nn.Module:
    return nn.Sequential(RaisesAtOnce(Unprintable()))


@case(raises=Fault)
def hostile_message() -> nn.Module:
    return nn.Sequential(RaisesAtOnce(Fault("\x1b]0;x\x07\ud800</script>\n" + "x" * 1_000_000)))


def _exhausted(model):
    try:
        return model(torch.randn(2, 4))
    except RecursionError:
        return model[0](torch.randn(2, 4))


class Endless(nn.Module):
    def forward(self, x):
        return self(x)


@case(run=_exhausted, hooks_seen=False)
def recursion_error() -> nn.Module:
    """Runs into python's recursion limit; where exactly is not the same with any tool attached."""
    return nn.Sequential(nn.Linear(4, 4), Endless())


@case(aborts=True)
class SignalInForward(nn.Module):
    """A signal's handler raises in the middle of a forward, as Ctrl-C does."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(_Signals(), nn.Linear(4, 4))
        self.after = nn.Linear(4, 4)

    def forward(self, x):
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.inner(x)
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGINT, previous)
        return self.after(x)


class _Signals(nn.Module):
    def forward(self, x):
        signal.raise_signal(signal.SIGINT)
        for _ in range(1_000):
            x = x + 0
        return x


@case(raises=AttributeError, hooks_seen=False)
def never_initialised() -> nn.Module:
    """A class that forgot `super().__init__()`: torch fails before it reaches any hook."""

    class Bare(nn.Module):
        def __init__(self):
            pass

        def forward(self, x):
            return x

    return Bare()


@case(raises=NotImplementedError)
def no_forward() -> nn.Module:
    return nn.ModuleList([nn.Linear(4, 4)])
