"""Which loops of a program train, and whether it trains or scores at all."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from harness.compliance.memory import keep
from harness.compliance.program import SCOPES, Function, LiveNode, Program, Scope, Unknown, children

FUNCTIONAL = frozenset({"value_and_grad"})  # makes a function that computes gradients
GRADIENT_METHODS = frozenset({"backward"}) | FUNCTIONAL
MAX_PASSED = 6  # from name to name, from a parameter to what is passed
LOOPS = (ast.For, ast.AsyncFor, ast.While)
LOSSES = frozenset({"cross_entropy", "log_softmax", "nll_loss", "logsumexp", "CrossEntropyLoss", "NLLLoss"})


@dataclass(frozen=True)
class Loop:
    """A loop that can run. sure: whether it does."""

    node: ast.For | ast.AsyncFor | ast.While
    scope: Scope
    sure: bool | Unknown


def is_contestant(program: Program) -> bool:
    """Whether a program trains or computes a loss; others prepare data or plot."""
    return any(program.mentions(name) for name in GRADIENT_METHODS | LOSSES)


def training_functions(program: Program) -> set[Function]:
    """The functions that compute gradients, themselves or through what they call."""
    found = {one.scope.function for one in _gradients(program)} - {None}
    callers: dict[Function, set[Function]] = {}
    for call in program.other_calls:
        if call.scope.function is not None:
            for callee in program.callees(call.node, call.scope):
                callers.setdefault(callee, set()).add(call.scope.function)
    pending = list(found)
    while pending:
        more = callers.get(pending.pop(), set()) - found
        found |= more
        pending += more
    return found


@keep(at_most=1)  # the functions are asked for, and the loops
def _gradients(program: Program) -> list[LiveNode]:
    """The calls that can run and compute gradients: by name, and of what `value_and_grad` has made of a function."""
    functional = any(program.mentions(name) for name in FUNCTIONAL)
    return [
        one
        for one in program.live_of(ast.Call)
        if _is_gradient(one.node) or (functional and _gives_gradients(program, one.node.func, one.scope))
    ]


def _gives_gradients(program: Program, node: ast.expr, scope: Scope, depth: int = 0) -> bool:
    """Whether an expression can be a function that `value_and_grad` has made, as it is or compiled."""
    if depth > MAX_PASSED:
        return False
    if isinstance(node, ast.Call):
        compiled = program.external(node.func, scope) is not None
        given = node.args if compiled else ()
        return _name(node) in FUNCTIONAL or any(_gives_gradients(program, one, scope, depth + 1) for one in given)
    if not isinstance(node, ast.Name):
        return False
    home, bindings = program.lookup(node, scope)
    for binding in bindings:
        values = ((binding.value, home),) if binding.kind == "value" and not binding.path else ()
        if binding.kind == "parameter" and home.function is not None:
            values = program.passed(home.function, node.id)
        if any(_gives_gradients(program, one, where, depth + 1) for one, where in values):
            return True
    return False


@keep(at_most=1)  # several rules ask, one after another
def training_loops(program: Program) -> tuple[Loop, ...]:
    """The outermost loops that can run and compute gradients."""
    training = {program.outermost_loop(one.statement) for one in _gradients(program)}
    functions = training_functions(program)
    for call in program.other_calls:
        loop = program.outermost_loop(call.statement)
        if loop not in training and functions.intersection(program.callees(call.node, call.scope)):
            training.add(loop)
    loops = [one for one in program.live_of(*LOOPS) if one.node in training]
    loops.sort(key=lambda one: (one.node.lineno, one.node.col_offset))
    return tuple(Loop(one.node, one.scope, one.sure) for one in loops)


def own_nodes(node: ast.AST) -> list[ast.AST]:
    """A node and all below it, without the bodies of functions and classes that are defined there."""
    found = []
    stack = [node]
    while stack:
        one = stack.pop()
        found.append(one)
        if type(one) not in SCOPES or one is node:
            stack += children(one)
    return found


def _is_gradient(node: ast.Call) -> bool:
    name = _name(node)
    if name == "grad":  # torch.autograd.grad
        return isinstance(node.func, ast.Attribute) and getattr(node.func.value, "attr", "") == "autograd"
    return name in GRADIENT_METHODS


def _name(node: ast.Call) -> str:
    """What is called, without what it belongs to."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
