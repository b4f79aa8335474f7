"""What happened before what: from the events of `flow_engine.py` to the pairs that matter, "this state was changed with
validation tokens, and then validation tokens were scored with it"."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Collection
from dataclasses import dataclass, field

from harness.compliance.flow_values import CATCHING_UP, GRADIENT, LOSS, TRAIN, VAL, Block, Event, Object, Print, sums_of

EVENTS_AT_MOST = 100_000


@dataclass
class State:
    """At one point of a run. dirty: weights that were changed with validation tokens, and by what. tables: the same for
    tables. later: what becomes dirty when the current turn of the loop is over. trained: the last update with train
    tokens. scored: what validation tokens were scored with, and whether for a score that is judged; where, and in which
    loops."""

    dirty: dict[Object, Event] = field(default_factory=dict)
    tables: dict[Object, Event] = field(default_factory=dict)
    later: dict[Object, Event] = field(default_factory=dict)
    trained: Event | None = None
    saved: dict[Object, Event | None] = field(default_factory=dict)  # weights in files: the same as `dirty`
    scored: dict[tuple[Object, bool], tuple[Event, tuple]] = field(default_factory=dict)
    roots: set[Object] = field(default_factory=set)  # weights that were trained on train tokens

    def copy(self) -> State:
        copied = (dict(self.dirty), dict(self.tables), dict(self.later), self.trained, dict(self.saved))
        return State(*copied, dict(self.scored), set(self.roots))

    def take(self, other: State) -> None:
        """Either may be the case."""
        for mine, theirs in ((self.dirty, other.dirty), (self.tables, other.tables), (self.later, other.later)):
            for key, value in theirs.items():
                mine.setdefault(key, value)
        self.trained = self.trained or other.trained
        self.roots |= other.roots
        for key, value in other.scored.items():
            self.scored.setdefault(key, value)
        for key, value in other.saved.items():
            self.saved[key] = self.saved.get(key) or value


@dataclass(frozen=True)
class Pair:
    """before: an update or a write; after: a score or a read. state: what carries it from one to the other. again: the
    tokens had been scored before the update. turn: the loop whose next turn brings it back, if it is one."""

    before: Event
    after: Event
    state: Object
    again: bool
    turn: ast.AST | None = None


class Order:
    """Goes through the events. pairs: what is wrong. legal: updates on validation tokens that were scored first, and
    whether for a score that is judged. updates, scores: all of them that concern shards. counted, until: the scores
    that are judged, if not all are, and the step after which none is; of the others it only matters what was learned
    after them. printed_at: the last step, outside of loops, at which each text with scores was made."""

    def __init__(
        self,
        root: Block,
        real: set[ast.AST],
        counted: Collection[ast.AST] | None = None,
        until: int | None = None,
    ) -> None:
        self.real = real
        self.counted = counted
        self.until = until
        self.printed_at: dict[Print, int] = {}
        self.pairs: dict[tuple, Pair] = {}
        self.legal: dict[ast.AST, tuple[Event, Event, bool]] = {}
        self.calibrated: dict[ast.AST, tuple[Event, Event | None, tuple]] = {}
        self.updates: list[Event] = []
        self.scores: list[Event] = []
        self.limits: list[tuple[Event, tuple]] = []
        self.training: set[ast.AST] = set()  # loops that update weights with train tokens
        self.count = 0
        self.turns: list[ast.AST] = []  # loops whose second turn this is, outermost first
        self.loops: list[ast.AST] = []  # around the current event
        self.seen: set[int] = set()
        self.complete = True
        self.sequence(root, State())

    # -- structure -------------------------------------------------------------------------------------------------

    def sequence(self, block: Block, state: State) -> tuple[State | None, list[State], list[State]]:
        """The state afterwards (None if the block always leaves), and those at returns and at breaks."""
        returns: list[State] = []
        breaks: list[State] = []
        for child in block.children:
            self.count += 1
            if self.count > EVENTS_AT_MOST:
                self.complete = False
                break
            if isinstance(child, Event):
                self.event(child, state)
            elif child.kind == "branch":
                going = None
                for alternative in child.children:
                    after, inner_returns, inner_breaks = self.sequence(alternative, state.copy())
                    returns += inner_returns
                    breaks += inner_breaks
                    if after is None or alternative.ends == "raise":
                        continue
                    if alternative.ends == "return":
                        returns.append(after)
                    elif alternative.ends == "loop":
                        breaks.append(after)
                    elif going is None:
                        going = after
                    else:
                        going.take(after)
                if going is None:
                    return None, returns, breaks
                state.__dict__.update(going.__dict__)
            elif child.kind == "call":
                after, inner, _ = self.sequence(child, state)
                if after is None and inner:
                    after = inner.pop()
                for one in inner:
                    after.take(one)
                if after is not None:
                    for table in child.gone:
                        after.tables.pop(table, None)
                    state.__dict__.update(after.__dict__)
            else:
                returns += self.loop(child, state)
        return state, returns, breaks

    def loop(self, block: Block, state: State) -> list[State]:
        before = state.copy()
        entry = state.copy()
        self.loops.append(block.node)
        after, returns, breaks = self.sequence(block, state)
        ends = ([after] if after is not None else []) + breaks
        if ends:  # a loop is taken to turn at least once, as over parameters that are put back
            before = ends[0].copy()
            for one in ends[1:]:
                before.take(one)
        if isinstance(block.node, ast.For) and block.ends != "once":
            again = before.copy()
            again.dirty = {key: value for key, value in again.dirty.items() if entry.dirty.get(key) is not value}
            again.tables = {key: value for key, value in again.tables.items() if key not in entry.tables}
            if again.dirty or again.tables:
                self.turns.append(block.node)
                self.sequence(block, again)
                self.turns.pop()
        self.loops.pop()
        if not self.loops:  # which loop hands the tokens on is not known; the outermost does at the latest
            for key, value in before.later.items():
                before.dirty.setdefault(key, value)
            before.later = {}
        state.__dict__.update(before.__dict__)
        return returns

    # -- events ----------------------------------------------------------------------------------------------------

    def event(self, event: Event, state: State) -> None:
        getattr(self, event.kind)(event, state)

    def update(self, event: Event, state: State) -> None:
        labels = event.value.labels
        if not self.turns and id(event) not in self.seen:
            self.seen.add(id(event))
            self.updates.append(event)
        if labels & TRAIN and not labels & VAL:
            state.trained = event
            self.training.update(self.loops)
            state.roots.update(one.root for one in event.objects)
        if not labels & VAL or self.turns:
            return
        for one in event.objects:
            root = one.root
            used = [root, *(tag.root for tag in event.value.tags if isinstance(tag, Object))]
            for counted, weights in itertools.product((True, False), used):
                scored, loops = state.scored.get((weights, counted), (None, ()))
                if scored is not None and self.first_scored(scored, loops, event):
                    self.legal.setdefault(event.node, (scored, event, counted))
                    break
            if event.first & VAL:
                state.dirty.setdefault(root, event)
            else:
                state.later.setdefault(root, event)

    def first_scored(self, scored: Event, loops: tuple, update: Event) -> bool:
        """Whether an update learns from the tokens that were scored earlier in the same turn of a loop: both are chosen
        by that loop, or by the same words."""
        common = {one for one, other in zip(loops, self.loops, strict=False) if one is other}
        if common & loops_of(scored) & loops_of(update):
            return True
        return bool(common and sites_of(scored) & sites_of(update))

    def repeats(self, event: Event, turn: ast.AST) -> bool:
        """Whether each turn of a loop has the same tokens again: they are chosen by a loop inside, not by this one."""
        chosen = loops_of(event)
        inside = self.loops[len(self.loops) - self.loops[::-1].index(turn) :]
        return turn not in chosen and any(one in chosen for one in inside)

    def score(self, event: Event, state: State) -> None:
        labels = event.value.labels
        if not labels & VAL or (self.real and event.node not in self.real):
            return
        counted = self.is_counted(event)
        if counted and not self.turns and id(event) not in self.seen:
            self.seen.add(id(event))
            self.scores.append(event)
        turn = self.turns[-1] if self.turns else None
        if turn is not None and not self.repeats(event, turn):
            return
        kept = any(type(tag) is tuple and tag[0] == "sum" and tag[1] is not event.node for tag in event.value.tags)
        for tag in event.value.tags:
            if not isinstance(tag, Object) or kept:  # losses that were kept are looked at where they were
                continue
            root = tag.root
            update = state.dirty.get(root)
            if counted and update is not None and not disjoint(update, event):
                again = update.node in self.legal or turn is not None
                key = (update.node, event.node)
                if key not in self.pairs:
                    self.pairs[key] = Pair(update, event, root, again, turn)
            state.scored[root, counted] = (event, tuple(self.loops))
        if counted and labels & GRADIENT and event.first & GRADIENT and labels & LOSS and turn is None:
            self.pairs.setdefault((event.node, event.node), Pair(event, event, Object(0, "gradient"), False))

    def is_counted(self, event: Event) -> bool:
        """Whether a score is judged; one that was mixed, by what it was made of."""
        if self.until is not None and self.count > self.until:
            return False
        return self.counted is None or not self.counted.isdisjoint(sums_of(event.value) | {event.node})

    def mixed(self, event: Event, state: State) -> None:
        if self.is_counted(event) and not self.turns:
            self.scores.append(event)

    def printed(self, event: Event, state: State) -> None:
        if not self.loops:
            self.printed_at.update(dict.fromkeys(event.objects, self.count))

    def limit(self, event: Event, state: State) -> None:
        if not self.turns:
            self.limits.append((event, tuple(self.loops)))

    def training_seconds(self) -> float | None:
        """When the training loop ends, if it compares a clock with a number that is known; the least of several."""
        found = []
        for event, loops in self.limits:
            number = event.value.constant
            if set(loops) & self.training and isinstance(number, (int, float)) and number >= 1:
                found.append(number / 1000 if number > 3600 else number)
        return min((one for one in found if one >= 30), default=None)

    @property
    def calibrations(self) -> list[tuple[Event, Event | None]]:
        """Statistics of activations, with the last update before them; not those that a training loop makes, as for a
        loss or an optimizer."""
        return [
            (event, trained) for event, trained, loops in self.calibrated.values() if not set(loops) & self.training
        ]

    def write(self, event: Event, state: State) -> None:
        if event.value.labels & VAL and event.first & VAL and not self.turns and not event.value.tags >= CATCHING_UP:
            for table in event.objects:
                state.tables.setdefault(table, event)

    def fresh(self, event: Event, state: State) -> None:
        for table in event.objects:
            state.tables.pop(table, None)

    def read(self, event: Event, state: State) -> None:
        if not event.value.labels & VAL:
            return
        turn = self.turns[-1] if self.turns else None
        if turn is not None and not self.repeats(event, turn):
            return
        for table in event.objects:
            written = state.tables.get(table)
            if written is not None:
                self.pairs.setdefault((written.node, event.node), Pair(written, event, table, turn is not None, turn))

    def snapshot(self, event: Event, state: State) -> None:
        found = next((state.dirty[one.root] for one in event.sources or () if one.root in state.dirty), None)
        for one in event.objects:
            if found is not None:
                state.dirty[one.root] = found
            else:
                state.dirty.pop(one.root, None)

    def load(self, event: Event, state: State) -> None:
        if event.sources is None:
            found = self.stored(event, state)
        else:
            found = next((state.dirty[one.root] for one in event.sources if one.root in state.dirty), None)
        for one in event.objects:
            if found is not None:
                state.dirty[one.root] = found
            else:
                state.dirty.pop(one.root, None)
                state.later.pop(one.root, None)

    def stored(self, event: Event, state: State) -> Event | None:
        """What is loaded from a file, or was computed in ways unknown, is what was trained before."""
        mine = {one.root for one in event.objects}
        for root in mine:
            if state.saved.get(root) is not None:
                return state.saved[root]
        for root, update in state.dirty.items():
            if update.node not in self.legal and (root in mine or root in state.roots):
                return update
        return None

    def saved(self, event: Event, state: State) -> None:
        for one in event.objects:
            state.saved[one.root] = state.dirty.get(one.root)

    def mix(self, event: Event, state: State) -> None:
        found = next((state.dirty[one.root] for one in event.sources or () if one.root in state.dirty), None)
        if found is not None:
            for one in event.objects:
                state.dirty[one.root] = found

    def calibrate(self, event: Event, state: State) -> None:
        self.calibrated.setdefault(event.node, (event, state.trained, tuple(self.loops)))


def loops_of(event: Event) -> set[ast.AST]:
    return {tag[1] for tag in event.value.tags if type(tag) is tuple and tag[0] == "loop"}


def sites_of(event: Event) -> set[tuple]:
    return {tag for tag in event.value.tags if type(tag) is tuple and tag[0] == "site"}


def disjoint(update: Event, score: Event) -> bool:
    """Whether the tokens scored begin where those learned from end, by the words of the slices; not if what was learned
    from came out of the same slice as what is scored."""
    learned, scored = sites_of(update), sites_of(score)
    ends = {_bound(tag[1], "upper") for tag in learned} - {None}
    starts = {_bound(tag[1], "lower") for tag in scored - learned} - {None}
    return bool(ends & starts)


def _bound(node: ast.AST, side: str) -> str | None:
    index = getattr(node, "slice", None)
    bound = getattr(index, side, None) if isinstance(index, ast.Slice) else None
    return ast.dump(bound) if bound is not None and not isinstance(bound, (ast.Constant, ast.UnaryOp)) else None
