"""Which loops of a program train, and whether it trains or scores at all."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache

from harness.compliance.program import SCOPES, Function, LiveNode, Program, Scope, Unknown, children

GRADIENT_METHODS = frozenset({"backward", "value_and_grad"})
LOOPS = frozenset({ast.For, ast.AsyncFor, ast.While})
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
    found = set()
    callers: dict[Function, set[Function]] = {}
    for call in _of_the_program(program):
        function = call.scope.function
        if function is None:
            continue
        if _is_gradient(call.node):
            found.add(function)
        for callee in program.callees(call.node, call.scope):
            callers.setdefault(callee, set()).add(function)
    pending = list(found)
    while pending:
        more = callers.get(pending.pop(), set()) - found
        found |= more
        pending += more
    return found


def _of_the_program(program: Program) -> list[LiveNode]:
    """Calls that can run, less those of packages that compute no gradient."""
    external = {one.node for one in program.external_calls}
    return [one for one in program.live_of(ast.Call) if one.node not in external or _is_gradient(one.node)]


@lru_cache(maxsize=1)  # several rules ask, one after another
def training_loops(program: Program) -> tuple[Loop, ...]:
    """The outermost loops that can run and compute gradients."""
    functions = training_functions(program)
    calls = {one.node for one in _of_the_program(program)}
    found = []
    inside: set[ast.AST] = set()
    loops = program.live_of(ast.For, ast.AsyncFor, ast.While)
    for node, _, scope, sure in sorted(loops, key=lambda one: (one.node.lineno, one.node.col_offset)):
        if node in inside:
            continue
        nodes = own_nodes(node)
        if any(
            one in calls and (_is_gradient(one) or functions.intersection(program.callees(one, scope)))
            for one in nodes
            if type(one) is ast.Call
        ):
            found.append(Loop(node, scope, sure))
            inside.update(one for one in nodes if type(one) in LOOPS)
    return tuple(found)


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
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name == "grad":  # torch.autograd.grad
        return isinstance(node.func, ast.Attribute) and getattr(node.func.value, "attr", "") == "autograd"
    return name in GRADIENT_METHODS
