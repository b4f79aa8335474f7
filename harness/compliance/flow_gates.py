"""How mixing of likelihoods is written: which expressions of a sum are weights, and which larger-of-two is only there
to keep a sum of exponentials in range. What is known of the values is in `flow_engine.py`."""

from __future__ import annotations

import ast

BETTER_KEPT = "of two scores of a token the better one is kept"
TOLD = "and their likelihoods are taken from it"  # from a prediction that was told what comes
EXPONENTIALS = frozenset({"exp", "exp2", "log1p", "expm1", "sigmoid", "logsigmoid", "softplus"})
NAMES_DEEP = 3
TERMS_AT_MOST = 16  # of a mixture; each is compared with every other


def mixing_weights(program, node: ast.BinOp, scope) -> list[ast.expr]:
    """The weights w of w * a + (1 - w) * b or a + w * (b - a), also where names stand for parts of it."""
    terms = [_factors(one) for one in _operands(node, ast.Add)]
    found: list[ast.expr] = []
    for term in terms if len(terms) <= TERMS_AT_MOST else ():
        others = [factor for other in terms if other is not term for factor in other]
        for factor in term:
            taken = _complement(program, factor, scope)
            if taken and any(_same(one, other) for one in taken for other in others):
                found += taken
            elif len(term) > 1 and isinstance(factor, ast.BinOp) and isinstance(factor.op, ast.Sub):
                alone = [other[0] for other in terms if other is not term and len(other) == 1]
                if any(_same(one, factor.right) for one in alone):
                    found += [one for one in term if one is not factor]
    return found


def logarithmic_weights(program, arguments: list[ast.expr], scope) -> list[ast.expr]:
    """The weights w of logaddexp(log(w) + a, log(1 - w) + b)."""
    found: list[ast.expr] = []
    for argument in arguments:
        for term in _operands(_named(program, argument, scope), ast.Add):
            while isinstance(term, ast.BinOp) and isinstance(term.op, ast.Sub):
                term = term.left
            term = _named(program, term, scope)
            if not isinstance(term, ast.Call) or not term.args:
                continue
            name, inner = _last(term.func), term.args[0]
            if name == "log1p" and isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub):
                found.append(inner.operand)
            elif name == "log":
                found += _complement(program, inner, scope)
    return found


def differences(around: ast.AST) -> frozenset[str]:
    """What is subtracted from something inside of an exponential or its like, anywhere in a function, as text."""
    found = set()
    for node in ast.walk(around):
        if isinstance(node, ast.Call) and _last(node.func) in EXPONENTIALS:
            for one in ast.walk(node):
                if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Sub):
                    found.update(ast.dump(side) for side in (one.left, one.right) if isinstance(side, ast.Name))
    return frozenset(found)


def operands_of(node: ast.AST) -> frozenset[str]:
    """The names that a choice is between, as text: of a call its arguments, of a conditional its two values."""
    if isinstance(node, ast.Call):
        parts = node.args
    elif isinstance(node, ast.IfExp):
        parts = [node.body, node.orelse]
    else:
        return frozenset()
    return frozenset(ast.dump(one) for one in parts if isinstance(one, ast.Name))


def sliced(program, node: ast.expr, scope, depth: int = 0) -> bool:
    """Whether an expression is a part of an array, cut out by bounds."""
    if isinstance(node, ast.Name):
        value = _named(program, node, scope)
        return value is not node and depth < NAMES_DEEP and sliced(program, value, scope, depth + 1)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return sliced(program, node.func.value, scope, depth)
    return isinstance(node, ast.Subscript) and any(isinstance(one, ast.Slice) for one in ast.walk(node.slice))


def _operands(node: ast.expr, kind: type) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, kind):
        return [*_operands(node.left, kind), *_operands(node.right, kind)]
    return [node]


def _factors(node: ast.expr) -> list[ast.expr]:
    return _operands(node, ast.Mult)


def _complement(program, node: ast.expr, scope) -> list[ast.expr]:
    """What is taken off one: [w] of 1 - w, [v, w] of 1 - v - w."""
    node = _named(program, node, scope)
    taken: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        taken.append(node.right)
        node = node.left
    return taken if isinstance(node, ast.Constant) and node.value in (1, 1.0) else []


def _named(program, node: ast.expr, scope) -> ast.expr:
    """What a name stands for, if it is bound once."""
    if not isinstance(node, ast.Name):
        return node
    _, bindings = program.lookup(node, scope)
    if len(bindings) != 1 or bindings[0].kind != "value" or bindings[0].value is None or bindings[0].path:
        return node
    return bindings[0].value


def _same(one: ast.expr, other: ast.expr) -> bool:
    return type(one) is type(other) and ast.dump(one) == ast.dump(other)


def _last(callee: ast.expr) -> str:
    return getattr(callee, "attr", getattr(callee, "id", ""))
