"""Patterns and the Trie against a reference that is slow and plainly right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from earnorm.errors import InvalidName
from earnorm.names import Pattern, Patterns, Trie, validate_name
from tests.properties.strategies import names, pattern_lists, patterns


def hears(pattern: list[str], name: list[str]) -> bool:
    """The definition, word for word."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return hears(pattern[1:], name) or (bool(name) and hears(pattern, name[1:]))
    return bool(name) and pattern[0] in ("*", name[0]) and hears(pattern[1:], name[1:])


def heard(pattern: str, name: str) -> bool:
    return hears(pattern.split("."), name.split("."))


@given(patterns, names)
def test_a_pattern_matches_what_its_definition_says(pattern, name):
    assert heard(pattern, name) == Pattern.parse(pattern).matches(name)


@given(pattern_lists, names)
def test_a_list_includes_at_least_once_and_excludes_never(texts, name):
    included = any(heard(text, name) for text in texts if not text.startswith("!"))
    excluded = any(heard(text[1:], name) for text in texts if text.startswith("!"))

    assert (included and not excluded) == Patterns.parse(texts).matches(name)


@given(st.lists(patterns, max_size=20), names)
def test_a_trie_finds_what_each_pattern_would(registered, name):
    trie = Trie[int]()
    for i, pattern in enumerate(registered):
        trie.add(pattern, i)

    assert [i for i, pattern in enumerate(registered) if heard(pattern, name)] == sorted(trie.match(name))


@given(st.lists(patterns, max_size=20), st.data())
def test_what_is_removed_from_a_trie_leaves_the_rest(registered, data):
    trie = Trie[str]()
    for pattern in registered:
        trie.add(pattern, pattern)
    removed = data.draw(st.lists(st.sampled_from(registered), unique=True) if registered else st.just([]))
    for pattern in removed:
        trie.remove(pattern, pattern)
    name = data.draw(names)

    left = Counter(registered) - Counter(removed)
    assert Counter({p: n for p, n in left.items() if heard(p, name)}) == Counter(trie.match(name))


@given(st.lists(patterns, unique=True, max_size=20))
def test_a_trie_that_was_emptied_keeps_nothing(registered):
    trie = Trie[str]()
    for pattern in registered:
        trie.add(pattern, pattern)
    for pattern in registered:
        trie.remove(pattern, pattern)

    assert {} == trie._root.children


@given(st.text() | st.integers() | st.none() | st.binary())
def test_anything_is_a_name_or_an_invalid_one(thing):
    assert thing == accepted_or_refused(validate_name, thing)


@given(st.text(st.sampled_from("a.*!_ \n"), max_size=30))
def test_anything_is_a_pattern_or_an_invalid_one(text):
    read = str(accepted_or_refused(Pattern.parse, text))

    assert text == read or "**.**" in text


def accepted_or_refused(call: Callable[[Any], Any], thing: Any) -> Any:
    """What it gave, or the name it refused; anything else it raises is a fault."""
    try:
        return call(thing)
    except InvalidName as refusal:
        return refusal.name


@given(names)
def test_every_name_is_a_pattern_of_itself(name):
    assert Pattern.parse(validate_name(name)).matches(name)
