"""Event names and patterns: `subject.verb`, what a model makes of a short name, and who hears which name.

A name has 1 to 8 segments of letters, digits and underscores, joined by dots. In a pattern `*` stands for
one segment and `**` for any number of them, none included: `user.**` also hears `user`. A leading `!`
excludes: `["user.*", "!user.login"]`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from earnorm.errors import InvalidName

__all__ = [
    "MAX_NAME",
    "MAX_SEGMENT",
    "MAX_SEGMENTS",
    "Pattern",
    "Patterns",
    "Trie",
    "canonical_view",
    "field_view",
    "is_pattern",
    "plural",
    "qualify",
    "real_module",
    "snake_case",
    "validate_name",
]

T = TypeVar("T")

MAX_NAME = 200
MAX_SEGMENT = 64
MAX_SEGMENTS = 8

_SEGMENT = rf"[A-Za-z0-9_]{{1,{MAX_SEGMENT}}}"
_NAME = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT}){{0,{MAX_SEGMENTS - 1}}}")
_FOREIGN = re.compile(r"[^A-Za-z0-9_]")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_VIEW = re.compile(rf"({_SEGMENT}?)(?:_change|_changed|\.changed)")


# --- names ----------------------------------------------------------------------------------


def validate_name(name: object) -> str:
    """`name` itself if it can be an event's name; otherwise InvalidName with the exact reason."""
    if not isinstance(name, str):
        raise InvalidName(name, f"a name is a string, not {type(name).__name__}")
    if len(name) <= MAX_NAME and _NAME.fullmatch(name):
        return str.__str__(name)  # of a str enum its value
    raise InvalidName(name, _fault(name, ()))


def _fault(name: str, wildcards: Iterable[str]) -> str:
    if not name:
        return "it is empty"
    if len(name) > MAX_NAME:
        return f"it has {len(name)} characters, {MAX_NAME} are allowed"
    segments = name.split(".")
    faults = (_segment_fault(segment) for segment in segments if segment not in wildcards)
    fault = next((fault for fault in faults if fault), "")
    return fault or f"it has {len(segments)} segments, {MAX_SEGMENTS} are allowed"


def _segment_fault(segment: str) -> str:
    if not segment:
        return "a segment between the dots is empty"
    foreign = _FOREIGN.search(segment)
    if foreign is None:
        too_long = len(segment) > MAX_SEGMENT
        return f"segment {segment!r} has {len(segment)} characters, {MAX_SEGMENT} are allowed" if too_long else ""
    character = foreign[0]
    if character == "*":
        return f"a wildcard stands for whole segments and in patterns only, not in {segment!r}"
    if not character.isprintable():
        return f"it holds the control or invisible character U+{ord(character):04X}"
    return f"the character {character!r} is not allowed"


def snake_case(class_name: str) -> str:
    """`OrderLine` → `order_line`, `HTTPRequest` → `http_request`."""
    return _WORD_START.sub("_", class_name).lower()


def plural(word: str) -> str:
    """The plural by the plain rules of English: a table's name, never a text for people."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in ("", "a", "e", "i", "o", "u"):
        return word[:-1] + "ies"
    return word + "s"


def qualify(name: str, subject: str) -> str:
    """What `name` means inside a model: relative, unless it starts with the model's own subject."""
    if name.startswith("!"):
        return "!" + qualify(name[1:], subject)
    return name if name.startswith(subject + ".") else f"{subject}.{name}"


def field_view(verb: str) -> str | None:
    """The field whose change `verb` would be a view of, whether or not that field exists.

    `status_change`, `status_changed` and `status.changed` all mean `status`; `created` means none.
    """
    view = _VIEW.fullmatch(verb)
    return view[1] if view else None


def canonical_view(subject: str, field: str) -> str:
    """The one name that every spelling of a field's view stands for."""
    return f"{subject}.{field}.changed"


@cache
def real_module(module: str) -> str:
    """The import path of a module: a script's names are the same whether it is run or imported."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    path: str | None = getattr(main, "__file__", None)
    return path.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py") if path else module


# --- patterns -------------------------------------------------------------------------------


_WILDCARDS = ("*", "**")


def is_pattern(text: str) -> bool:
    """Whether `text` is more than a plain name."""
    return "*" in text or text.startswith("!")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern. `matches` speaks of its segments alone; `excluded` says what a match then means."""

    segments: tuple[str, ...]
    excluded: bool = False

    @classmethod
    def parse(cls, text: object) -> Pattern:
        if not isinstance(text, str):
            raise InvalidName(text, f"a pattern is a string, not {type(text).__name__}")
        bare = text[1:] if text.startswith("!") else str.__str__(text)
        segments = bare.split(".")
        if len(bare) > MAX_NAME or len(segments) > MAX_SEGMENTS or any(map(_not_in_pattern, segments)):
            raise InvalidName(text, _fault(bare, _WILDCARDS))
        return cls(_without_repeats(segments), excluded=text.startswith("!"))

    def __str__(self) -> str:
        return "!" * self.excluded + ".".join(self.segments)

    def matches(self, name: str) -> bool:
        """Whether the segments fit, in steps that grow with segments times segments at worst."""
        return _fits(self.segments, name.split("."))


def _not_in_pattern(segment: str) -> bool:
    return segment not in _WILDCARDS and bool(_segment_fault(segment))


def _without_repeats(segments: list[str]) -> tuple[str, ...]:
    """`**.**` says no more than `**`."""
    return tuple(segment for i, segment in enumerate(segments) if segment != "**" or i == 0 or segments[i - 1] != "**")


def _fits(pattern: tuple[str, ...], name: list[str]) -> bool:
    at = step = 0
    # The last `**` seen and where it stopped taking: on a misfit it takes one segment more, no earlier one needs to.
    star, taken = -1, 0
    while step < len(name):
        if at < len(pattern) and pattern[at] == "**":
            star, taken = at, step
            at += 1
        elif at < len(pattern) and pattern[at] in ("*", name[step]):
            at += 1
            step += 1
        elif star >= 0:
            taken += 1
            at, step = star + 1, taken
        else:
            return False
    return all(segment == "**" for segment in pattern[at:])


@dataclass(frozen=True, slots=True)
class Patterns:
    """A list of patterns: heard is what at least one of them includes and none excludes. Their order means nothing."""

    included: tuple[Pattern, ...]
    excluded: tuple[Pattern, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Patterns:
        texts = [texts] if isinstance(texts, str) else list(texts)
        parsed = [Pattern.parse(text) for text in texts]
        included = tuple(pattern for pattern in parsed if not pattern.excluded)
        if not parsed:
            raise InvalidName(texts, "an empty list of patterns hears nothing")
        if not included:
            raise InvalidName(texts, "a list that only excludes hears nothing; add '**' for everything else")
        return cls(included, tuple(pattern for pattern in parsed if pattern.excluded))

    def matches(self, name: str) -> bool:
        segments = name.split(".")
        return any(_fits(pattern.segments, segments) for pattern in self.included) and not self.excludes(name)

    def excludes(self, name: str) -> bool:
        """Whether one of the exclusions fits: what remains to be asked of a name that a Trie has found."""
        return any(pattern.matches(name) for pattern in self.excluded)


# --- many patterns --------------------------------------------------------------------------


class _Node(Generic[T]):
    __slots__ = ("absorbs", "children", "values")

    def __init__(self, *, absorbs: bool = False) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: list[T] = []
        self.absorbs = absorbs  # reached by `**`: stays where it is on any segment


class Trie(Generic[T]):
    """Values by pattern. A match walks the branches that fit, whatever else is registered.

    Values come in no promised order, and once for each of their patterns that fits.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: Pattern | str, value: T) -> None:
        node = self._root
        for segment in _included(pattern):
            found = node.children.get(segment)
            if found is None:
                found = node.children[segment] = _Node(absorbs=segment == "**")
            node = found
        node.values.append(value)

    def remove(self, pattern: Pattern | str, value: T) -> None:
        """Take back one `add`; KeyError if there was none."""
        path = [self._root]
        segments = _included(pattern)
        for segment in segments:
            if segment not in path[-1].children:
                raise KeyError(str(pattern))
            path.append(path[-1].children[segment])
        if value not in path[-1].values:
            raise KeyError(str(pattern))
        path[-1].values.remove(value)
        _prune(path, segments)

    def match(self, name: str) -> list[T]:
        active = _with_deeper([self._root])
        for segment in name.split("."):
            active = _with_deeper(_step(active, segment))
        return [value for node in active for value in node.values]


def _included(pattern: Pattern | str) -> tuple[str, ...]:
    pattern = Pattern.parse(pattern) if isinstance(pattern, str) else pattern
    if pattern.excluded:
        raise InvalidName(str(pattern), "an exclusion cannot be looked up; Patterns asks it of what was found")
    return pattern.segments


def _step(active: list[_Node[T]], segment: str) -> list[_Node[T]]:
    following: list[_Node[T]] = []
    for node in active:
        if node.absorbs:
            following.append(node)
        for key in (segment, "*"):
            child = node.children.get(key)
            if child is not None:
                following.append(child)
    return following


def _with_deeper(nodes: list[_Node[T]]) -> list[_Node[T]]:
    """The nodes and those one `**` further on, which takes no segment. Each once: states never multiply."""
    reached = {id(node): node for node in nodes}
    for node in nodes:
        deeper = node.children.get("**")
        if deeper is not None:
            reached[id(deeper)] = deeper
    return list(reached.values())


def _prune(path: list[_Node[T]], segments: tuple[str, ...]) -> None:
    """Drop the nodes that lead nowhere any more."""
    for parent, segment, node in zip(reversed(path[:-1]), reversed(segments), reversed(path[1:]), strict=True):
        if node.values or node.children:
            return
        del parent.children[segment]
