"""Which tables an assignment makes anew, so that what an earlier turn of a loop has filled is gone: those that its own
expression makes, if nothing that is used later still refers to the old ones."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from harness.compliance.flow_values import Object, Value, flat
from harness.compliance.memory import keep
from harness.compliance.program import FUNCTIONS

FOR = (ast.For, ast.AsyncFor)
LATE = (*FUNCTIONS, ast.Lambda)
CHOICES = (ast.If, ast.IfExp, ast.Try, ast.Match, ast.BoolOp, *LATE)  # what is in them may be left out
TABLES = frozenset({"array", "container"})  # kinds of objects

Position = tuple[int, int]


@dataclass(frozen=True)
class _Use:
    """A place where a name is read, or bound. choices: around it, outermost first. late: in a function inside, that may
    be called at any time."""

    at: Position
    binds: bool
    choices: tuple[ast.AST, ...]
    late: bool = False


def renewed(engine, node: ast.Assign | ast.AnnAssign, value: Value, scope) -> list[Object]:
    """The tables that are empty after an assignment, whatever earlier turns have written into them."""
    target = _targets(node)[0]
    if isinstance(node.value, ast.Constant) and isinstance(target, ast.Subscript) and _is_whole(target.slice):
        return emptied(engine, engine.evaluate(target.value, scope).refs)
    made = _made_by(engine, node.value, value, scope) if value.refs else []
    gone = emptied(engine, [*made, *_replaced(engine, target, scope)]) if made else []
    return [] if gone and _held(engine, set(gone), node, scope) else gone


def emptied(engine, tables: Iterable[Object]) -> list[Object]:
    """Of tables that hold nothing any more, and of what they held: those that tokens were counted in."""
    found = dict.fromkeys(tables)
    for table in list(found):
        if table.former is not None:
            found.update(dict.fromkeys(engine.parts(table.former)))
    return [one for one in found if one.written]


def _replaced(engine, target: ast.expr, scope) -> list[Object]:
    """What a name or an attribute refers to before it is assigned to."""
    if isinstance(target, ast.Name):
        before = [scope.values[target.id]] if target.id in scope.values else []
    elif isinstance(target, ast.Attribute):
        bases = engine.evaluate(target.value, scope).refs
        before = [ref.fields[target.attr] for ref in bases if target.attr in ref.fields]
    else:
        before = []
    return [part for value in before for part in engine.parts(value)]


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _is_whole(index: ast.expr) -> bool:
    """Whether an index is [:] or [...]."""
    if isinstance(index, ast.Slice):
        return index.lower is index.upper is index.step is None
    return isinstance(index, ast.Constant) and index.value is ...


def _made_by(engine, node: ast.expr, value: Value, scope) -> list[Object]:
    """The arrays and containers that an expression makes, or those of an instance that it makes. What an initialiser
    makes for itself is asked for where it is called."""
    if getattr(scope.program_scope.node, "name", "") == "__init__":
        return []
    while isinstance(node, ast.Call) and isinstance(getattr(node.func, "value", None), ast.Call):
        node = node.func.value  # np.zeros(size).astype(kind)
    found = []
    for ref in value.refs:
        if ref.node is node and ref.kind in TABLES:
            found.append(ref)
        elif ref.node is node and ref.kind == "instance":
            found += [part for field in ref.fields.values() for part in engine.parts(field)]
    return found


def _held(engine, objects: set[Object], node: ast.Assign | ast.AnnAssign, scope) -> bool:
    """Whether anything but what is assigned to refers to one of these objects, and may be used before it is bound
    again."""
    names = {base.id for base in map(_base, _targets(node)) if isinstance(base, ast.Name)}
    function = scope.program_scope.node
    if names & _given_back(function):  # a caller may still have the last one
        return True
    others = [value for name, value in scope.values.items() if name not in names and _is_live(name, node, function)]
    for target in _targets(node):
        if isinstance(target, ast.Attribute):
            for ref in engine.evaluate(target.value, scope).refs:
                others += [value for name, value in ref.fields.items() if name != target.attr]
    outer = scope.parent
    while outer is not None:
        others += outer.values.values()
        outer = outer.parent
    return not objects.isdisjoint(_reached(others))


def _reached(values: Iterable[Value]) -> set[Object]:
    """What values refer to, and what is held by that."""
    found: set[Object] = set()
    waiting = [ref for value in values for ref in flat(value).refs]
    while waiting:
        ref = waiting.pop()
        if ref not in found:
            found.add(ref)
            held = (*ref.fields.values(), ref.former)
            waiting += [one for value in held if value is not None for one in flat(value).refs]
    return found


def _base(target: ast.expr) -> ast.expr:
    while isinstance(target, ast.Subscript | ast.Attribute):
        target = target.value
    return target


def _is_live(name: str, node: ast.stmt, function: ast.AST) -> bool:
    """Whether a name of a function may still be used, after an assignment, with the value that it has there: in the
    rest of the function, or by the next turn of a loop around, before it is bound again."""
    uses, loops = _uses(function)
    here = _end(node)
    own = uses.get(name, ())
    if any(use.late for use in own):
        return True
    later = [(use, here) for use in own if use.at > here]
    around = [loop for loop in loops if _contains(loop, here)]
    ways = [later]
    for loop in around:
        head = _end(loop.iter) if isinstance(loop, FOR) else _start(loop)
        again = [(use, head) for use in own if head <= use.at <= here]
        ways.append([(use, at) for use, at in later if _contains(loop, use.at)] + again)
    return any(_reads_before_it_binds(way) for way in ways)


def _reads_before_it_binds(way: Iterable[tuple[_Use, Position]]) -> bool:
    """Whether what a name holds is used on a way. way: its uses in their order, each with the place that this stretch
    of the way comes from: choices around both are made already."""
    bound: list[ast.AST] = []  # choices in which it is bound
    for use, origin in way:
        if not use.binds:
            if not any(_contains(choice, use.at) for choice in bound):
                return True
            continue
        open_choices = [choice for choice in use.choices if not _contains(choice, origin)]
        if not open_choices:
            return False
        bound.append(open_choices[0])
    return False


def _start(node: ast.AST) -> Position:
    return node.lineno, node.col_offset


def _end(node: ast.AST) -> Position:
    return node.end_lineno, node.end_col_offset


def _contains(node: ast.AST, position: Position) -> bool:
    return _start(node) <= position <= _end(node)


@keep(at_most=256)
def _uses(function: ast.AST) -> tuple[dict[str, list[_Use]], list[ast.AST]]:
    """The uses of each name in a function, as they come in the text, and its loops. A name is bound where its statement
    ends, or the head of its loop."""
    found: dict[str, list[_Use]] = {}
    loops: list[ast.AST] = []

    def visit(node: ast.AST, choices: tuple[ast.AST, ...], bound_at: Position) -> None:
        if isinstance(node, ast.Name):
            binds = isinstance(node.ctx, ast.Store)
            late = any(isinstance(one, LATE) for one in choices)
            found.setdefault(node.id, []).append(_Use(bound_at if binds else _start(node), binds, choices, late))
            return
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id, []).append(_Use(_start(node), False, choices))
        if isinstance(node, CHOICES):
            choices = (*choices, node)
        if isinstance(node, (*FOR, ast.While)):
            loops.append(node)
        if isinstance(node, FOR):
            bound_at = _end(node.iter)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            bound_at = _end(node)
        elif isinstance(node, ast.withitem):
            bound_at = _end(node.context_expr)
        for child in ast.iter_child_nodes(node):
            visit(child, choices, bound_at)

    body = getattr(function, "body", ())
    for statement in body if isinstance(body, list) else [body]:
        visit(statement, (), _start(statement))
    for uses in found.values():
        uses.sort(key=lambda use: use.at)
    return found, loops


@keep(at_most=256)
def _given_back(function: ast.AST) -> set[str]:
    """The names in what a function returns or yields."""
    if not isinstance(function, FUNCTIONS):
        return set()
    given = [one for one in ast.walk(function) if isinstance(one, ast.Return | ast.Yield | ast.YieldFrom)]
    return {one.id for node in given for one in ast.walk(node) if isinstance(one, ast.Name)}
