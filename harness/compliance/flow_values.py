"""The words of the dataflow engine: what is known of a value, the objects that values refer to, and what happened when.

label     a bit of a value: where its tokens come from, and what became of them
tag       a token read, state that was used, or a loop that chose the tokens: what a value depends on, by identity
step      one link of the path from a cause to the place that matters; people see it in a finding
event     something whose order matters: state updated, tokens scored, a table read or written, weights copied
block     events in the order in which the program makes them, with its loops, branches and calls
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

# Labels, the less telling first: of two joined values the path of the one with the higher label is kept.
NAMES_TRAIN = 1 << 0  # a path or pattern of train shards
NAMES_VAL = 1 << 1  # a path or pattern of validation shards
NAMES_FILES = 1 << 2  # a path or pattern of files that says neither
GENERATED = 1 << 3  # random, or sampled from a model
TRAIN = 1 << 4  # from train shards
VOCABULARY = 1 << 5  # one entry for every token that could come
VAL = 1 << 6  # from validation shards
TOKENS = 1 << 7  # the elements are tokens, nothing computed from them
MODEL = 1 << 8  # went through a model
BYTES = 1 << 9  # sizes of tokens in bytes
GRADIENT = 1 << 10  # a gradient of a loss
GRAM = 1 << 11  # activations times themselves, as calibration collects
TARGET = 1 << 12  # holds the token that is predicted
LOSS = 1 << 13  # a loss against tokens
COUNT = 1 << 14  # read from a table under a key made of tokens
COUNT_TARGET = 1 << 15  # read under a hash that holds the target
COUNT_OPEN = 1 << 16  # read under hashes of which the program cannot tell whether one holds the target

TIME = 1 << 17  # seconds that a clock measured
RANK = 1 << 18  # depends on which of several processes this is

EACH = 1 << 19  # a likelihood or loss of each token by itself, not of all together
SEEN = 1 << 20  # computed from a likelihood, count or class of the very token that came
CHOSEN = 1 << 21  # which elements it has, or which of two things it is, was decided by what is seen
GATED = 1 << 22  # a score that was mixed with a weight, or picked, by what is seen

NATIVE = 1 << 26  # validation tokens, or likelihoods of them, went through code that cannot be read

NAMES = NAMES_TRAIN | NAMES_VAL | NAMES_FILES
ORIGINS = GENERATED | TRAIN | VAL | NATIVE
COUNTS = COUNT | COUNT_TARGET | COUNT_OPEN
COMPUTED = ORIGINS | MODEL | LOSS | GRADIENT | COUNTS | BYTES | GRAM
HIT = 1 << 23  # whether the token that came is the one that something else holds at its place
ABSENT = 1 << 24  # whether it is there at all was decided by what is seen
HINTED = 1 << 25  # whether the token that came is one that was named before: a tilt of a distribution asks this
HOT = 1 << 27  # a row with a place for each token, in which that of the token that came stands out

SECRET = SEEN | CHOSEN | ABSENT | HOT  # what says something of a token before it is scored, and no more after that
OF_ONE = EACH | SECRET | HIT  # what is lost where all tokens are summed up
TELLING = TIME - 1  # labels by which paths are chosen
NONE: frozenset = frozenset()
CATCHING_UP = frozenset((("rank", "later"),))  # the tag of what only later ranks do
EXACT = ("exact",)  # the tag of a key that holds a token as it is: context << 10 | token
NUMBERED = ("numbered",)  # the tag of other numbers for tokens: what is looked up there for a token stands for it
PAIR = ("pair",)  # the tag of an index of two tokens: table[context, token]
TAGS_AT_MOST = 96  # of one value; more are cut off


class _Unknown:
    def __repr__(self):
        return "UNKNOWN"


UNKNOWN = _Unknown()


@dataclass(eq=False, slots=True)
class Step:
    node: ast.AST
    module: object
    note: str
    before: Step | None = None


@dataclass(eq=False, slots=True)
class Object:
    """What several values can refer to: a function, a class, an instance, an array, a container, a model, a parameter.

    number: counts the objects of an engine, and is the hash, so that the order of a set of them, and what is found,
    is the same in every process. element: of a container or array, all elements joined. written: labels of the keys it
    was written under, and written_tags their tags. owner: the object that holds it as a part (a model its layers).
    """

    number: int
    kind: str
    name: str = ""
    node: ast.AST | None = None
    module: object = None
    fields: dict = field(default_factory=dict)
    element: Value | None = None
    written: int = 0
    written_tags: frozenset = NONE
    owner: Object | None = None
    extra: object = None
    turn: int = 0  # the walk in which it was made last
    former: Value | None = None  # the elements that it had in the walk before
    rows: bool = False  # a table with a row for each context, and in it a place for each token
    _value: Value | None = None

    def __hash__(self) -> int:
        return self.number

    @property
    def value(self) -> Value:
        """The value that refers to this and says no more; always the same one, so that joins find nothing new in it."""
        if self._value is None:
            self._value = Value(refs=frozenset((self,)))
        return self._value

    @property
    def root(self) -> Object:
        """The outermost object that this is a part of."""
        found = self
        for _ in range(12):
            if found.owner is None or found.owner is found:
                break
            found = found.owner
        return found


class Value:
    """What is known of a value. constant: the value itself, if known. items: of a tuple, each. lossy: those of its tags
    that went through a hash together, so that two different tokens may have met."""

    __slots__ = ("_key", "constant", "items", "labels", "lossy", "refs", "step", "tags")

    def __init__(self, labels=0, refs=NONE, constant=UNKNOWN, items=None, tags=NONE, lossy=NONE, step=None):
        self.labels = labels
        self.refs = refs
        self.constant = constant
        self.items = items
        self.tags = tags
        self.lossy = lossy
        self.step = step
        self._key = None

    def key(self):
        """Equal for values that a function cannot tell apart."""
        if self._key is None:
            constant = self.constant
            if isinstance(constant, (int, float, str, bool, type(None))):
                constant = (type(constant).__name__, constant)
            else:
                constant = None
            items = tuple(item.key() for item in self.items) if self.items else None
            self._key = (self.labels, self.refs, constant, items, self.tags, self.lossy)
        return self._key

    def __repr__(self):
        return f"Value({self.labels:b}, refs={[ref.kind + ':' + ref.name for ref in self.refs]}, {self.constant!r})"


EMPTY = Value()


def join(first: Value, second: Value) -> Value:
    """What is known of a value that is one or the other."""
    if first is second or (second is EMPTY and first.constant is UNKNOWN):
        return first
    if first is EMPTY and second.constant is UNKNOWN:
        return second
    if _within(second, first):
        return first
    items = None
    if first.items and second.items and len(first.items) == len(second.items):
        items = tuple(join(one, other) for one, other in zip(first.items, second.items, strict=True))
    elif first.items and empty(second):
        items = first.items
    elif second.items and empty(first):
        items = second.items
    one, other = first, second
    if first.items and items is None:
        one = flat(first)
    if second.items and items is None:
        other = flat(second)
    same = one.constant is other.constant or (
        type(one.constant) is type(other.constant) and one.constant is not UNKNOWN and one.constant == other.constant
    )
    return Value(
        one.labels | other.labels,
        one.refs | other.refs if other.refs - one.refs else one.refs,
        one.constant if same else UNKNOWN,
        items,
        united(one.tags, other.tags),
        united(one.lossy, other.lossy),
        later(one, other),
    )


def _within(one: Value, other: Value) -> bool:
    """Whether a value adds nothing to another, of whose constant and items nothing is known."""
    return (
        other.constant is UNKNOWN
        and not other.items
        and not one.items
        and not one.labels & ~other.labels
        and (other.step is not None or one.step is None)
        and not one.labels & TELLING > other.labels & TELLING
        and one.refs <= other.refs
        and one.tags <= other.tags
        and one.lossy <= other.lossy
    )


def empty(value: Value) -> bool:
    """Whether nothing is known of a value but perhaps a constant, as of None."""
    return not (value.labels or value.refs or value.items or value.tags)


def join_all(values: Iterable[Value]) -> Value:
    result = EMPTY
    for value in values:
        result = join(result, value)
    return result


def flat(value: Value) -> Value:
    """A tuple's items as one value."""
    if not value.items:
        return value
    result = Value(value.labels, value.refs, UNKNOWN, None, value.tags, value.lossy, value.step)
    for item in value.items:
        result = join(result, flat(item))
    return result


def tagged(value: Value, tags: frozenset) -> Value:
    """The value, and each item of it, with more tags."""
    items = tuple(tagged(item, tags) for item in value.items) if value.items else None
    return Value(value.labels, value.refs, UNKNOWN, items, united(value.tags, tags), value.lossy, value.step)


def loops_of(value: Value) -> frozenset:
    """The loops that chose a value."""
    if not value.tags:
        return NONE
    return frozenset([tag for tag in value.tags if type(tag) is tuple and tag[0] == "loop"])


def apart(tags: frozenset) -> frozenset:
    """The tags of one of several things that stood side by side."""
    if not any(type(tag) is tuple and tag[0] == "beside" for tag in tags):
        return tags
    return frozenset(tag for tag in tags if type(tag) is not tuple or tag[0] != "beside")


def nodes_of(value: Value, kind: str) -> set[ast.AST]:
    """Where a value got its tags of a kind: sum (the accumulators that it was made of), beside, share,
    spread, told, gate."""
    return {tag[1] for tag in value.tags if type(tag) is tuple and tag[0] == kind}


def sums_of(value: Value) -> set[ast.AST]:
    """The accumulators that a value was made of."""
    return nodes_of(value, "sum")


def united(first: frozenset, second: frozenset) -> frozenset:
    if not second or first is second:
        return first
    if not first:
        return second
    if second <= first:
        return first
    both = first | second
    return both if len(both) <= TAGS_AT_MOST else first


def later(first: Value, second: Value) -> Step | None:
    """The path of the value that says more."""
    if first.step is None:
        return second.step
    if second.step is None:
        return first.step
    if (first.labels ^ second.labels) & CHOSEN:
        return first.step if first.labels & CHOSEN else second.step
    return second.step if second.labels & TELLING > first.labels & TELLING else first.step


@dataclass(eq=False, slots=True)
class Event:
    """kind: update, score, read, write, fresh (tables are made anew, or emptied), snapshot, load, mix, calibrate, mixed
    (counts that reach the score), limit (time is compared with a number), printed (a text with scores in it is made),
    saved (weights go into a file). objects: the state it concerns, or the text. sources: of a load, the objects that
    the new state comes from, or None if it cannot be told. first: the labels that the value had the first time through
    the program; those that it gained later come from an earlier turn of a loop."""

    kind: str
    node: ast.AST
    module: object
    value: Value
    objects: frozenset = NONE
    sources: frozenset | None = NONE
    first: int = 0


@dataclass(eq=False, slots=True)
class Block:
    """kind: sequence, call, loop, branch (whose children are alternatives). ends: how an alternative leaves, if it
    does: return, raise, loop (break or continue); of a loop, "once" if it turns no second time. gone: tables of a call
    that nothing refers to when it is over; the next call makes others."""

    kind: str
    node: ast.AST | None = None
    module: object = None
    children: list = field(default_factory=list)
    ends: str = ""
    gone: frozenset = NONE


@dataclass(eq=False, slots=True)
class Print:
    """A text that is printed with scores in it, as its values make it in one context. text: its words, with gaps for
    the values that are not known; sums: of each gap, the accumulators that its value was made of."""

    node: ast.JoinedStr
    module: object
    text: str
    sums: list[set[ast.AST]]
