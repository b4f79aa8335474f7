"""Abstract interpretation of a whole program: it walks the code as the entry point would run it, twice, with values
that say where tokens come from instead of tokens, and leaves the events whose order matters.

The first walk sees each loop as if it ran once; the second starts each loop with what the first left behind, so that
what one turn hands to the next is known. Functions are walked where they are called, once for each kind of arguments.
Arrays, containers and instances are objects, one for each place of creation and call, which only ever gain. What calls
into torch, numpy and builtins do is in `flow_calls.py`.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from dataclasses import dataclass

from harness.compliance import flow_calls
from harness.compliance.evidence import GAP
from harness.compliance.flow_gates import TOLD, differences, mixing_weights, operands_of, sliced
from harness.compliance.flow_values import (
    ABSENT,
    BYTES,
    CATCHING_UP,
    CHOSEN,
    COMPUTED,
    COUNT,
    COUNT_OPEN,
    COUNT_TARGET,
    COUNTS,
    EACH,
    EMPTY,
    EXACT,
    GATED,
    GENERATED,
    GRADIENT,
    GRAM,
    HINTED,
    HIT,
    HOT,
    LOSS,
    MODEL,
    NAMES,
    NAMES_FILES,
    NAMES_TRAIN,
    NAMES_VAL,
    NONE,
    NUMBERED,
    OF_ONE,
    ORIGINS,
    PAIR,
    RANK,
    SECRET,
    SEEN,
    TARGET,
    TELLING,
    TIME,
    TOKENS,
    TRAIN,
    UNKNOWN,
    VAL,
    VOCABULARY,
    Block,
    Event,
    Object,
    Print,
    Step,
    Value,
    apart,
    flat,
    join,
    join_all,
    later,
    loops_of,
    nodes_of,
    sums_of,
    tagged,
    united,
)
from harness.compliance.operators import BINARY, COMPARE
from harness.compliance.renewal import renewed

SETTLED_AT_MOST = 200  # calls of one function with nothing but constants
CONTEXTS_AT_MOST = 6  # kinds of arguments one function is walked for in one context; beyond, they are joined
NESTED = 7  # containers in each other, from an optimizer to its parameters
CALLS_DEEP = 40
WORK_AT_MOST = 600_000  # expressions
LN2 = (0.6931, 1.4427)
VAL_NAME = re.compile(r"(?<![a-zA-Z])(val|valid|validation|dev|eval|test)(?![a-zA-Z])", re.IGNORECASE)
TRAIN_NAME = re.compile(r"(?<![a-zA-Z])(train|training)(?![a-zA-Z])", re.IGNORECASE)
FILE_NAME = re.compile(r"[*?]|\.(bin|npy|npz|pt|pth|parquet|jsonl?|txt|dat|raw)$|/")
OF_TOKENS = LOSS | COUNTS | EACH | SECRET  # what depends on which token came
TRAINED = frozenset({"module", "parameter"})  # kinds of objects that hold weights
KEEPERS = frozenset({"array", "container", *TRAINED})  # that hold what was stored in them before
NO_DATA = frozenset({"external", "class", "function", "method", "argparser"})  # those that hold nothing
Attribute, Call, Constant, Name, Starred = ast.Attribute, ast.Call, ast.Constant, ast.Name, ast.Starred


class TooMuch(Exception):
    """The program is larger than what is walked."""


class Scope:
    """The names of a running function or module. parent: where else they are looked up."""

    __slots__ = (
        "chosen",
        "context",
        "globals",
        "loops",
        "module",
        "node",
        "parent",
        "program_scope",
        "result",
        "values",
        "yields",
    )

    def __init__(self, module, program_scope, parent, context):
        self.values: dict[str, Value] = {}
        self.module = module
        self.program_scope = program_scope
        self.parent = parent
        self.context = context
        self.globals: set[str] | frozenset[str] = NONE
        self.result: Value | None = None
        self.yields: Value | None = None
        self.loops: list[list[dict]] = []
        self.chosen = False  # whether a likelihood was returned on a branch that is taken by what is seen


@dataclass(eq=False, slots=True)
class Gate:
    """Where scores are mixed with a weight, or picked. step: how what decides it came to see the token."""

    node: ast.AST
    module: object
    step: Step | None
    note: str


class Engine:
    """Walks a program. root: its events. real: accumulators that a score in bits per byte was made of. hooks: functions
    that torch calls with the activations of a model."""

    def __init__(self, program):
        self.program = program
        self.heap: dict[object, Object] = {}
        self.externals: dict[str, Value] = {}
        self.literals: dict[ast.Constant, Value] = {}
        self.truths: dict[tuple[ast.expr, object], object] = {}  # of conditions, by constants alone
        self.packages: set[Value] = set()  # the values of `externals`
        self.chains: dict[ast.Attribute, tuple[Value, Value]] = {}  # attributes of packages: of what, and which
        self.memo: dict[object, tuple[Value, Block, tuple, frozenset]] = {}
        self.contexts: dict[object, int] = {}
        self.settled: dict[Object, int] = {}  # of functions: calls with nothing but constants
        self.joined: dict[object, dict[str, Value]] = {}
        self.running: dict[object, int] = {}
        self.signatures: dict[ast.AST, tuple] = {}  # of functions: what their parameters are called
        self.loop_ends: dict[object, dict[str, Value]] = {}
        self.loop_heaps: dict[object, dict[Object, Value]] = {}  # what arrays hold when a loop has turned once
        self.stored: list[Object] = []
        self.module_scopes: dict[object, Scope] = {}
        self.real: set[ast.AST] = set()
        self.prints: dict[tuple[ast.JoinedStr, str], Print] = {}  # texts with scores in them
        self.first_seen: dict[object, int] = {}
        self.turn = 0
        self.ranked = 0
        self.work = 0
        self.depth = 0
        self.hooks: dict[Object, Value] = {}
        self.filled: set[Object] = set()  # tables that the running function wrote to, or what it called
        self.asked = 0  # labels of the condition that was evaluated last
        self.asked_step: Step | None = None
        self.choosing: list[Step | None] = []  # of each branch around that is taken by what is seen: how it is seen
        self.target_sites: set[ast.AST] = set()  # what keys hold the target by, and the keys of contexts do not
        self.context_keys: set[frozenset] = set()  # what these are made of
        self.objects = 0
        self.gates: dict[ast.AST, Gate] = {}
        self.sides: dict[ast.AST, Step] = {}  # where likelihoods stand beside a number that looks at no token
        self.shares: dict[ast.AST, Step] = {}  # where the loss of a token is shared out among its bytes
        self.spread: dict[ast.AST, Step] = {}  # where such a share becomes a likelihood again
        self.about_target: dict[ast.AST, bool] = {}  # of what looks tokens up: whether they are those predicted now
        self.told: dict[ast.AST, Step] = {}  # where a prediction is changed by the token that is predicted
        self.native: list[Step] = []  # calls of native code that is given validation tokens
        self.stable: dict[ast.AST, frozenset[str]] = {}  # of functions: what is subtracted inside of an exp
        self.gradient = EMPTY
        self.stepped = False
        self.root = Block("sequence")
        self.block = self.root

    def run(self):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, 12_000))
        try:
            for self.turn in (1, 2):
                self.memo.clear()
                self.hooks.clear()
                self.module_scopes.clear()
                self.contexts.clear()
                self.settled.clear()
                self.joined.clear()
                self.gradient, self.stepped = EMPTY, False
                self.root = self.block = Block("sequence")
                self.stored.clear()
                self.gates.clear()
                self.native.clear()
                for ref in self.heap.values():  # what the next turn of a loop sees was scored by then
                    element = ref.element
                    if element is not None and (element.items or element.labels & SECRET):
                        ref.element = forgotten(element)
                    for name, value in ref.fields.items():
                        if value.items or value.labels & SECRET:
                            ref.fields[name] = forgotten(value)
                self.import_module(self.program.entry)
        finally:
            sys.setrecursionlimit(limit)

    # -- objects and events ----------------------------------------------------------------------------------------

    def allocate(self, kind, node, scope, name="") -> Object:
        key = (node, scope.context if scope else 0, kind, name)
        found = self.heap.get(key)
        if found is None:
            found = self.heap[key] = self.new(kind, name, node, scope.module if scope else None)
        if kind in ("array", "container") and found.turn != self.turn:  # it is made anew, and empty
            found.turn = self.turn
            found.former, found.element = found.element, None
        return found

    def new(self, *facts, **more) -> Object:
        self.objects += 1
        return Object(self.objects, *facts, **more)

    def external(self, name) -> Value:
        found = self.externals.get(name)
        if found is None:
            found = self.externals[name] = self.new("external", name).value
            self.packages.add(found)
        return found

    def emit(self, kind, node, scope, value, objects=NONE, sources=NONE):
        if kind == "calibrate" and (not value.labels & ORIGINS or value.labels & GRADIENT):
            return
        if self.ranked:
            value = Value(
                value.labels,
                value.refs,
                value.constant,
                value.items,
                united(value.tags, CATCHING_UP),
                value.lossy,
                value.step,
            )
        if self.turn == 1:
            self.first_seen[kind, node] = self.first_seen.get((kind, node), 0) | value.labels
        first = self.first_seen.get((kind, node), 0)
        if kind == "write":
            self.filled.update(objects)
        self.block.children.append(Event(kind, node, scope.module, value, frozenset(objects), sources, first))

    def step(self, value: Value, node, scope, note, labels=0, **changes) -> Value:
        """The value with one more link to its path."""
        result = Value(
            value.labels | labels,
            changes.get("refs", value.refs),
            UNKNOWN,
            None,
            changes.get("tags", value.tags),
            changes.get("lossy", value.lossy),
            Step(node, scope.module, note, value.step),
        )
        return result

    def content(self, value: Value, depth=3) -> Value:
        """A value with all that the arrays and containers it refers to hold."""
        if value.items:
            value = flat(value)
        level = value.refs
        if not level:
            return value
        labels, constant, tags, lossy, path = value.labels, value.constant, value.tags, value.lossy, value.step
        same = True
        seen = set()
        for _ in range(depth):
            following = []
            for ref in level:
                kind = ref.kind
                if kind in NO_DATA or ref in seen:
                    continue
                seen.add(ref)
                inner = ref.element
                if kind in TRAINED:
                    same, constant = False, UNKNOWN
                    if inner is not None:
                        labels |= inner.labels & COMPUTED
                    tags = united(tags, frozenset((ref.root,)))
                elif inner is not None:
                    same = False
                    if inner.items:
                        inner = flat(inner)
                    if path is None or (inner.step is not None and inner.labels & TELLING > labels & TELLING):
                        path = inner.step
                    labels |= inner.labels
                    tags = united(tags, inner.tags)
                    lossy = united(lossy, inner.lossy)
                    following.extend(inner.refs)
            level = following
            if not level:
                break
        return value if same else Value(labels, value.refs, constant, None, tags, lossy, path)

    def store_element(self, ref: Object, value: Value):
        self.stored.append(ref)
        if ref.written and any(type(tag) is tuple and tag[0] == "read" for tag in value.tags):  # counts go up
            tags = frozenset(tag for tag in value.tags if type(tag) is not tuple or tag[0] != "read")
            value = Value(value.labels, value.refs, value.constant, value.items, tags, value.lossy, value.step)
        ref.element = value if ref.element is None else join(ref.element, value)

    def roots(self, value: Value) -> frozenset:
        """The models and parameters that a value is, holds or was computed from."""
        found = set()
        seen = set()
        level = [value]
        for _ in range(NESTED):
            following = []
            for one in level:
                one = flat(one)
                found.update(tag for tag in one.tags if isinstance(tag, Object))
                for ref in one.refs:
                    if ref in seen:
                        continue
                    seen.add(ref)
                    if ref.kind in TRAINED or ref.kind == "snapshot":
                        found.add(ref.root)
                    elif ref.kind not in ("external", "class", "function", "method"):
                        if ref.element is not None:
                            following.append(ref.element)
                        if ref.kind in ("optimizer", "instance"):
                            following.extend(ref.fields.values())
            level = following
        return frozenset(found)

    # -- modules ---------------------------------------------------------------------------------------------------

    def import_module(self, module) -> Scope:
        scope = self.module_scopes.get(module)
        if scope is None:
            scope = Scope(module, module.scope, None, 0)
            self.module_scopes[module] = scope
            main = "__main__" if module is self.program.entry or module.runs_as_main else module.name
            scope.values["__name__"] = Value(constant=main)
            self.statements(module.tree.body, scope)
        return scope

    # -- statements ------------------------------------------------------------------------------------------------

    def statements(self, body, scope) -> str:
        """How the block ends: return, raise, loop, or not ("")."""
        for node in body:
            method = STATEMENTS.get(type(node))
            if method is None:
                continue
            ends = method(self, node, scope)
            if ends:
                return ends
        return ""

    def alternative(self, body, scope, kind="branch") -> tuple[str, Block, dict]:
        """Walks statements in a block of their own; gives the names as they are afterwards, the scope keeps its own."""
        before, outer = scope.values, self.block
        scope.values = dict(before)
        self.block = Block("sequence")
        try:
            ends = self.statements(body, scope)
        finally:
            block, self.block = self.block, outer
            after, scope.values = scope.values, before
        block.ends = ends
        return ends, block, after

    def merge(self, scope, afters):
        """The names after alternatives; those that left are not among them."""
        if not afters:
            return
        base = scope.values
        result = dict(afters[0])
        for after in afters[1:]:
            for name, value in after.items():
                known = result.get(name)
                if known is None:
                    result[name] = value
                elif known is not value:
                    result[name] = join(known, value)
        base.clear()
        base.update(result)

    def exec_If(self, node, scope):
        truth = self.truth(node.test, scope)
        if truth is True and not node.orelse and isinstance(node.body[-1], ast.Raise):
            return ""  # what is documented ran: a value is not as it is understood here
        if truth is True:
            return self.statements(node.body, scope)
        if truth is False:
            return self.statements(node.orelse, scope)
        seen = self.asked & (SEEN | CHOSEN)
        if seen:
            self.choosing.append(self.asked_step)
        ranked = self.later_ranks(node.test, scope)
        self.ranked += ranked
        first_ends, first, first_after = self.alternative(node.body, scope)
        self.ranked -= ranked
        second_ends, second, second_after = self.alternative(node.orelse, scope)
        if seen:
            step = self.choosing.pop()
            if not first_ends and not second_ends:
                self.choose_names(first_after, second_after, step, node, scope)
            for ends, after in ((first_ends, first_after), (second_ends, second_after)):
                if ends == "loop":
                    self.choose_left(after, scope.values, step)
        if first.children or second.children:
            self.block.children.append(Block("branch", node, scope.module, [first, second]))
        for ends, after in ((first_ends, first_after), (second_ends, second_after)):
            if ends == "loop" and scope.loops:
                scope.loops[-1].append(after)
        going = [after for ends, after in ((first_ends, first_after), (second_ends, second_after)) if not ends]
        if not going:
            return "return" if first_ends == second_ends == "return" else first_ends or second_ends
        self.merge(scope, going)
        return ""

    def choose_names(self, first, second, step, node, scope):
        """What is seen decided which of two alternatives the names come from."""
        for name, one in first.items():
            other = second.get(name)
            if other is one or other is None:
                continue
            first[name] = self.chosen(one, one, other, step, node, scope)

    def chosen(self, result, one, other, step, node, scope) -> Value:
        """What comes of it that one of two values was chosen by what is seen."""
        if one.labels & other.labels & EACH and not self.tilts(one, other) and not self.stabilises(node, scope):
            return self.gated(result, step, node, scope, "what was seen decides which of two scores counts")
        nothing = one.constant is None or other.constant is None
        return self.seen_through(result, step, CHOSEN | ABSENT if nothing else CHOSEN)

    def choose_left(self, after, before, step):
        """What is seen decides that a loop is left, with these names."""
        for name, one in after.items():
            known = before.get(name)
            if known is not None and known is not one:
                nothing = known.constant is None and one.constant is not None
                after[name] = self.seen_through(one, step, CHOSEN | ABSENT if nothing else CHOSEN)

    def tilts(self, one, other) -> bool:
        """Whether one of two scores is a tilt by a hint: what is known here does not tell whether that is normalised,
        and what chose the hint."""
        return (one.labels | other.labels) & HINTED != 0

    def gated(self, value, step, node, scope, note) -> Value:
        """A score that was mixed or picked by what is seen. step: how it came to be seen."""
        self.gates.setdefault(node, Gate(node, scope.module, step, note))
        tags = united(value.tags, frozenset((("gate", node),)))
        return Value(value.labels | GATED, value.refs, UNKNOWN, None, tags, value.lossy, value.step)

    def seen_through(self, value, step, labels) -> Value:
        """The value, with what is seen in it; a tuple's items too."""
        items = tuple(self.seen_through(one, step, labels) for one in value.items) if value.items else None
        return Value(value.labels | labels, value.refs, UNKNOWN, items, value.tags, value.lossy, value.step or step)

    def stabilises(self, node, scope) -> bool:
        """Whether the larger of two logarithms is only taken out of a sum of exponentials, around an expression."""
        around = scope.program_scope.node
        known = self.stable.get(around)
        if known is None:
            known = self.stable[around] = differences(around)
        return bool(known) and bool(known & operands_of(node))

    def later_ranks(self, test, scope) -> bool:
        """Whether a condition holds for all ranks but the first: they catch up with what comes before their part."""
        parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
        for one in parts:
            if isinstance(one, ast.Compare) and isinstance(one.ops[0], (ast.Gt, ast.NotEq)):
                left, right = self.evaluate(one.left, scope), self.evaluate(one.comparators[0], scope)
                if left.labels & RANK and right.constant == 0:
                    return True
            elif not isinstance(one, ast.Compare) and self.evaluate(one, scope).labels & RANK:
                return True
        return False

    def truth(self, test, scope):
        self.asked = 0
        if isinstance(test, ast.BoolOp):
            stop = isinstance(test.op, ast.Or)
            outcome, asked = not stop, 0
            for operand in test.values:
                truth = self.truth(operand, scope)
                if truth is stop:
                    return stop
                if truth is UNKNOWN:
                    outcome = UNKNOWN
                asked |= self.asked
            self.asked = asked
            return outcome
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            truth = self.truth(test.operand, scope)
            return UNKNOWN if truth is UNKNOWN else not truth
        value = self.evaluate(test, scope)
        self.asked = value.labels
        if value.labels & (SEEN | CHOSEN):
            self.asked_step = value.step
        if value.constant is not UNKNOWN:
            return bool(value.constant)
        key = (test, scope.program_scope)
        truth = self.truths.get(key)
        if truth is None:
            truth = self.program.truth(test, scope.program_scope)
            truth = self.truths[key] = truth if isinstance(truth, bool) else UNKNOWN
        return truth

    def loop(self, node, scope, body, bind, turns=""):
        """One turn of a loop. bind: gives the loop's variables their values. turns: "once" if there is no other."""
        key = (node, scope.context)
        before = scope.values
        entry = dict(before)
        if self.turn > 1 and key in self.loop_ends:
            for name, value in self.loop_ends[key].items():
                if value.items or value.labels & SECRET:
                    value = forgotten(value)
                known = entry.get(name)
                entry[name] = value if known is None else join(known, value)
            for ref, element in self.loop_heaps[key].items():
                made = getattr(ref.node, "lineno", 0)  # if in this loop, each turn makes it anew
                if ref.module is scope.module and node.lineno <= made <= node.end_lineno and ref.element is not None:
                    ref.element = forgotten(ref.element)
                self.store_element(ref, forgotten(element))
        here = len(self.stored)
        outer, self.block = self.block, Block("loop", node, scope.module, [], turns)
        scope.loops.append([])
        scope.values = dict(entry)
        bind()
        ends = self.statements(body, scope)
        afters = scope.loops.pop()
        block, self.block = self.block, outer
        if block.children:
            outer.children.append(block)
        if not ends or ends == "loop":
            afters.append(scope.values)
        scope.values = before
        if afters:
            self.merge(scope, [entry, *afters])
            changed = {name: value for name, value in scope.values.items() if entry.get(name) is not value}
            known = self.loop_ends.get(key)
            if known:
                for name, value in known.items():
                    changed[name] = join(changed[name], value) if name in changed else value
            self.loop_ends[key] = changed
            self.loop_heaps[key] = {ref: ref.element for ref in self.stored[here:] if ref.element is not None}
        else:
            scope.values.update(entry)
        if node.orelse:  # after a break it is left out
            ends, other, after = self.alternative(node.orelse, scope)
            if other.children:
                self.block.children.append(Block("branch", node, scope.module, [Block("sequence"), other]))
            if not ends:
                self.merge(scope, [dict(scope.values), after])
        return ""

    def exec_For(self, node, scope):
        iterated = self.evaluate(node.iter, scope)
        if iterated.constant == "nothing":
            return ""

        def bind():
            element = tagged(self.iterate(iterated, node.iter, scope), frozenset((("loop", node),)))
            self.assign(node.target, element, scope, node.iter)

        return self.loop(node, scope, node.body, bind, "once" if iterated.constant == "once" else "")

    def exec_While(self, node, scope):
        if self.truth(node.test, scope) is False and self.turn == 1:
            return ""
        return self.loop(node, scope, node.body, lambda: self.evaluate(node.test, scope))

    def exec_Try(self, node, scope):
        ends = self.statements(node.body, scope)
        alternatives, afters = [], []
        for handler in node.handlers:
            handler_ends, block, after = self.alternative(handler.body, scope)
            alternatives.append(block)
            if not handler_ends:
                afters.append(after)
        if any(block.children for block in alternatives):
            self.block.children.append(Block("branch", node, scope.module, [Block("sequence"), *alternatives]))
        if not ends:
            ends = self.statements(node.orelse, scope)
        if afters:
            self.merge(scope, [*([scope.values] if not ends else []), *afters])
            ends = ""
        return self.statements(node.finalbody, scope) or ends

    def exec_With(self, node, scope):
        for item in node.items:
            value = self.evaluate(item.context_expr, scope)
            for ref in value.refs:
                if ref.kind == "instance":
                    method = self.method_of(ref, "__enter__")
                    if method is not None:
                        value = self.call_function(method, [ref.value], {}, node, scope)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, value, scope, item.context_expr)
        return self.statements(node.body, scope)

    def exec_Expr(self, node, scope):
        self.evaluate(node.value, scope)
        return ""

    def exec_Assign(self, node, scope):
        before = len(self.block.children)
        value = self.evaluate(node.value, scope)
        if isinstance(node.targets[0], ast.Subscript):
            self.forget_reads(self.evaluate(node.targets[0].value, scope).refs, before)
        self.forget(renewed(self, node, value, scope), node, scope)
        for target in node.targets:
            self.assign(target, value, scope, node.value)
        return ""

    def forget(self, tables, node, scope):
        if tables:
            self.emit("fresh", node, scope, EMPTY, tables)

    def forget_reads(self, tables, before):
        """A table's entry that is read only to be increased is no use of it."""
        children = self.block.children
        children[before:] = [
            one
            for one in children[before:]
            if not (isinstance(one, Event) and one.kind == "read" and one.objects <= tables)
        ]

    def exec_AnnAssign(self, node, scope):
        if node.value is not None:
            value = self.evaluate(node.value, scope)
            self.forget(renewed(self, node, value, scope), node, scope)
            self.assign(node.target, value, scope, node.value)
        return ""

    def exec_AugAssign(self, node, scope):
        value = self.evaluate(node.value, scope)
        target = node.target
        reading = _loaded(target)
        here = len(self.block.children)
        before = self.evaluate(reading, scope)
        if isinstance(target, ast.Subscript):
            self.forget_reads(self.evaluate(target.value, scope).refs, here)
        tables = [ref for ref in before.refs if ref.kind in ("array", "container")]
        adds = isinstance(node.op, ast.Add | ast.Sub)  # total -= log(likelihood)
        content = self.content(value)
        told = None
        if isinstance(target, ast.Subscript):
            base = self.evaluate(target.value, scope)
            key = self.index(target.slice, scope)
            self.write(base, key, value, node, scope)
            told = self.tell(base, key, EMPTY, target, scope)
        for ref in list(tables):
            for other in value.refs:
                if other.written and other is not ref:
                    self.written(ref, Value(other.written, tags=other.written_tags), node, scope)
        result = self.binary(node.op, before, value, node, scope, target, node.value)
        if type(node.op) is ast.Mult:
            result = self.scaled(node, before, content, result, scope)
        trained = [ref for ref in before.refs if ref.kind in TRAINED]
        if trained:
            self.changed(trained, content, node, scope)
            return ""
        if (adds and content.labels & LOSS and content.labels & ORIGINS) or (adds and content.labels & COUNTS):
            result = self.accumulate(content, result, node, scope)
        elif content.labels & GRAM:
            self.emit("calibrate", node, scope, content)
        if result.labels & OF_ONE and isinstance(target, Name) and not self.content(before).labels & EACH:
            result = without(result, OF_ONE)
        if isinstance(target, ast.Subscript):
            self.assign(target, join(result, told), scope, node.value, aug=True)
            return ""
        if tables:
            for ref in tables:
                self.store_element(
                    ref, Value(result.labels, NONE, UNKNOWN, None, result.tags, result.lossy, result.step)
                )
            result = Value(0, before.refs, UNKNOWN, None, NONE, NONE, None)
            if not isinstance(target, ast.Name):
                return ""
        self.assign(target, result, scope, node.value)
        return ""

    def scaled(self, node, before, content, result, scope) -> Value:
        """Scores that are multiplied in place: where the token that came is one that was stored, or by what is seen."""
        if not self.content(before).labels & EACH:
            return result
        if content.labels & HIT and not content.labels & EACH:
            note = "scores change where a stored token is the one that came"
            return self.gated(result, content.step, node, scope, note)
        if isinstance(node.target, ast.Subscript):
            key = self.content(self.index(node.target.slice, scope))
            if key.labels & CHOSEN:
                return self.gated(result, key.step, node, scope, "what was seen decides which scores are changed")
        return result

    def seen_return(self, value, node, scope) -> Value:
        """What a function gives back on a branch that is taken by what is seen."""
        step = self.choosing[-1]
        if flat(value).labels & EACH:
            if scope.result is not None and flat(scope.result).labels & EACH:
                return self.gated(value, step, node, scope, "what was seen decides which of two scores counts")
            scope.chosen = True
        if value.items and isinstance(node.value, ast.Tuple):
            items = [
                one if isinstance(part, Name) and not loops_of(one) else self.seen_through(one, step, CHOSEN)
                for part, one in zip(node.value.elts, value.items, strict=False)
            ]
            return Value(value.labels, value.refs, UNKNOWN, tuple(items), value.tags, value.lossy, value.step)
        if isinstance(node.value, Name) and not value.labels & EACH:
            return value
        return self.seen_through(value, step, CHOSEN | ABSENT if value.constant is None else CHOSEN)

    def accumulate(self, content, result, node, scope) -> Value:
        """Losses are added up here: perhaps a score."""
        self.emit("score", node, scope, content)
        return Value(
            result.labels,
            result.refs,
            UNKNOWN,
            result.items,
            united(result.tags, frozenset((("sum", node),))),
            result.lossy,
            result.step or content.step,
        )

    def changed(self, trained, value, node, scope):
        """Weights are changed in place with a value."""
        roots = frozenset(ref.root for ref in trained)
        if value.labels & GRADIENT:
            self.emit("update", node, scope, value, roots)
        else:
            sources = self.roots(value) - roots
            self.emit("load", node, scope, value, roots, sources or None)

    def exec_Return(self, node, scope):
        value = self.evaluate(node.value, scope) if node.value is not None else Value(constant=None)
        if self.choosing:
            value = self.seen_return(value, node, scope)
        elif scope.chosen and flat(value).labels & EACH:
            value = self.gated(value, None, node, scope, "what was seen decides which of two scores counts")
        scope.result = value if scope.result is None else join(scope.result, value)
        return "return"

    def exec_Raise(self, node, scope):
        return "raise"

    def exec_Break(self, node, scope):
        if scope.loops:
            scope.loops[-1].append(dict(scope.values))
        return "loop"

    def exec_FunctionDef(self, node, scope):
        ref = self.allocate("function", node, scope, node.name)
        self.closure(ref, node, scope)
        value = ref.value
        for decorator in reversed(node.decorator_list):
            callee = self.evaluate(decorator, scope)
            if any(one.kind in ("function", "instance", "class") for one in callee.refs):
                decorated = self.call(callee, [value], {}, decorator, scope)
                if decorated.refs:
                    value = decorated
            elif any(one.name in ("property", "functools.cached_property") for one in callee.refs):
                ref.extra = (*ref.extra[:3], "property")
            elif any(one.name in ("staticmethod", "builtins.staticmethod") for one in callee.refs):
                ref.extra = (*ref.extra[:3], "static")
            elif any(one.name in ("classmethod", "builtins.classmethod") for one in callee.refs):
                ref.extra = (*ref.extra[:3], "class")
        self.bind(node.name, value, scope)
        return ""

    def closure(self, ref, node, scope):
        defaults = [self.evaluate(one, scope) for one in node.args.defaults]
        keywords = [self.evaluate(one, scope) if one is not None else None for one in node.args.kw_defaults]
        ref.extra = (scope, defaults, keywords, ref.extra[3] if ref.extra else "")

    def exec_ClassDef(self, node, scope):
        ref = self.allocate("class", node, scope, node.name)
        bases = [self.evaluate(base, scope) for base in node.bases]
        inner = Scope(scope.module, self.program.scope_of.get(node, scope.program_scope), scope, scope.context)
        self.statements(node.body, inner)
        ref.fields = inner.values
        parents = [one for base in bases for one in base.refs if one.kind == "class"]
        foreign = {one.name for base in bases for one in base.refs if one.kind == "external"}
        for parent in parents:
            foreign |= parent.extra[1] if parent.extra else set()
        ref.extra = (parents, foreign)
        self.bind(node.name, ref.value, scope)
        return ""

    def exec_Import(self, node, scope):
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            self.bind(alias.asname or name, self.imported(name), scope)
        return ""

    def exec_ImportFrom(self, node, scope):
        package = node.module or ""
        for alias in node.names:
            module = self.find_module(package)
            if module is not None and alias.name == "*":
                for name, value in self.import_module(module).values.items():
                    self.bind(name, value, scope)
                continue
            if module is not None:
                inner = self.import_module(module)
                if alias.name in inner.values:
                    self.bind(alias.asname or alias.name, inner.values[alias.name], scope)
                    continue
            self.bind(alias.asname or alias.name, self.imported(f"{package}.{alias.name}".strip(".")), scope)
        return ""

    def find_module(self, dotted):
        if not dotted:
            return None
        for name, module in self.program.modules.items():
            if name == dotted or name.endswith("." + dotted) or name.endswith("." + dotted.rpartition(".")[2]):
                return module
        return None

    def imported(self, dotted) -> Value:
        module = self.find_module(dotted)
        if module is None:
            return self.external(dotted)
        ref = self.allocate("namespace", module.tree, None, dotted)
        ref.fields = self.import_module(module).values
        return ref.value

    def exec_Global(self, node, scope):
        scope.globals = scope.globals.union(node.names)
        return ""

    def exec_Match(self, node, scope):
        self.evaluate(node.subject, scope)
        blocks, afters = [], [dict(scope.values)]
        for case in node.cases:
            ends, block, after = self.alternative(case.body, scope)
            blocks.append(block)
            if not ends:
                afters.append(after)
        self.block.children.append(Block("branch", node, scope.module, [Block("sequence"), *blocks]))
        self.merge(scope, afters)
        return ""

    # -- names and targets -----------------------------------------------------------------------------------------

    def lookup(self, name, scope) -> Value:
        current = scope
        while current is not None:
            found = current.values.get(name)
            if found is not None and (current is scope or not isinstance(current.program_scope.node, ast.ClassDef)):
                return found
            current = current.parent
        return self.external(name)

    def bind(self, name, value, scope):
        if name in scope.globals:
            current = scope.parent
            while current is not None and name not in current.values and current.parent is not None:
                current = current.parent
            if current is not None:
                known = current.values.get(name)
                current.values[name] = value if known is None else join(known, value)
                return
        scope.values[name] = value

    def assign(self, target, value, scope, source, aug=False):
        kind = type(target)
        if kind is Name:
            self.bind(target.id, value, scope)
        elif kind is ast.Tuple or kind is ast.List:
            self.unpack(target, value, scope, source)
        elif kind is Starred:
            ref = self.allocate("container", target, scope)
            self.store_element(ref, flat(value))
            self.assign(target.value, ref.value, scope, source)
        elif kind is Attribute:
            self.store_attribute(target, value, scope)
        elif kind is ast.Subscript and not aug:
            base = self.evaluate(target.value, scope)
            key = self.index(target.slice, scope)
            value = self.tell(base, key, value, target, scope)
            if self.choosing or key.labels & CHOSEN or (key.refs and self.content(key).labels & CHOSEN):
                value = self.chosen_store(base, key, value, target, scope)
            self.write(base, key, value, target, scope)
            self.keep_written(target.value, base, value, scope)
        elif kind is ast.Subscript:
            base = self.evaluate(target.value, scope)
            for ref in base.refs:
                self.store_element(ref, value)
            self.keep_written(target.value, base, value, scope)

    def chosen_store(self, base, key, value, target, scope) -> Value:
        """What is stored in places, or on a branch, that are chosen by what is seen."""
        key = self.content(key)
        step = key.step if key.labels & CHOSEN else self.choosing[-1] if self.choosing else None
        if self.content(base).labels & self.content(value).labels & EACH and not self.stabilises(target, scope):
            note = "what was seen decides which of two scores counts"
            return self.gated(self.content(value), step, target, scope, note)
        return self.seen_through(value, step, CHOSEN)

    def keep_written(self, node, base, value, scope):
        """What is stored into an array that is no object of ours (a computed one) is joined to the name it has."""
        while isinstance(node, (ast.Subscript, ast.Call, ast.Attribute)):
            node = node.func if isinstance(node, ast.Call) else node.value
        if isinstance(node, ast.Name) and not any(ref.kind in ("array", "container", "parameter") for ref in base.refs):
            value = self.content(value)
            known = self.lookup(node.id, scope)
            if any(ref.kind in ("external", "instance", "module") for ref in known.refs):
                return
            stored = Value(value.labels, NONE, UNKNOWN, None, value.tags, value.lossy, value.step)
            self.bind(node.id, join(flat(known), stored), scope)

    def unpack(self, target, value, scope, source):
        names = target.elts
        starred = any(isinstance(one, ast.Starred) for one in names)
        items = value.items
        if items is None and not starred:
            for ref in value.refs:
                if ref.kind == "container" and isinstance(ref.extra, tuple) and len(ref.extra) == len(names):
                    items = tuple(tagged(one, loops_of(value)) for one in ref.extra)
        if items is not None and len(items) == len(names) and not starred:
            for one, item in zip(names, items, strict=True):
                self.assign(one, item, scope, source)
            return
        element = self.iterate(value, source, scope)
        for one in names:
            self.assign(one, element, scope, source)

    def store_attribute(self, target, value, scope):
        base = self.evaluate(target.value, scope)
        for ref in base.refs:
            if ref.kind in ("external", "function"):
                continue
            if ref.kind in TRAINED and target.attr in ("data", "weight", "bias", "grad"):
                content = self.content(value)
                if target.attr != "grad":
                    self.changed([ref], content, target, scope)
                continue
            known = ref.fields.get(target.attr)
            if known is None and isinstance(ref.extra, Object):
                known = self.class_field(ref.extra, target.attr)
            ref.fields[target.attr] = value if known is None else join(known, value)
            if ref.kind in ("module", "instance"):
                for part in self.parts(value):
                    free = part.kind in TRAINED and part is not ref and part.owner is None
                    if free and ref.kind == "module" and part.root is not ref.root:
                        part.owner = ref
            content = self.content(value)
            if content.labels & GRAM:
                self.emit("calibrate", target, scope, content)

    def parts(self, value):
        found = []
        level = [flat(value)]
        for _ in range(3):
            following = []
            for one in level:
                for ref in one.refs:
                    found.append(ref)
                    if ref.kind == "container" and ref.element is not None:
                        following.append(flat(ref.element))
            level = following
        return found

    # -- expressions -----------------------------------------------------------------------------------------------

    def evaluate(self, node, scope) -> Value:
        self.work += 1
        if self.work > WORK_AT_MOST:
            raise TooMuch
        kind = type(node)
        if kind is Name:
            found = scope.values.get(node.id)
            return self.lookup(node.id, scope) if found is None else found
        if kind is Constant:
            found = self.literals.get(node)
            return self.eval_Constant(node, scope) if found is None else found
        method = EXPRESSIONS.get(kind)
        return EMPTY if method is None else method(self, node, scope)

    def eval_Constant(self, node, scope):
        value, found = node.value, EMPTY
        if isinstance(value, str):
            found = Value(name_labels(value), NONE, value)
        elif value is None or isinstance(value, (int, float)):
            found = Value(0, NONE, value)
        self.literals[node] = found
        return found

    def eval_Name(self, node, scope):
        return self.lookup(node.id, scope)

    def eval_JoinedStr(self, node, scope):
        labels, whole, text, printed = 0, True, "", ""
        gaps: list[set[ast.AST]] = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                value = self.evaluate(part.value, scope)
                labels |= value.labels & NAMES
                whole = whole and isinstance(value.constant, (str, int))
                text += str(value.constant) if whole else ""
                if isinstance(value.constant, str):
                    printed += value.constant.replace(GAP, "")
                else:
                    printed += GAP
                    gaps.append(sums_of(self.content(value)))
            elif isinstance(part, ast.Constant):
                labels |= name_labels(str(part.value))
                text += str(part.value)
                printed += str(part.value).replace(GAP, "")
        if any(gaps):
            known = self.prints.setdefault((node, printed), Print(node, scope.module, printed, [set() for _ in gaps]))
            for sums, more in zip(known.sums, gaps, strict=True):
                sums |= more
            self.emit("printed", node, scope, EMPTY, (known,))
        return Value(labels, constant=text if whole else UNKNOWN)

    def eval_Tuple(self, node, scope):
        if any(isinstance(one, ast.Starred) for one in node.elts):
            return self.eval_List(node, scope)
        return Value(items=tuple(self.evaluate(one, scope) for one in node.elts))

    def eval_List(self, node, scope):
        ref = self.allocate("container", node, scope)
        values = []
        for one in node.elts:
            if isinstance(one, ast.Starred):
                values.append(self.iterate(self.evaluate(one.value, scope), one, scope))
            else:
                values.append(self.evaluate(one, scope))
        for value in values:
            self.store_element(ref, value)
        if len(values) <= 12:
            ref.extra = tuple(values)
        return ref.value

    def eval_Dict(self, node, scope):
        ref = self.allocate("container", node, scope)
        for key, one in zip(node.keys, node.values, strict=True):
            value = self.evaluate(one, scope)
            if key is None:
                value = self.iterate(value, one, scope)
            else:
                key_value = self.evaluate(key, scope)
                if isinstance(key_value.constant, str):
                    ref.fields[key_value.constant] = value
            self.store_element(ref, value)
        return ref.value

    def comprehension(self, node, scope, *results):
        ref = self.allocate("container", node, scope)
        before = scope.values
        scope.values = dict(before)
        outer, self.block = self.block, Block("loop", node, scope.module)
        try:
            for generator in node.generators:
                element = self.iterate(self.evaluate(generator.iter, scope), generator.iter, scope)
                self.assign(generator.target, tagged(element, frozenset((("loop", node),))), scope, generator.iter)
                for condition in generator.ifs:
                    value = self.evaluate(condition, scope)
                    self.named(condition, value, generator.target, scope)
            values = [self.evaluate(one, scope) for one in results]
        finally:
            block, self.block = self.block, outer
            scope.values = before
        if block.children:
            outer.children.append(block)
        if len(values) == 2:  # of a dict; its keys matter where it is a table
            self.written(ref, self.content(values[0]), node, scope)
        self.store_element(ref, values[-1])
        return ref.value

    def named(self, condition, value, target, scope):
        """Files are chosen by what their names hold."""
        labels = 0
        for one in ast.walk(condition):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                labels |= name_labels(one.value) & (NAMES_TRAIN | NAMES_VAL)
        if labels and isinstance(target, ast.Name):
            known = self.lookup(target.id, scope)
            negated = isinstance(condition, ast.UnaryOp) or any(
                isinstance(op, (ast.NotIn, ast.NotEq)) for op in getattr(condition, "ops", ())
            )
            if not negated:
                kept = known.labels & ~NAMES | labels
                self.bind(target.id, Value(kept, known.refs, tags=known.tags, step=known.step), scope)

    def eval_ListComp(self, node, scope):
        return self.comprehension(node, scope, node.elt)

    def eval_DictComp(self, node, scope):
        return self.comprehension(node, scope, node.key, node.value)

    def eval_IfExp(self, node, scope):
        truth = self.truth(node.test, scope)
        if truth is True:
            return self.evaluate(node.body, scope)
        if truth is False:
            return self.evaluate(node.orelse, scope)
        seen, step = self.asked & (SEEN | CHOSEN), self.asked_step
        first, second = self.evaluate(node.body, scope), self.evaluate(node.orelse, scope)
        return self.one_of(first, second, step, node, scope) if seen else join(first, second)

    def one_of(self, first, second, step, node, scope) -> Value:
        """One of two values, chosen by what is seen."""
        return self.chosen(join(first, second), first, second, step, node, scope)

    def eval_BoolOp(self, node, scope):
        values = [self.evaluate(one, scope) for one in node.values]
        constants = [value.constant for value in values]
        if all(constant is not UNKNOWN for constant in constants):
            stop = isinstance(node.op, ast.Or)
            for value in values:
                if bool(value.constant) is stop:
                    return value
            return values[-1]
        return join_all(values)

    def eval_UnaryOp(self, node, scope):
        value = self.evaluate(node.operand, scope)
        if value.constant is not UNKNOWN:
            with contextlib.suppress(TypeError):
                if isinstance(node.op, ast.Not):
                    return Value(constant=not value.constant)
                if isinstance(node.op, ast.USub):
                    return Value(constant=-value.constant)
        content = self.content(value)
        return Value(content.labels, NONE, UNKNOWN, None, content.tags, content.lossy, content.step)

    def eval_Compare(self, node, scope):
        values = [self.evaluate(one, scope) for one in (node.left, *node.comparators)]
        if len(values) == 2:
            left, right = values[0].constant, values[1].constant
            if left is not UNKNOWN and right is not UNKNOWN:
                with contextlib.suppress(TypeError):
                    outcome = COMPARE[type(node.ops[0])](left, right)
                    return Value(constant=outcome)
            if isinstance(node.ops[0], (ast.Is, ast.IsNot)) and right is None and values[0].constant is UNKNOWN:
                kinds = {ref.kind for ref in values[0].refs}
                if values[0].items or kinds & {"module", "instance", "array", "container"}:
                    return EMPTY
        labels, tags, others = 0, NONE, []
        for value in values:
            content = self.content(value)
            labels |= content.labels & ~SEEN if content.labels & EACH and muddled(content.labels) else content.labels
            tags = united(tags, content.tags)
            if not content.labels & TIME:
                others.append(value)
        if labels & TIME and len(others) == 1:  # time is compared with something: the end of a loop
            self.emit("limit", node, scope, others[0])
        seen = compared(labels, node.ops[0], values) if labels & (SEEN | CHOSEN) else 0
        if seen and values[-1].constant is None:
            seen = CHOSEN if labels & ABSENT else 0
        if labels & TARGET and isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            seen |= self.hit(node, values, scope)
            came = next(one for one in map(self.content, values) if one.labels & TARGET)
            if labels & VOCABULARY and self.is_target(came, node):
                seen |= HOT  # arange(vocabulary) == targets
        labels = labels & (ORIGINS | MODEL) | seen
        if tags:
            tags = frozenset(tag for tag in tags if type(tag) is Object or tag[0] == "loop")
        if isinstance(node.ops[0], (ast.In, ast.NotIn)) and len(values) == 2:
            among = members(node.comparators[0])
            if among is not None and values[0].constant is not UNKNOWN:
                return Value(constant=(values[0].constant in among) is isinstance(node.ops[0], ast.In))
            self.read(values[1], values[0], node, scope)
        if seen:
            sees = [value for value in map(self.content, values) if value.labels & (SEEN | CHOSEN | TARGET)]
            return Value(labels, tags=tags, step=Step(node, scope.module, "compared", sees[0].step if sees else None))
        return Value(labels, tags=tags)

    def hit(self, node, values, scope) -> int:
        """HINTED where tokens that came are compared with others, and not with a constant; HIT if these are a part of
        an array, not a single token such as the end of a text."""
        for side, value in zip((node.left, *node.comparators), values, strict=True):
            if not self.content(value).labels & TARGET and sliced(self.program, side, scope.program_scope):
                return HIT | HINTED
        return HINTED if all(value.constant is UNKNOWN for value in values) else 0

    def eval_BinOp(self, node, scope):
        left = self.evaluate(node.left, scope)
        right = self.evaluate(node.right, scope)
        result = self.binary(node.op, left, right, node, scope, node.left, node.right)
        if result.labels & EACH and type(node.op) is ast.Add:
            return self.weighted(mixing_weights(self.program, node, scope.program_scope), result, node, scope)
        return result

    def weighted(self, weights, result, node, scope) -> Value:
        """Two likelihoods are mixed with weights: what of these is seen makes it a gate."""
        for weight in weights:
            here = len(self.block.children)
            value = self.content(self.evaluate(weight, scope))
            del self.block.children[here:]
            if value.labels & (SEEN | CHOSEN):
                note = "likelihoods are mixed with a weight that was made from what is seen"
                return self.gated(result, value.step, node, scope, note)
        return result

    def binary(self, op, left, right, node, scope, left_node=None, right_node=None) -> Value:
        kind = type(op)
        if left.constant is not UNKNOWN and right.constant is not UNKNOWN:
            constant = fold(op, left.constant, right.constant)
            if constant is not UNKNOWN:
                return Value(left.labels | right.labels, constant=constant)
        both = left.labels | right.labels
        if kind in (ast.Add, ast.Div) and both & NAMES and not both & ORIGINS:
            return flow_calls.joined_path((left, right))
        if kind is ast.Add and left.items and right.items:
            return Value(items=left.items + right.items)
        one, other = self.content(left), self.content(right)
        refs = left.refs | right.refs
        containers = frozenset([ref for ref in refs if ref.kind == "container"]) if refs else NONE
        if kind is ast.Mult and containers and not both & ORIGINS and not (left.refs and right.refs):
            return Value(refs=containers)  # [0] * n
        labels = one.labels | other.labels
        tags = united(one.tags, other.tags)
        lossy = united(one.lossy, other.lossy)
        if kind is ast.Add and containers and not any(ref.kind == "array" for ref in refs):
            return Value(labels, refs, UNKNOWN, None, tags, lossy, later(one, other))
        path = later(one, other)
        result = Value(labels, NONE, UNKNOWN, None, tags, lossy, path)
        if one.labels & other.labels & TOKENS and kind in (ast.Add, ast.BitOr):
            result.tags = united(tags, frozenset((EXACT,)))
        if labels & (TOKENS | VOCABULARY):
            result = self.mixed(op, one, other, result, node, scope, right_node)
        if kind is ast.MatMult and gram(left_node, right_node):
            result = Value(result.labels | GRAM, NONE, UNKNOWN, None, result.tags, result.lossy, result.step)
        if kind in (ast.Div, ast.FloorDiv) and labels & COUNTS:
            result = self.ratio(one, other, node, scope)
        if kind in (ast.Div, ast.Mult):
            self.scored(op, one, other, result, node, scope)
        if labels & EACH and labels & BYTES:
            result = self.shared_out(kind, one, other, result, node, scope)
        if kind is ast.Sub and labels & HOT:  # the gradient of a loss, by hand
            result = without(result, HOT)
        if kind is ast.Add and labels & HOT:
            for side, by in ((one, other), (other, one)):
                if by.labels & HOT:
                    result = join(result, self.tell(side, by, EMPTY, node, scope))
        if kind is ast.Pow and self.shares:
            result = self.likely_again(result if node in self.shares else other, result, node, scope)
        return result

    def tell(self, base, key, value, node, scope) -> Value:
        """What is stored at the places of tokens. Where these are the very ones that are predicted, it decides the
        score if it is stored in a prediction. Tokens that were kept are not there yet when this runs first."""
        at = self.pair(key) if key.items else self.content(key)
        if not self.is_prediction(base) or not (self.is_target(at, node) or at.labels & HOT):
            return value
        before = self.telling(at) or at.step
        note = "a prediction is changed where the token that is predicted stands"
        self.told.setdefault(node, Step(node, scope.module, note, before))
        return tagged(self.seen_through(self.content(value), None, HOT), frozenset((("told", node),)))

    def telling(self, value) -> Step | None:
        """How a value came to know the token that is predicted."""
        nodes = nodes_of(value, "told")
        return next((step for node, step in self.told.items() if node in nodes), None)

    def likelihood(self, prediction, result, node, scope) -> Value:
        """What is looked up in a prediction for the tokens that came."""
        step = self.telling(prediction) if prediction.labels & HOT else None
        return result if step is None else self.gated(result, step, node, scope, TOLD)

    def is_target(self, tokens, node) -> bool:
        """Whether the tokens that a node is about are those that are predicted now, and were not kept from earlier."""
        if tokens.labels & (TRAIN | GENERATED):
            return False
        return self.about_target.setdefault(node, all(tokens.labels & label for label in (TARGET, TOKENS, VAL)))

    def is_prediction(self, value) -> bool:
        """Whether a value was computed by a model. An array may hold what was kept of earlier tokens."""
        return bool(self.content(value).labels & MODEL) and not any(ref.kind in KEEPERS for ref in value.refs)

    def shared_out(self, kind, one, other, result, node, scope) -> Value:
        """The loss of a token divided by its bytes, or its likelihood to that power: what each byte gets."""
        shared = one.labels & EACH and other.labels & BYTES
        if kind is ast.Mult:  # by what is one divided by them
            shared = shared or (other.labels & EACH and one.labels & BYTES)
        if kind not in (ast.Div, ast.Mult, ast.Pow) or not shared:
            return result
        step = Step(node, scope.module, "what a token costs is shared out among its bytes", result.step)
        self.shares.setdefault(node, step)
        tags = united(result.tags, frozenset((("share", node),)))
        return Value(result.labels, NONE, UNKNOWN, None, tags, result.lossy, result.step)

    def likely_again(self, exponent, result, node, scope) -> Value:
        """An exponential: if it is of a byte's share of a loss, this is taken for the likelihood of the byte."""
        shared = nodes_of(exponent, "share")
        before = next((step for where, step in self.shares.items() if where in shared), None)
        if before is None:
            return result
        note = "and each byte's share is made a likelihood, which knows no other byte that could have come"
        self.spread.setdefault(node, Step(node, scope.module, note, before))
        return tagged(result, frozenset((("spread", node),)))

    def mixed(self, op, one, other, result, node, scope, right_node) -> Value:
        """Arithmetic on tokens: a key is made. Masks, remainders and exclusive or lose what the key was made of."""
        tokens = [value for value in (one, other) if value.labels & (TOKENS | VOCABULARY)]
        loses = isinstance(op, (ast.Mod, ast.BitAnd, ast.RShift))
        if isinstance(op, ast.BitXor):
            loses = (len(tokens) == 2 and not isinstance(_through(right_node), ast.BinOp)) or (
                len(tokens) == 2
                and not (
                    isinstance(_through(right_node), ast.BinOp) and isinstance(_through(right_node).op, ast.LShift)
                )
            )
        if loses and (isinstance(op, ast.BitXor) or one in tokens):
            tags = result.tags - {EXACT}
            lossy = united(result.lossy, tags)
            if lossy is not result.lossy:
                step = Step(node, scope.module, "hashed: different tokens can meet under one key", result.step)
                return Value(result.labels, NONE, UNKNOWN, None, tags, lossy, step)
        return result

    def scored(self, op, one, other, result, node, scope):
        """A loss is turned into bits, or divided by bytes: this is the score."""
        for value, by in ((one, other), (other, one)):
            constant = by.constant
            bits = isinstance(constant, float) and any(abs(constant - known) < 2e-4 for known in LN2)
            per_byte = isinstance(op, ast.Div) and by is other and by.labels & BYTES
            if not (bits or per_byte) or not value.labels & (LOSS | COUNTS | VAL):
                continue
            sums = sums_of(value)
            self.real |= sums
            if bits and value.labels & VAL and value.labels & (LOSS | COUNTS) and not sums:
                self.emit("score", node, scope, value)
                self.real.add(node)
            elif value.labels & VAL and (value.labels & (COUNTS | GATED) or nodes_of(value, "spread")):
                self.emit("mixed", node, scope, value)

    def ratio(self, one, other, node, scope) -> Value:
        """One count divided by another. Exact keys that differ by a token make a probability; hashed ones do not."""
        labels = one.labels | other.labels
        tags = united(one.tags, other.tags)
        above = [tag for tag in one.tags if type(tag) is tuple and tag[0] == "count"]
        below = [tag for tag in other.tags if type(tag) is tuple and tag[0] == "count"]
        note = ""
        outcome = 0
        for _, keys, lossy, table, vocabulary in above:
            for _, other_keys, other_lossy, other_table, _ in below:
                if vocabulary:
                    continue
                extra = keys - other_keys
                more = bool(extra) and keys > other_keys
                if extra and not more:  # written twice: h(t[i - 1]) and h(t[i - 1], t[i])
                    extra = more_tokens(keys, other_keys)
                    more = bool(extra)
                if more and extra & lossy:
                    outcome |= COUNT_TARGET | SEEN
                    self.target_sites.update(tag[1] for tag in extra)
                    self.context_keys.add(frozenset(tag[1] for tag in other_keys))
                    note = "a count under a hash of the context and one more token, divided by the context's count"
                elif table is not other_table and keys == other_keys and lossy and other_lossy and EXACT not in lossy:
                    outcome |= COUNT_OPEN if self.turn > 1 else 0  # the first walk has not seen all that is written
                elif more:
                    labels &= ~COUNT_TARGET
        if above and below:  # a likelihood: what it was made of says nothing where it is mixed into another
            tags -= frozenset((*above, *below))
        step = later(one, other)
        if outcome & COUNT_TARGET:
            step = Step(node, scope.module, note, step)
        return Value(labels | outcome, NONE, UNKNOWN, None, tags, NONE, step)

    def eval_Attribute(self, node, scope):
        base = self.evaluate(node.value, scope)
        return self.member_of(base, node) if base in self.packages else self.attribute(base, node.attr, node, scope)

    def member_of(self, package, node) -> Value:
        """What a package has under the name of an attribute."""
        known = self.chains.get(node)
        if known is not None and known[0] is package:
            return known[1]
        (ref,) = package.refs
        found = self.external(f"{ref.name}.{node.attr}")
        self.chains[node] = (package, found)
        return found

    def attribute(self, base, name, node, scope) -> Value:
        result = None
        for ref in base.refs:
            found = self.member(ref, name, node, scope)
            if found is not None:
                result = found if result is None else join(result, found)
        if result is not None and not (base.labels or base.items):
            return result
        kept = flow_calls.attribute_of_data(self, base, name, node, scope)
        return kept if result is None else join(result, kept)

    def member(self, ref, name, node, scope) -> Value | None:
        kind = ref.kind
        if kind == "external":
            return self.external(f"{ref.name}.{name}")
        if kind in ("instance", "module", "optimizer"):
            found = ref.fields.get(name)
            method = self.method_of(ref, name)
            if method is not None and found is None:
                if method.extra and len(method.extra) > 3 and method.extra[3] == "property":
                    return self.call_function(method, [ref.value], {}, node, scope)
                if method.extra and len(method.extra) > 3 and method.extra[3] == "static":
                    return method.value
                bound = self.allocate("method", method.node, None, f"{id(ref)}")
                bound.extra = (method, ref)
                return bound.value
            if found is None and isinstance(ref.extra, Object):
                found = self.class_field(ref.extra, name)
            if found is None and kind == "module":
                if name in flow_calls.SIZES:
                    return EMPTY
                if name == "grad":
                    return self.gradient_value()
                if name in ("data", "T", "mT"):
                    return ref.value
                part = self.heap.get((ref, name))
                if part is None:
                    part_kind = "parameter" if name in ("weight", "bias") else "module"
                    part = self.heap[(ref, name)] = self.new(part_kind, name, ref.node, ref.module, owner=ref)
                return part.value
            return found
        if kind == "class":
            found = self.class_field(ref, name)
            return found
        if kind in ("namespace", "argparser", "container"):
            return ref.fields.get(name)
        if kind == "parameter":
            if name == "grad":
                return self.gradient_value()
            if name in ("data", "T", "mT"):
                return ref.value
        return None

    def gradient_value(self) -> Value:
        """What the last backward pass left in `.grad`."""
        gradient = self.gradient
        return Value(gradient.labels & COMPUTED | GRADIENT, NONE, UNKNOWN, None, gradient.tags, NONE, gradient.step)

    def class_field(self, class_ref, name, depth=0):
        found = class_ref.fields.get(name)
        if found is None and depth < 6 and class_ref.extra:
            for parent in class_ref.extra[0]:
                found = self.class_field(parent, name, depth + 1)
                if found is not None:
                    break
        return found

    def method_of(self, ref, name) -> Object | None:
        if not isinstance(ref.extra, Object):
            return None
        found = self.class_field(ref.extra, name)
        if found is None:
            return None
        for one in found.refs:
            if one.kind == "function":
                return one
        return None

    def index(self, node, scope) -> Value:
        """What an array or container is indexed with; a tuple's items are joined, with the tags of all."""
        if isinstance(node, ast.Slice):
            result = EMPTY
            for part in (node.lower, node.upper, node.step):
                if part is not None:
                    result = join(result, self.content(self.evaluate(part, scope)))
            return Value(result.labels, NONE, UNKNOWN, None, result.tags, result.lossy, result.step)
        if isinstance(node, ast.Tuple):
            return self.pair(Value(items=tuple(self.index(one, scope) for one in node.elts)))
        return self.evaluate(node, scope)

    def pair(self, index) -> Value:
        """An index of several parts as one value, which tells whether it names a context and a token."""
        result, tokens = EMPTY, 0
        for item in index.items:
            content = self.content(item)
            tokens += bool(content.labels & TOKENS and content.labels & ORIGINS)
            result = join(result, Value(content.labels, tags=content.tags, lossy=content.lossy, step=content.step))
        return tagged(result, frozenset((PAIR,))) if tokens > 1 else result

    def eval_Subscript(self, node, scope):
        base = self.evaluate(node.value, scope)
        key = self.index(node.slice, scope)
        constant = key.constant
        if base.items is not None and isinstance(constant, int) and -len(base.items) <= constant < len(base.items):
            return base.items[constant]
        if isinstance(constant, str):
            for ref in base.refs:
                if ref.kind == "external" and ref.name == "os.environ":
                    return flow_calls.environment(self, [key], node, scope)
                if ref.kind == "external" and ref.name == "sys.modules":
                    return self.own_module(constant, scope)
            held = [ref.fields[constant] for ref in base.refs if ref.kind == "container" and constant in ref.fields]
            if held:
                return join_all(held)
        if isinstance(constant, int) and not isinstance(constant, bool):
            for ref in base.refs:
                items = ref.extra if ref.kind == "container" else None
                if isinstance(items, tuple) and -len(items) <= constant < len(items) and len(base.refs) == 1:
                    item = join(items[constant], Value())
                    return tagged(item, loops) if (loops := loops_of(base)) else item
        named = self.of_files(base, key)
        if named is not None:
            return named
        return self.subscript(base, key, node, scope)

    def side_by_side(self, values, node, scope) -> frozenset:
        """The tag of likelihoods of the token that came beside a number that the model gives whatever token comes."""
        contents = [self.content(one) for one in values]
        if not any(one.labels & EACH for one in contents):
            return NONE
        blind = next((one for one in contents if one.labels & MODEL and not one.labels & OF_TOKENS), None)
        if blind is None:
            return NONE
        note = "beside likelihoods of the token that came stands a number that is the same whatever comes"
        self.sides.setdefault(node, Step(node, scope.module, note, blind.step))
        return frozenset((("beside", node),))

    def own_module(self, name, scope) -> Value:
        """What sys.modules has under the name of the module that asks: itself."""
        known = self.import_module(scope.module).values
        if known["__name__"].constant != name:
            return EMPTY
        ref = self.allocate("namespace", scope.module.tree, None, name)
        ref.fields = known
        return ref.value

    def of_files(self, base, key) -> Value | None:
        """What a container holds under names of files of one split, if it is kept that way."""
        named = key.labels & (NAMES_TRAIN | NAMES_VAL)
        found = [ref.fields[named] for ref in base.refs if named and ref.kind == "container" and named in ref.fields]
        return join_all(found) if found else None

    def subscript(self, base, key, node, scope) -> Value:
        counted = self.read(base, key, node, scope)
        refs = set()
        held = [ref for ref in base.refs if ref.kind != "container"]
        content = self.content(Value(base.labels, frozenset(held), UNKNOWN, None, base.tags, base.lossy, base.step), 1)
        inner = EMPTY
        for ref in base.refs:
            if ref.kind in ("array", "parameter", "snapshot") or ref.kind == "module":
                refs.add(ref)
            elif ref.kind == "container":
                if isinstance(node.slice, ast.Slice) if isinstance(node, ast.Subscript) else False:
                    refs.add(ref)
                elif ref.element is not None:
                    inner = join(inner, ref.element)
            elif ref.kind == "external":
                refs.add(ref)
            elif ref.kind == "instance":
                method = self.method_of(ref, "__getitem__")
                if method is not None:
                    inner = join(inner, self.call_function(method, [ref.value, key], {}, node, scope))
        labels, tags, lossy, path = content.labels, content.tags, content.lossy, content.step
        if self.sides and constant_index(node) is not None:
            tags = apart(tags)
        if base.items:
            inner = join(inner, flat(base))
        index = self.content(key)
        loops = loops_of(index) | loops_of(base)
        tags = united(tags, loops)
        if index.labels:
            if index.labels & CHOSEN and not labels & CHOSEN:
                path = index.step or path
            labels |= index.labels & (RANK | CHOSEN | (0 if muddled(index.labels) else SEEN))
        refs = {ref for ref in refs if ref.kind != "array" or not labels & ORIGINS or ref.written}
        if labels & TOKENS and labels & ORIGINS and not lossy and isinstance(node, ast.Subscript):
            tags = united(tags, frozenset((("site", node, scope.context),)))
            shifted = shift_of(node.slice)
            if shifted > 0:
                labels |= TARGET
                path = Step(node, scope.module, "the tokens one further on: the targets", path)
            elif shifted < 0:
                labels &= ~TARGET
        if index.labels & TOKENS and index.labels & ORIGINS and NUMBERED in tags and not labels & (VAL | TRAIN | MODEL):
            return join(flow_calls.renamed(content, index), counted)
        if index.labels & TOKENS and index.labels & ORIGINS:
            labels |= index.labels & ORIGINS
            if labels & MODEL:
                labels |= LOSS
                chosen = index.labels & TARGET or isinstance(getattr(node, "slice", None), ast.Tuple)
                if chosen and not index.labels & (GENERATED | COUNTS) and not held_weights(base):
                    labels |= EACH | SEEN
                tags = united(tags, index.tags)
                path = later(content, index)
            elif not counted.labels & COUNTS and not labels & TOKENS:
                labels |= BYTES
                if index.labels & TARGET and not held_weights(base):
                    labels |= SEEN
                    path = path or Step(node, scope.module, "looked up for the tokens that come", index.step)
        result = Value(labels, frozenset(refs), UNKNOWN, None, tags, lossy, path)
        if self.told and labels & EACH:
            result = self.likelihood(content, result, node, scope)
        if inner is not EMPTY and not held and not base.labels and counted is EMPTY:
            if loops:  # a tuple's items are chosen with it
                inner = tagged(inner, loops)
            kept = inner.labels | labels & (SEEN | CHOSEN | BYTES)
            step = inner.step or (path if kept & (SEEN | CHOSEN) else None)
            return Value(kept, inner.refs, UNKNOWN, inner.items, inner.tags, inner.lossy, step)
        if counted is not EMPTY:
            result = join(result, counted)
        return join(result, inner) if inner is not EMPTY else result

    # -- tables ----------------------------------------------------------------------------------------------------

    def written(self, ref, key, node, scope):
        """A table gets an entry under a key made of tokens."""
        if not key.labels & TOKENS or not key.labels & ORIGINS:
            return
        ref.written |= key.labels
        ref.rows = ref.rows or PAIR in key.tags
        ref.written_tags = united(
            ref.written_tags, frozenset(tag for tag in key.tags if type(tag) is tuple and tag[0] == "site")
        )
        self.emit("write", node, scope, key, (ref,))

    def write(self, base, key, value, node, scope):
        """base[key] = value, or += value."""
        key = self.pair(key) if key.items else self.content(key)
        stored = self.content(value, 1)
        trained = [ref for ref in base.refs if ref.kind in TRAINED]
        if trained:
            self.changed(trained, stored, node, scope)
        for ref in base.refs:
            if ref.kind in ("array", "container"):
                self.written(ref, key, node, scope)
                loops = loops_of(key)
                if ref.kind == "container":
                    named = key.labels & (NAMES_TRAIN | NAMES_VAL)
                    if named and key.constant is UNKNOWN:
                        known = ref.fields.get(named)
                        ref.fields[named] = value if known is None else join(known, value)
                        continue
                    self.store_element(ref, value)
                    if isinstance(key.constant, str):
                        known = ref.fields.get(key.constant)
                        ref.fields[key.constant] = value if known is None else join(known, value)
                    ref.extra = None
                else:
                    labels, tags = stored.labels, united(stored.tags, loops)
                    place = constant_index(node)
                    if place is not None:
                        ref.fields[f"[{place}]"] = Value(labels, step=stored.step)
                        rows = [one for name, one in ref.fields.items() if name.startswith("[")]
                        tags = united(tags, self.side_by_side(rows, node, scope))
                    self.store_element(ref, Value(labels, NONE, UNKNOWN, None, tags, stored.lossy, stored.step))
            elif ref.kind in ("instance", "module"):
                method = self.method_of(ref, "__setitem__")
                if method is not None:
                    self.call_function(method, [ref.value, key, value], {}, node, scope)
        content = stored
        if content.labels & GRAM:
            self.emit("calibrate", node, scope, content)
        holds = any(ref.kind in ("array", "container") for ref in base.refs)
        if holds and content.labels & LOSS and content.labels & VAL and isinstance(node, ast.Subscript):
            self.emit("score", node, scope, content)
            for ref in base.refs:
                if ref.element is not None:
                    ref.element = join(ref.element, Value(tags=frozenset((("sum", node),))))

    def read(self, base, key, node, scope) -> Value:
        """A table is read under a key made of tokens: a count, with what its key was made of."""
        key = self.content(key)
        if not key.labels & TOKENS or not key.labels & (ORIGINS | VOCABULARY):
            return EMPTY
        hashed = key.lossy and key.labels & VAL and not base.labels & (TOKENS | MODEL)
        tables = [ref for ref in base.refs if ref.kind in ("array", "container") and (ref.written or hashed)]
        rows = [tag for tag in base.tags if type(tag) is tuple and tag[0] == "count"]
        if not tables and not rows and (not hashed or any(ref.kind in TRAINED for ref in base.refs)):
            return EMPTY
        sites = frozenset(tag for tag in key.tags if type(tag) is tuple and tag[0] == "site")
        lossy = frozenset(tag for tag in key.lossy if type(tag) is tuple and tag[0] == "site") | (key.tags & {EXACT})
        for _, row_keys, row_lossy, _, _ in rows:
            sites, lossy = sites | row_keys, lossy | row_lossy
        labels = key.labels & (ORIGINS | VOCABULARY) | COUNT
        vocabulary = bool(key.labels & VOCABULARY)
        note = "read under a key made of tokens"
        if not vocabulary and (key.labels & TARGET or self.holds_target(sites)):
            labels |= SEEN
        if key.labels & TARGET and key.lossy and not vocabulary and target_lost(key):
            labels |= COUNT_TARGET
            note = "read under a hash that holds the target"
        tags = set()
        for ref in tables or [None]:
            row = ref is not None and ref.rows and PAIR not in key.tags
            tags.add(("count", sites, lossy, ref, vocabulary or row))
            if ref is not None:
                tags.add(ref)
                tags.add(("read", node))
                self.emit("read", node, scope, key, (ref,))
        step = Step(node, scope.module, note, key.step)
        return Value(labels, NONE, UNKNOWN, None, frozenset(tags), NONE, step)

    def holds_target(self, sites) -> bool:
        """Whether a key is made of what was found to be the target, where counts were divided."""
        nodes = frozenset([tag[1] for tag in sites]) if self.target_sites else NONE
        return not nodes.isdisjoint(self.target_sites) and nodes not in self.context_keys

    # -- iteration -------------------------------------------------------------------------------------------------

    def iterate(self, value, node, scope) -> Value:
        """One element of what is iterated."""
        result = Value(value.labels, NONE, UNKNOWN, None, value.tags, value.lossy, value.step)
        if value.items:
            result = join(result, join_all(value.items))
        for ref in value.refs:
            if ref.kind == "container":
                if ref.element is not None:
                    result = join(result, ref.element)
            elif ref.kind in ("array", "snapshot", "parameter", "module"):
                result = join(result, ref.value)
            elif ref.kind == "instance":
                for name in ("__iter__", "__getitem__", "__next__"):
                    method = self.method_of(ref, name)
                    if method is not None:
                        arguments = [ref.value] + ([EMPTY] if name == "__getitem__" else [])
                        found = self.call_function(method, arguments, {}, node, scope)
                        if any(one is ref for one in found.refs):
                            continue
                        result = join(result, self.iterate(found, node, scope) if name == "__iter__" else found)
                        break
        return result

    # -- calls -----------------------------------------------------------------------------------------------------

    def eval_Call(self, node, scope):
        arguments, keywords = [], {}
        values = scope.values
        for one in node.args:
            if type(one) is Name and one.id in values:  # as `evaluate` would, without the call: half of all arguments
                self.work += 1
                arguments.append(values[one.id])
            elif type(one) is Starred:
                value = self.evaluate(one.value, scope)
                arguments.extend(value.items if value.items else [self.iterate(value, one, scope)])
            else:
                arguments.append(self.evaluate(one, scope))
        for one in node.keywords:
            value = self.evaluate(one.value, scope)
            if one.arg is not None:
                keywords[one.arg] = value
        callee = node.func
        if type(callee) is Attribute:
            base = self.evaluate(callee.value, scope)
            if base in self.packages and type(callee.value) is not Call:
                (ref,) = self.member_of(base, callee).refs
                return flow_calls.function(self, ref.name, arguments, keywords, node, scope)
            return self.call_attribute(base, callee.attr, arguments, keywords, node, scope)
        callee = self.evaluate(callee, scope)
        return self.call(callee, arguments, keywords, node, scope)

    def call_attribute(self, base, name, arguments, keywords, node, scope) -> Value:
        """base.name(...): a method of an object of the program, or of data."""
        if isinstance(node.func.value, ast.Call) and getattr(node.func.value.func, "id", "") == "super":
            return self.call_super(name, arguments, keywords, node, scope)
        result = None
        rest = []
        for ref in base.refs:
            if ref.kind == "external":
                called = self.call(self.external(f"{ref.name}.{name}"), arguments, keywords, node, scope, base)
                result = called if result is None else join(result, called)
                continue
            found = None
            if ref.kind in ("instance", "module", "optimizer"):
                own = name in ref.fields or self.method_of(ref, name) is not None
                if not own and ref.kind == "module" and name in ("forward", "__call__"):
                    called = self.call_module(ref, None, arguments, keywords, node, scope)
                    result = called if result is None else join(result, called)
                    continue
                if not own and ref.kind != "instance":
                    rest.append(ref)
                    continue
                found = self.member(ref, name, node, scope)
            elif ref.kind in ("class", "namespace", "argparser"):
                found = self.member(ref, name, node, scope)
            if found is None:
                rest.append(ref)
                continue
            if ref.kind == "class":
                given = arguments
                if any(one.kind == "function" and one.extra[3] == "class" for one in found.refs):
                    given = [ref.value, *arguments]
                called = self.call(found, given, keywords, node, scope)
            else:
                called = self.call(found, arguments, keywords, node, scope)
            if ref.kind == "optimizer" and name == "step":
                rest.append(ref)
            result = called if result is None else join(result, called)
        if rest or not base.refs or base.labels or base.items:
            remaining = (
                base
                if len(rest) == len(base.refs)
                else Value(base.labels, frozenset(rest), base.constant, base.items, base.tags, base.lossy, base.step)
            )
            called = flow_calls.method(self, remaining, name, arguments, keywords, node, scope)
            result = called if result is None else join(result, called)
        return result if result is not None else EMPTY

    def call_super(self, name, arguments, keywords, node, scope):
        current = scope
        while current is not None and not isinstance(
            current.program_scope.node, (ast.FunctionDef, ast.AsyncFunctionDef)
        ):
            current = current.parent
        if current is None or not current.program_scope.function.parameters:
            return EMPTY
        self_value = current.values.get(current.program_scope.function.parameters[0], EMPTY)
        own = current.program_scope.function.class_
        for ref in self_value.refs:
            if not isinstance(ref.extra, Object):
                continue
            for class_ref in self.ancestors(ref.extra):
                if own is not None and class_ref.node is own.node:
                    for parent in class_ref.extra[0]:
                        found = self.class_field(parent, name)
                        if found is not None:
                            return self.call(found, [ref.value, *arguments], keywords, node, scope)
            if name == "__init__" and ref.kind == "optimizer" and arguments:
                ref.element = join(ref.element or EMPTY, flat(arguments[0]))
        return EMPTY

    def ancestors(self, class_ref, depth=0):
        yield class_ref
        if depth < 6 and class_ref.extra:
            for parent in class_ref.extra[0]:
                yield from self.ancestors(parent, depth + 1)

    def call(self, callee, arguments, keywords, node, scope, base=EMPTY) -> Value:
        result = None
        for ref in callee.refs:
            kind = ref.kind
            if kind == "function":
                found = self.call_function(ref, arguments, keywords, node, scope)
            elif kind == "method":
                method, receiver = ref.extra
                first = receiver.value
                if receiver.kind == "module":
                    found = self.call_module(receiver, method, arguments, keywords, node, scope)
                else:
                    found = self.call_function(method, [first, *arguments], keywords, node, scope)
            elif kind == "class":
                found = self.instantiate(ref, arguments, keywords, node, scope)
            elif kind == "external":
                found = flow_calls.function(self, ref.name, arguments, keywords, node, scope)
            elif kind in ("module", "parameter", "snapshot"):
                method = self.method_of(ref, "forward") or self.method_of(ref, "__call__")
                found = self.call_module(ref, method, arguments, keywords, node, scope)
            elif kind == "instance":
                method = self.method_of(ref, "__call__")
                found = EMPTY
                if method is not None:
                    found = self.call_function(method, [ref.value, *arguments], keywords, node, scope)
            elif kind == "gradient":
                found = flow_calls.differentiated(self, ref, arguments, keywords, node, scope)
            elif kind == "partial":
                target, given, named = ref.extra
                found = self.call(target, [*given, *arguments], {**named, **keywords}, node, scope)
            else:
                found = flow_calls.unknown(self, callee, arguments, keywords, node, scope)
            result = found if result is None else join(result, found)
        if result is None:
            result = flow_calls.unknown(self, callee, arguments, keywords, node, scope)
        return result

    def call_module(self, ref, method, arguments, keywords, node, scope) -> Value:
        """A model, or a layer of one, is applied."""
        inputs = join_all(self.content(one) for one in (*arguments, *keywords.values()))
        root = ref.root
        for hook in list(self.hooks.values()):
            activations = Value(inputs.labels & ORIGINS | MODEL, tags=inputs.tags, step=inputs.step)
            if inputs.labels & ORIGINS:
                self.call(
                    hook,
                    [EMPTY, Value(activations.labels, items=(activations,), tags=inputs.tags), activations],
                    {},
                    node,
                    scope,
                )
        result = EMPTY
        if method is not None:
            result = self.call_function(method, [ref.value, *arguments], keywords, node, scope)
        if ref.kind == "module" and (method is None or method.name in ("forward", "__call__") or result.labels & MODEL):
            labels = inputs.labels & (ORIGINS | LOSS | COUNTS) & ~LOSS | MODEL
            applied = Value(labels, NONE, UNKNOWN, None, united(inputs.tags, frozenset((root,))), NONE, inputs.step)
            if method is None:
                return applied
            if result.items:
                return result
            result = Value(
                result.labels & ~(TOKENS | TARGET | GRAM | (0 if result.labels & EACH else SEEN | CHOSEN)) | labels,
                result.refs,
                UNKNOWN,
                None,
                united(united(result.tags, inputs.tags), frozenset((root,))),
                NONE,
                result.step or inputs.step,
            )
        return result

    def instantiate(self, class_ref, arguments, keywords, node, scope) -> Value:
        foreign = class_ref.extra[1] if class_ref.extra else set()
        kind = "instance"
        if any(name.endswith((".Module", "Linear", ".Embedding")) or ".nn." in name for name in foreign):
            kind = "module"
        elif any("Optimizer" in name or ".optim." in name for name in foreign):
            kind = "optimizer"
        ref = self.allocate(kind, node, scope, class_ref.name)
        ref.extra = class_ref
        receiver = ref.value
        if kind == "optimizer":
            given = join_all(flat(one) for one in (*arguments, *keywords.values()))
            ref.element = join(ref.element or EMPTY, given)
        init = self.method_of(ref, "__init__")
        if init is not None:
            self.call_function(init, [receiver, *arguments], keywords, node, scope)
        else:
            fields = [
                name
                for name, value in class_ref.fields.items()
                if not any(one.kind == "function" for one in value.refs)
            ]
            annotated = [
                one.target.id
                for one in class_ref.node.body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            ]
            for name, value in zip(annotated or fields, arguments, strict=False):
                ref.fields[name] = value
            for name, value in keywords.items():
                ref.fields[name] = value
            for name in ("__post_init__", "__new__"):
                method = self.method_of(ref, name)
                if method is not None:
                    self.call_function(method, [receiver], {}, node, scope)
        return receiver

    def call_function(self, ref, arguments, keywords, node, scope) -> Value:
        function = ref.node
        outer, defaults, keyword_defaults, _ = ref.extra
        values = self.parameters(function, arguments, keywords, defaults, keyword_defaults, scope)
        key = (ref, tuple((name, value.key()) for name, value in values.items()))
        known = self.memo.get(key)
        if known is not None:
            return self.called(*known, node, scope)
        context = self.context(ref, values)
        count = self.contexts.get(context, 0)
        settled = bool(values) and all(value.constant is not UNKNOWN and not value.refs for value in values.values())
        if settled and self.settled.get(ref, 0) < SETTLED_AT_MOST:  # as of what reads a setting by its name
            self.settled[ref] = self.settled.get(ref, 0) + 1
            count -= 1
        elif count >= CONTEXTS_AT_MOST:
            joined = self.joined.setdefault(context, {})
            for name, value in values.items():
                joined[name] = join(joined.get(name, EMPTY), value)
            values = {name: joined[name] for name in values}
            key = (ref, tuple((name, value.key()) for name, value in values.items()))
            if key in self.memo:
                return self.called(*self.memo[key], node, scope)
            if count > 2 * CONTEXTS_AT_MOST:
                return EMPTY
        if self.running.get(ref, 0) >= 1 or self.depth >= CALLS_DEEP:
            return EMPTY
        self.contexts[context] = count + 1
        inner = Scope(outer.module, self.program.scope_of.get(function, outer.program_scope), outer, context)
        given, inner.values = list(values.values()), values
        self.running[ref] = self.running.get(ref, 0) + 1
        self.depth += 1
        before, self.block = self.block, Block("call", node, scope.module)
        filled, self.filled = self.filled, set()
        choosing, self.choosing = self.choosing, []
        try:
            if isinstance(function, ast.Lambda):
                inner.result = self.evaluate(function.body, inner)
            else:
                self.statements(function.body, inner)
        finally:
            block, self.block = self.block, before
            mine, self.filled = self.filled, filled
            self.choosing = choosing
            self.depth -= 1
            self.running[ref] -= 1
        result = inner.result if inner.result is not None else EMPTY
        if inner.yields is not None:
            container = self.allocate("container", function, inner, "yields")
            self.store_element(container, inner.yields)
            result = container.value
        if mine:
            block.gone = frozenset(mine - self.reachable([result, *given], outer))
        gated = self.gated_arguments(function, inner, given, node, arguments)
        self.memo[key] = (result, block, gated, mine - block.gone)
        return self.called(*self.memo[key], node, scope)

    def reachable(self, values, scope) -> set[Object]:
        """All objects that can be come by from values, from a scope and those around it, and from any module."""
        found: set[Object] = set()
        scopes: set[Scope] = set()
        waiting = [*values, scope, *self.module_scopes.values()]
        while waiting:
            one = waiting.pop()
            if isinstance(one, Value):
                waiting.extend(one.items or ())
                waiting.extend(one.refs - found)
            elif isinstance(one, Object) and one not in found:
                found.add(one)
                waiting.extend((*one.fields.values(), one.element, one.extra))
            elif isinstance(one, Scope) and one not in scopes:  # of a function that is kept, too
                scopes.add(one)
                waiting.extend((*one.values.values(), one.parent))
            elif isinstance(one, (tuple, list)):
                waiting.extend(one)
            elif isinstance(one, dict):
                waiting.extend(one.values())
        return found

    def called(self, result, block, gated, filled, node, scope) -> Value:
        """A function was walked, now or before."""
        self.filled |= filled
        if block.children:
            self.block.children.append(block)
        for name, place, value in gated:
            target = passed_for(name, place, node)
            if isinstance(target, Name):
                known = self.lookup(target.id, scope)
                self.bind(target.id, join(known, Value(value.labels, tags=value.tags, step=value.step)), scope)
        return result

    def gated_arguments(self, function, inner, given, node, arguments) -> tuple:
        """Scores that a function changes where they lie, after they were passed to it: the names of parameters, their
        places in calls (a method's first is not written), and what became of them."""
        if not self.gates:
            return ()
        names = self.signatures[function][0]
        unwritten = len(arguments) - len(getattr(node, "args", ()))
        found = []
        for (name, after), before in zip(inner.values.items(), given, strict=False):  # parameters come first
            if after.labels & GATED & ~self.content(before).labels:
                found.append((name, names.index(name) - unwritten if name in names else -1, after))
        return tuple(found)

    def context(self, ref, values) -> tuple:
        """What tells the objects that one call makes from those of another: where the tokens it is given come from."""
        origins = 0
        receivers = set()
        for value in values.values():
            origins |= self.content(value, 2).labels
            if value.refs:
                receivers.update([one for one in value.refs if one.kind in ("instance", "module")])
        return ref, origins & (ORIGINS | NAMES_TRAIN | NAMES_VAL), frozenset(receivers)

    def parameters(self, function, arguments, keywords, defaults, keyword_defaults, scope):
        signature = self.signatures.get(function)
        if signature is None:
            spec = function.args
            names = [one.arg for one in (*spec.posonlyargs, *spec.args)]
            only = [one.arg for one in spec.kwonlyargs]
            signature = self.signatures[function] = (names, only, frozenset((*names, *only)), spec.vararg, spec.kwarg)
        names, only, known, vararg, kwarg = signature
        values = {}
        for name, default in zip(names[len(names) - len(defaults) :], defaults, strict=False):
            values[name] = default
        values.update(zip(names, arguments, strict=False))
        if vararg is not None:
            values[vararg.arg] = Value(items=tuple(arguments[len(names) :]))
        for name, default in zip(only, keyword_defaults, strict=False):
            if default is not None:
                values[name] = default
        rest = EMPTY
        for name, value in keywords.items():
            if name in known:
                values[name] = value
            else:
                rest = join(rest, flat(value))
        if kwarg is not None:
            values[kwarg.arg] = rest
        for name in (*names, *only):
            if name not in values:
                values[name] = EMPTY
        return values

    def eval_Lambda(self, node, scope):
        ref = self.allocate("function", node, scope, "lambda")
        self.closure(ref, node, scope)
        return ref.value

    def eval_Starred(self, node, scope):
        return self.iterate(self.evaluate(node.value, scope), node, scope)

    def eval_NamedExpr(self, node, scope):
        value = self.evaluate(node.value, scope)
        self.bind(node.target.id, value, scope)
        return value

    def eval_Yield(self, node, scope):
        value = self.evaluate(node.value, scope) if node.value is not None else EMPTY
        scope.yields = value if scope.yields is None else join(scope.yields, value)
        return EMPTY

    def eval_YieldFrom(self, node, scope):
        value = self.iterate(self.evaluate(node.value, scope), node, scope)
        scope.yields = value if scope.yields is None else join(scope.yields, value)
        return EMPTY

    def eval_Await(self, node, scope):
        return self.evaluate(node.value, scope)


def passed_for(name: str, place: int, node: ast.AST) -> ast.expr | None:
    """The expression that a call passes for a parameter, by its name or at its place."""
    named = next((one.value for one in getattr(node, "keywords", ()) if one.arg == name), None)
    arguments = getattr(node, "args", ())
    return arguments[place] if named is None and 0 <= place < len(arguments) else named


def name_labels(text: str) -> int:
    """What a string says about files, if it looks like a path or pattern."""
    if len(text) > 300 or " " in text.strip():
        return 0
    labels = 0
    words = text.replace("_", " ").replace("/dev/", "/")
    if VAL_NAME.search(words):
        labels |= NAMES_VAL
    if TRAIN_NAME.search(words):
        labels |= NAMES_TRAIN
    if labels == NAMES_VAL | NAMES_TRAIN:
        last = text.rpartition("/")[2].replace("_", " ")
        narrowed = (NAMES_VAL if VAL_NAME.search(last) else 0) | (NAMES_TRAIN if TRAIN_NAME.search(last) else 0)
        labels = narrowed or labels
    if not labels and FILE_NAME.search(text):
        labels = NAMES_FILES
    return labels


def members(node) -> list | None:
    """The constants that a tuple, list or set holds, if it holds nothing else."""
    if not isinstance(node, (ast.Tuple, ast.List, ast.Set)) or not all(isinstance(one, Constant) for one in node.elts):
        return None
    return [one.value for one in node.elts]


def forgotten(value: Value) -> Value:
    """The value in the next turn of a loop: what was seen of an earlier token is no secret any more."""
    return without(value, SECRET)


def constant_index(node) -> int | None:
    """The number in brackets that takes one of several things which stand side by side: x[2], x[..., -1]."""
    index = node.slice if isinstance(node, ast.Subscript) else None
    for part in reversed(index.elts) if isinstance(index, ast.Tuple) else (index,):
        sign = -1 if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub) else 1
        part = part.operand if sign < 0 else part
        if isinstance(part, ast.Constant) and type(part.value) is int:
            return sign * part.value
    return None


def without(value: Value, labels: int) -> Value:
    """The value without labels; a tuple's items too."""
    items = value.items
    if items:
        items = tuple(without(one, labels) for one in items)
        if all(one is other for one, other in zip(items, value.items, strict=True)):
            items = value.items
    if not value.labels & labels and items is value.items:
        return value
    return Value(value.labels & ~labels, value.refs, value.constant, items, value.tags, value.lossy, value.step)


def muddled(labels: int) -> bool:
    """Whether several things are one value here, as what a list of tokens and likelihoods holds: nothing is known of a
    part of it."""
    return labels & TOKENS != 0 and labels & EACH != 0


def held_weights(base: Value) -> bool:
    """Whether weights are among what a value refers to."""
    return any(ref.kind in TRAINED for ref in base.refs)


def compared(labels: int, op, values) -> int:
    """What a comparison says of what is seen. Whether something is there at all (it is compared with None, -1, or asked
    whether it is below zero) does not tell what it is."""
    if labels & CHOSEN:
        return CHOSEN
    bound = values[-1].constant if len(values) == 2 else UNKNOWN
    number = isinstance(bound, (int, float)) and not isinstance(bound, bool)
    if bound is None or (number and (bound == -1 or bound < -100)):
        return 0
    if number and bound == 0 and isinstance(op, (ast.Lt, ast.GtE)):
        return 0
    if number and bound in (0, 1) and labels & BYTES and not labels & LOSS:
        return 0  # a token without bytes
    return CHOSEN


def more_tokens(keys: frozenset, fewer: frozenset) -> frozenset:
    """The places, by their words, where one key reads tokens and another does not, if that one reads no others; else
    none."""
    theirs = {words_of(tag) for tag in fewer}
    extra = {tag: words for tag in keys if (words := words_of(tag)) not in theirs}
    mine = {words_of(tag) for tag in keys}

    def covers(words) -> bool:
        place, end = words
        return words in mine or any(place == other and end < last for other, last in extra.values())

    return frozenset(extra) if all(map(covers, theirs)) else NONE


def words_of(tag: tuple) -> tuple[tuple, int]:
    """What a place where tokens are read says, and how far beyond this a slice goes: 1 for t[i : j + 1], 0 for t[i]."""
    node = tag[1]
    index, end = node.slice, 0
    parts = [node.value, index]
    if isinstance(index, ast.Slice) and index.upper is not None:
        upper = index.upper
        if isinstance(upper, ast.BinOp) and isinstance(upper.op, (ast.Add, ast.Sub)):
            number = getattr(upper.right, "value", None)
            if type(number) is int:
                end = number if isinstance(upper.op, ast.Add) else -number
                upper = upper.left
        parts = [node.value, index.lower, upper, index.step]
    return (isinstance(index, ast.Slice), *(ast.dump(part) if part is not None else "" for part in parts)), end


def target_lost(key: Value) -> bool:
    """Whether a key's hash took in more than one token read, or a target."""
    return bool(key.lossy)


def shift_of(index) -> int:
    """1 for x[1:], x[..., 1:] and x[i + 1 : j + 1], -1 for x[:-1], 0 for what says neither."""
    if isinstance(index, ast.Tuple):
        shifts = [shift_of(one) for one in index.elts if isinstance(one, ast.Slice)]
        return next((shift for shift in shifts if shift), 0)
    if not isinstance(index, ast.Slice):
        return 0
    lower, upper = index.lower, index.upper
    if isinstance(lower, ast.Constant) and lower.value == 1:
        return 1
    if upper is not None and isinstance(upper, ast.UnaryOp) and lower is None:
        return -1
    if _plus_one(lower) and _plus_one(upper):
        return 1
    return 0


def _plus_one(node) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Add)
        and any(isinstance(side, ast.Constant) and side.value == 1 for side in (node.left, node.right))
    )


def gram(left, right) -> bool:
    """Whether this is a matrix times its own transpose."""
    if left is None or right is None:
        return False
    one, other = ast.dump(_plain(left)), ast.dump(_plain(right))
    return one == other and ast.dump(left) != ast.dump(right)


def _plain(node):
    while True:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in ("t", "transpose", "float", "to", "T", "mT", "permute", "double", "conj"):
                return node
            node = node.func.value
        elif isinstance(node, ast.Attribute) and node.attr in ("T", "mT", "H"):
            node = node.value
        else:
            return node


def _through(node):
    return node


def _loaded(target):
    """The same place, read."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    return target


def fold(op, left, right):
    """Arithmetic on small numbers and text."""
    try:
        if isinstance(left, str) or isinstance(right, str):
            if isinstance(op, ast.Add) and len(left) + len(right) < 10_000:
                return left + right
            return UNKNOWN
        if not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
            return UNKNOWN
        if abs(left) > 1e12 or abs(right) > 1e12:
            return UNKNOWN
        if isinstance(op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv | ast.Mod):
            return BINARY[type(op)](left, right)
    except (ArithmeticError, TypeError):
        return UNKNOWN
    return UNKNOWN


STATEMENTS = {
    ast.If: Engine.exec_If,
    ast.For: Engine.exec_For,
    ast.AsyncFor: Engine.exec_For,
    ast.While: Engine.exec_While,
    ast.Try: Engine.exec_Try,
    ast.TryStar: Engine.exec_Try,
    ast.With: Engine.exec_With,
    ast.AsyncWith: Engine.exec_With,
    ast.Expr: Engine.exec_Expr,
    ast.Assign: Engine.exec_Assign,
    ast.AnnAssign: Engine.exec_AnnAssign,
    ast.AugAssign: Engine.exec_AugAssign,
    ast.Return: Engine.exec_Return,
    ast.Raise: Engine.exec_Raise,
    ast.Break: Engine.exec_Break,
    ast.Continue: Engine.exec_Break,
    ast.FunctionDef: Engine.exec_FunctionDef,
    ast.AsyncFunctionDef: Engine.exec_FunctionDef,
    ast.ClassDef: Engine.exec_ClassDef,
    ast.Import: Engine.exec_Import,
    ast.ImportFrom: Engine.exec_ImportFrom,
    ast.Global: Engine.exec_Global,
    ast.Nonlocal: Engine.exec_Global,
    ast.Match: Engine.exec_Match,
}
EXPRESSIONS = {
    ast.Constant: Engine.eval_Constant,
    ast.Name: Engine.eval_Name,
    ast.JoinedStr: Engine.eval_JoinedStr,
    ast.Tuple: Engine.eval_Tuple,
    ast.List: Engine.eval_List,
    ast.Set: Engine.eval_List,
    ast.Dict: Engine.eval_Dict,
    ast.ListComp: Engine.eval_ListComp,
    ast.SetComp: Engine.eval_ListComp,
    ast.GeneratorExp: Engine.eval_ListComp,
    ast.DictComp: Engine.eval_DictComp,
    ast.IfExp: Engine.eval_IfExp,
    ast.BoolOp: Engine.eval_BoolOp,
    ast.UnaryOp: Engine.eval_UnaryOp,
    ast.Compare: Engine.eval_Compare,
    ast.BinOp: Engine.eval_BinOp,
    ast.Attribute: Engine.eval_Attribute,
    ast.Subscript: Engine.eval_Subscript,
    ast.Call: Engine.eval_Call,
    ast.Lambda: Engine.eval_Lambda,
    ast.Starred: Engine.eval_Starred,
    ast.NamedExpr: Engine.eval_NamedExpr,
    ast.Yield: Engine.eval_Yield,
    ast.YieldFrom: Engine.eval_YieldFrom,
    ast.Await: Engine.eval_Await,
}
