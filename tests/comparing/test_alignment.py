"""Modules of two runs are paired as the oracle, which made them, knows that they belong together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modtrace.analysis.comparing.alignment import MAPPED, MOVED, RENAMED, SAME, align
from modtrace.analysis.comparing.module_forest import ModuleForest, NamedModule
from modtrace.analysis.comparing.name_map import NameMap
from modtrace.errors import UsageError
from tests.comparing.random_trees import Maker, modules_of


def paired(first, second, names=None):
    """(identity in the baseline, identity in the candidate) of each pair, and the alignment."""
    (ones, one_ids), (others, other_ids) = modules_of(first), modules_of(second)
    found = align(ModuleForest(ones), ModuleForest(others), names)
    return {(one_ids[pair.baseline], other_ids[pair.candidate]) for pair in found.pairs}, found


def common(first, second):
    """The identities that both trees have."""
    return {made.identity for made in first.walk()} & {made.identity for made in second.walk()} - {-1}


COUNTS = st.integers(0, 3)


@settings(max_examples=300)
@given(st.integers(0, 1 << 30), COUNTS, COUNTS)
def test_renamed_and_wrapped_twins_are_paired_whole(seed, renames, wraps):
    maker = Maker(seed)
    first = maker.root()
    second = first.copy()
    maker.rename(second, renames)
    second = maker.wrap(second, wraps)
    pairs, found = paired(first, second)
    assert pairs == {(number, number) for number in common(first, second)}
    assert found.removed == found.added == []


@settings(max_examples=300)
@given(st.integers(0, 1 << 30), COUNTS, COUNTS, COUNTS, COUNTS)
def test_modules_added_and_removed_are_told_from_those_renamed(seed, renames, wraps, more, fewer):
    maker = Maker(seed)
    first = maker.root()
    second = first.copy()
    maker.remove(second, fewer)
    maker.rename(second, renames)
    maker.add(second, more)
    second = maker.wrap(second, wraps)
    pairs, _ = paired(first, second)
    truth = common(first, second)
    leaves = {made.identity for made in first.walk() if not made.children} & truth
    assert {pair for pair in pairs if pair[0] in leaves or pair[1] in leaves} == {(n, n) for n in leaves}
    assert len(pairs & {(n, n) for n in truth}) >= 0.8 * len(truth)


def forest(*rows, root="model"):
    """Modules by name, class and shape of a weight, `Linear 4` or `ReLU`."""
    modules = []
    for name, text in rows:
        kind, _, size = text.partition(" ")
        shapes = (("weight", (int(size), 3)),) if size else ()
        modules.append(NamedModule(root, name, kind, "", shapes))
    return ModuleForest(modules)


def told(found, first, second):
    """(name, name, how) of each pair that is not the same by name."""
    return [
        (first.path[pair.baseline], second.path[pair.candidate], pair.how)
        for pair in found.pairs
        if pair.how != SAME
    ]


def names_of(forest_of, numbers):
    return [forest_of.path[number] for number in numbers]


def test_equal_runs_are_the_same_by_name():
    one = forest(("", "Net"), ("a", "Linear 4"), ("b", "Linear 4"))
    found = align(one, one)
    assert [(pair.baseline, pair.candidate, pair.how, pair.confidence) for pair in found.pairs] == [
        (0, 0, SAME, 1.0), (1, 1, SAME, 1.0), (2, 2, SAME, 1.0),
    ]  # fmt: skip


def test_what_is_put_into_a_sequence_moves_nothing_else():
    one = forest(("", "Sequential"), ("0", "Conv2d 8"), ("1", "ReLU"), ("2", "Conv2d 8"), ("3", "ReLU"))
    other = forest(
        ("", "Sequential"),
        ("0", "Conv2d 8"),
        ("1", "BatchNorm2d 8"),
        ("2", "ReLU"),
        ("3", "Conv2d 8"),
        ("4", "ReLU"),
    )
    found = align(one, other)
    assert [(pair.baseline, pair.candidate) for pair in found.pairs] == [
        (0, 0),
        (1, 1),
        (2, 3),
        (3, 4),
        (4, 5),
    ]
    assert names_of(other, found.added) == ["model.1"]
    assert found.removed == []


def test_a_class_that_changed_is_the_module_of_that_name():
    one = forest(("", "Net"), ("fc", "Linear 4"), ("act", "ReLU"), ("out", "Linear 9"))
    other = forest(("", "Net"), ("fc", "Linear 4"), ("act", "GELU"), ("out", "Linear 9"))
    assert len(align(one, other).pairs) == 4
    replaced = forest(
        ("", "Net"), ("fc", "Dropout"), ("act", "ReLU"), ("proj", "Linear 4"), ("out", "Linear 9")
    )
    found = align(one, replaced)
    assert ("model.fc", "model.proj", RENAMED) in told(found, one, replaced)
    assert names_of(replaced, found.added) == ["model.fc"]


def test_a_level_more_or_fewer():
    one = forest(
        ("", "Net"),
        ("layers", "ModuleList"),
        ("layers.0", "Linear 4"),
        ("layers.1", "Linear 5"),
        ("head", "Linear 6"),
    )
    other = forest(
        ("", "Net"), ("encoder", "Encoder"), ("encoder.layers", "ModuleList"), ("encoder.layers.0", "Linear 4"),
        ("encoder.layers.1", "Linear 7"), ("head", "Linear 6"),
    )  # fmt: skip
    for first, second, added in ((one, other, ["model.encoder"]), (other, one, [])):
        found = align(first, second)
        assert names_of(second, found.added) == added
        moved = [pair for pair in found.pairs if pair.how == MOVED]
        assert [first.label[pair.baseline] for pair in moved] == ["layers"]
        assert len(found.pairs) == 5
    assert names_of(other, align(other, one).removed) == ["model.encoder"]


def test_roots_are_told_apart_by_what_is_in_them():
    def gan(generator, discriminator):
        rows = [
            NamedModule(generator, "", "Sequential"),
            NamedModule(generator, "0", "Linear", "", (("weight", (3, 3)),)),
        ]
        rows += [
            NamedModule(discriminator, "", "Sequential"),
            NamedModule(discriminator, "0", "Linear", "", (("weight", (9, 3)),)),
        ]
        return ModuleForest(rows)

    one, other = gan("G", "D"), gan("generator", "critic")
    found = align(one, other)
    assert told(found, one, other) == [("G", "generator", RENAMED), ("D", "critic", RENAMED)]
    assert [pair.confidence for pair in found.pairs] == [1.0] * 4


def test_of_equal_candidates_the_first_is_taken_and_the_doubt_is_told():
    one = forest(("", "Net"), ("a", "Linear 4"))
    other = forest(("", "Net"), ("x", "Linear 4"), ("y", "Linear 4"))
    found = align(one, other)
    pair = found.pairs[1]
    assert (other.path[pair.candidate], pair.how, pair.confidence) == ("model.x", RENAMED, 0.5)


def test_a_map_has_the_last_word():
    one = forest(("", "Net"), ("old", "Linear 4"), ("other", "Linear 5"))
    other = forest(("", "Net"), ("new", "Linear 5"), ("more", "Linear 4"))
    assert ("model.old", "model.more", RENAMED) in told(align(one, other), one, other)
    for text in ("old=new", "model.old=model.new"):
        found = align(one, other, NameMap([text]))
        assert [pair for pair in told(found, one, other) if pair[2] == MAPPED] == [
            ("model.old", "model.new", MAPPED)
        ]
    lists = (
        forest(("", "Net"), ("h.0", "Linear 4"), ("h.1", "Linear 4")),
        forest(("", "Net"), ("h.1", "Linear 4"), ("h.2", "Linear 4")),
    )
    found = align(*lists, NameMap(["h.0=h.2"]))
    assert [(pair.baseline, pair.candidate) for pair in found.pairs] == [(0, 0), (1, 2), (2, 1)]


@pytest.mark.parametrize(
    ("text", "name", "new"),
    [
        ("encoder.*=enc.*", "encoder.layers.0", "enc.layers.0"),
        ("*.attn.*=*.attention.*", "h.3.attn.q", "h.3.attention.q"),
        ("a.b=c", "a.b", "c"),
        ("a.b=c", "aXb", None),
        ("encoder.*=enc.*", "decoder.0", None),
    ],
)
def test_patterns_of_names(text, name, new):
    assert NameMap([text]).renamed(name) == new


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a.*=b", "a.*.*=b.*"])
def test_a_map_that_says_nothing_is_refused(text):
    with pytest.raises(UsageError, match="--map"):
        NameMap([text])


def test_a_very_deep_and_a_very_wide_model():
    deep = forest(*[(".".join(["b"] * level), f"Block {level + 2}") for level in range(1500)])
    assert [pair.how for pair in align(deep, deep).pairs] == [SAME] * 1500
    wide = [("", "Net"), ("h", "ModuleList"), *((f"h.{n}", "Linear 4") for n in range(3000))]
    found = align(forest(*wide), forest(*wide[:-1], ("h.2999", "Linear 5")))
    assert len(found.pairs) == 3002
    assert found.added == found.removed == []
