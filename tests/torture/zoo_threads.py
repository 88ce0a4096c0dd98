"""Threads, generators and coroutines: calls that do not end in the order they began."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from tests.torture.case import case
from tests.torture.zoo_exceptions import Catches, Raises


def _batches(count):
    return [torch.randn(2, 4) for _ in range(count)]


def _in_threads(model):
    """Threads start at a barrier so that their calls interleave; outputs come back in a fixed order."""
    batches = _batches(6)
    outputs: list[object] = [None] * len(batches)
    ready = threading.Barrier(len(batches))

    def work(index):
        ready.wait()
        outputs[index] = [model(batches[index] + step) for step in range(20)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outputs


@case(run=_in_threads)
def six_threads() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), nn.ReLU())


@case(run=_in_threads)
def exceptions_in_threads() -> nn.Module:
    return Catches(nn.Sequential(Raises()))


@case(run=_in_threads, aborts=True)
def interrupts_in_threads() -> nn.Module:
    return Catches(nn.Sequential(Raises(KeyboardInterrupt)), KeyboardInterrupt)


@case()
class ThreadInForward(nn.Module):
    """Calls on another thread are roots of that thread, whoever started it."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.right = nn.Linear(4, 4)

    def forward(self, x):
        with ThreadPoolExecutor(max_workers=1) as pool:
            pending = pool.submit(self.left, x)
            return self.right(x) + pending.result()


def _dies_in_thread(model):
    def work():
        try:
            model(torch.randn(2, 4))
        except BaseException:  # the thread ends with calls left open
            pass

    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(work).result()
    return model[0](torch.randn(2, 4))


@case(run=_dies_in_thread, aborts=True)
def thread_ends_after_abort() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(Raises(KeyboardInterrupt)))


class Yields(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(3):
            x = self.linear(x)
            yield x


@case()
class ConsumesGenerator(nn.Module):
    """The body of a generator runs where it is consumed."""

    def __init__(self):
        super().__init__()
        self.source = Yields()
        self.head = nn.ReLU()

    def forward(self, x):
        return [self.head(item) for item in self.source(x)]


@case(run=lambda model: [list(model(torch.randn(2, 4))), next(model(torch.randn(2, 4)))])
def generator_as_root() -> nn.Module:
    return Yields()


@case()
class InterleavesGenerators(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = Yields()
        self.right = Yields()

    def forward(self, x):
        pairs = list(zip(self.left(x), self.right(x), strict=True))
        unfinished = self.left(x)
        first = next(unfinished)
        unfinished.close()
        return pairs, first


class Awaits(nn.Module):
    def __init__(self):
        super().__init__()
        self.before = nn.Linear(4, 4)
        self.after = nn.ReLU()

    async def forward(self, x):
        x = self.before(x)
        await asyncio.sleep(0)
        return self.after(x)


def _gathered(model):
    async def main():
        return await asyncio.gather(*[model(batch) for batch in _batches(3)])

    return asyncio.run(main())


@case(run=_gathered)
def coroutines() -> nn.Module:
    return Awaits()
