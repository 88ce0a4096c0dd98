"""Random trees of modules, and twins whose truth is known: renamed, wrapped, with modules more and fewer."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from modtrace.analysis.comparing.module_forest import NamedModule

CONTAINERS = ("Block", "Encoder", "Head", "Stage", "Mixer")
LEAVES = ("Linear", "Conv2d", "LayerNorm", "Embedding")
NAMES = (
    "attn",
    "mlp",
    "fc",
    "proj",
    "norm",
    "conv",
    "stem",
    "head",
    "body",
    "gate",
    "query",
    "key",
    "value",
    "out",
)
WRAPPERS = (
    ("DistributedDataParallel", "module"),
    ("OptimizedModule", "_orig_mod"),
    ("FullyShardedDataParallel", "_fsdp_wrapped_module"),
    ("CheckpointWrapper", "_checkpoint_wrapped_module"),
)


@dataclass
class Made:
    """A module; `identity` is what it is in every twin. `wraps` is the name of the attribute that a wrapper has."""

    identity: int
    type: str
    shapes: tuple = ()
    children: dict[str, Made] = field(default_factory=dict)
    wraps: str = ""

    def copy(self) -> Made:
        children = {name: child.copy() for name, child in self.children.items()}
        return Made(self.identity, self.type, self.shapes, children, self.wraps)

    def walk(self):
        yield self
        for child in self.children.values():
            yield from child.walk()


class Maker:
    """Makes modules; each leaf has parameters of a shape that no other has."""

    def __init__(self, seed: int) -> None:
        self.random, self.count = random.Random(seed), 0

    def leaf(self) -> Made:
        self.count += 1
        return Made(self.count, self.random.choice(LEAVES), (("weight", (self.count + 1, 7)),))

    def tree(self, depth: int) -> Made:
        if depth == 0 or self.random.random() < 0.2:
            return self.leaf()
        self.count += 1
        numbered = self.random.random() < 0.3
        identity, size = self.count, self.random.randint(2, 4)
        names = map(str, range(size)) if numbered else self.random.sample(NAMES, size)
        children = {name: self.tree(depth - 1) for name in names}
        return Made(identity, "Sequential" if numbered else self.random.choice(CONTAINERS), (), children)

    def root(self, depth: int = 3) -> Made:
        made = self.tree(depth)
        while not made.children:
            made = self.tree(depth)
        return made

    def rename(self, tree: Made, times: int) -> None:
        """New names for some children, in their places."""
        holders = [
            made for made in tree.walk() if made.children and made.type != "Sequential" and not made.wraps
        ]
        for _ in range(times if holders else 0):
            holder = self.random.choice(holders)
            old = self.random.choice(list(holder.children))
            new = self.random.choice([f"new_{name}" for name in NAMES])
            if new not in holder.children:
                holder.children = {
                    new if name == old else name: made for name, made in holder.children.items()
                }

    def wrap(self, tree: Made, times: int) -> Made:
        """Wrappers around the root and around some modules below it."""
        for _ in range(times):
            holders = [made for made in tree.walk() if made.children and not made.wraps]
            holder = self.random.choice(holders)
            name = self.random.choice(list(holder.children))
            holder.children[name] = self.wrapped(holder.children[name])
        return self.wrapped(tree) if self.random.random() < 0.5 else tree

    def wrapped(self, made: Made) -> Made:
        kind, attribute = self.random.choice(WRAPPERS)
        return Made(-1, kind, (), {attribute: made}, attribute)

    def add(self, tree: Made, times: int) -> None:
        """New leaves; in what is numbered at any place, the others move up."""
        for _ in range(times):
            holder = self.random.choice([made for made in tree.walk() if made.children and not made.wraps])
            leaf = self.leaf()
            if holder.type == "Sequential":
                below = list(holder.children.values())
                below.insert(self.random.randint(0, len(below)), leaf)
                holder.children = {str(number): made for number, made in enumerate(below)}
            else:
                holder.children[f"added_{leaf.identity}"] = leaf

    def remove(self, tree: Made, times: int) -> None:
        """A child fewer, of those that have two or more left."""
        for _ in range(times):
            holders = [made for made in tree.walk() if len(made.children) > 2]
            if not holders:
                return
            holder = self.random.choice(holders)
            name = self.random.choice(list(holder.children))
            below = {key: made for key, made in holder.children.items() if key != name}
            if holder.type == "Sequential":
                below = {str(number): made for number, made in enumerate(below.values())}
            holder.children = below


def modules_of(tree: Made, root: str = "model") -> tuple[list[NamedModule], list[int]]:
    """The modules as a trace has them, in the order of `named_modules`, and the identity of each; -1 of a wrapper."""
    modules, identities = [], []
    waiting = [(tree, "")]
    while waiting:
        made, name = waiting.pop()
        modules.append(NamedModule(root, name, made.type, "", made.shapes))
        identities.append(made.identity)
        below = [(child, f"{name}.{key}" if name else key) for key, child in made.children.items()]
        waiting += below[::-1]
    return modules, identities
