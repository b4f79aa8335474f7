"""What is done to a number between scoring and its report: constant factors, terms, powers and bounds, in the number
itself and in what it is divided by."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import NamedTuple

from harness.compliance.findings import Status
from harness.compliance.logs import SPLIT_BYTES
from harness.compliance.program import Program, Scope
from harness.compliance.slices import Slice

MAX_SPINE = 200  # expressions
SAME_BYTES = 0.001  # windows at the ends leave out that much at most
SMALL_TERM = 1e-6  # against division by zero, in a score
SMALL_COUNT = 1e-3  # the same, in a count
LARGE_COUNT = 10_000  # tokens or bytes: more than a window at the ends
FEW_TOKENS = 30_000_000  # fewer than the split has with any tokenizer of the contest
FACTORS = (math.log(2), 1 / math.log(2), 1.0, -1.0, 8.0, 2.0)  # bits, nats, means over two
PASSED_ON = frozenset({"item", "cpu", "float", "double", "mean", "sum", "to", "detach", "numpy", "tolist", "squeeze"})
SPINE_CALLS = frozenset(
    {"builtins.float", "builtins.round", "builtins.sum", "builtins.abs", "torch.tensor", "torch.as_tensor"}
    | {"numpy.mean", "numpy.sum", "numpy.float64", "numpy.array", "math.fsum"}
)
CLAMPS = frozenset({"builtins.min", "builtins.max", "torch.clamp", "numpy.clip", "numpy.minimum", "numpy.maximum"})
CLAMP_METHODS = frozenset({"clamp", "clamp_max", "clamp_", "clip"})
BINARY = {ast.Mult: "mul", ast.Div: "div", ast.Add: "add", ast.Sub: "sub", ast.Pow: "pow"}
CALLED = {
    **dict.fromkeys(("mul", "mul_", "multiply"), "mul"),
    **dict.fromkeys(("div", "div_", "divide", "true_divide", "truediv"), "div"),
    **dict.fromkeys(("add", "add_"), "add"),
    **dict.fromkeys(("sub", "sub_", "subtract"), "sub"),
    **dict.fromkeys(("pow", "pow_", "power", "float_power"), "pow"),
    **dict.fromkeys(("sqrt", "sqrt_"), "sqrt"),
}
ARITHMETIC = ("math.", "numpy.", "torch.", "operator.", "builtins.pow")
SIZES = frozenset({"numel", "size", "shape", "len"})
LOSSES = frozenset({"cross_entropy", "nll_loss", "log_softmax", "softmax", "logsumexp", "log", "log2"})
CHOICES = frozenset({"torch.where", "numpy.where"})

Node = tuple[ast.expr, Scope, tuple[int, ...]]  # path: indices into a tuple that it is


class Alteration(NamedTuple):
    """How a constant changes a number, and where."""

    status: Status
    reason: str
    node: ast.AST
    scope: Scope


def alterations(program: Program, value: ast.expr, scope: Scope) -> Iterator[Alteration]:
    """What constants do to a number on its way to `value`."""
    pending: list[tuple[Node, bool]] = [((value, scope, ()), False)]
    seen: set[ast.expr] = set()
    while pending and len(seen) < MAX_SPINE:
        (node, home, path), counts = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        altered = _alteration(program, node, home, counts)
        if altered is not None:
            status, reason = altered
            yield Alteration(status, f"in what it is divided by, {reason}" if counts else reason, node, home)
        elif summand := _accumulated(program, node, home):
            yield Alteration(Status.HOLD, summand[1], summand[0], home)
        pending += [(one, counts) for one in spine(program, node, home, path)]
        if altered is None:
            pending += [((one, home, ()), True) for one in _divisors(program, node, home)]


def spine(program: Program, node: ast.expr, scope: Scope, path: tuple[int, ...]) -> Iterator[Node]:
    """What a number is the same as, or a product, quotient, sum or mean of."""
    if isinstance(node, ast.Name):
        _, bindings = program.lookup(node, scope)
        for binding in bindings:
            if binding.kind == "value" and binding.value is not None:
                yield binding.value, binding.scope, binding.path + path
            elif binding.kind == "parameter" and binding.scope.function is not None:
                for value, home in program.passed(binding.scope.function, node.id):
                    yield value, home, path
    elif isinstance(node, ast.Tuple) and path and path[0] < len(node.elts):
        yield node.elts[path[0]], scope, path[1:]
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield value, scope, path
            if program.truth(value, scope) is isinstance(node.op, ast.Or):  # it is this one
                break
    elif isinstance(node, ast.IfExp):
        yield node.body, scope, path
        yield node.orelse, scope, path
    elif (known := _operation(program, node, scope)) is not None:
        kind, left, right = known
        if kind not in ("add", "sub"):
            yield left, scope, ()
        if kind == "mul":
            yield right, scope, ()
    elif isinstance(node, ast.Call):
        name = program.external(node.func, scope)
        if (name in SPINE_CALLS or name in CLAMPS) and node.args:
            yield node.args[0], scope, ()
        elif name in CHOICES:
            yield from ((one, scope, ()) for one in node.args[1:3])
        elif isinstance(node.func, ast.Attribute) and node.func.attr in (PASSED_ON | CLAMP_METHODS):
            yield node.func.value, scope, path
        else:
            for function in program.callees(node, scope):
                if isinstance(function.node, ast.Lambda):
                    yield function.node.body, function.scope, path
                    continue
                for one in program.returns(function):
                    if one.value is not None:
                        yield one.value, function.scope, path


def _divisors(program: Program, node: ast.expr, scope: Scope) -> Iterator[ast.expr]:
    known = _operation(program, node, scope)
    if known is not None and known[0] == "div":
        yield known[2]


def _operation(program: Program, node: ast.AST, scope: Scope) -> tuple[str, ast.expr, ast.expr] | None:
    """Kind and operands of an arithmetic operation, however it is written: a * b, a.mul(b), torch.mul(a, b)."""
    if isinstance(node, ast.BinOp):
        kind = BINARY.get(type(node.op))
        return None if kind is None else (kind, node.left, node.right)
    if not isinstance(node, ast.Call):
        return None
    called = getattr(node.func, "attr", getattr(node.func, "id", ""))
    kind = CALLED.get(called)
    if kind is None:
        return None
    name = program.external(node.func, scope)
    operands = list(node.args)
    method = name is None or "()" in name
    if method and isinstance(node.func, ast.Attribute) and not program.callees(node, scope):
        operands.insert(0, node.func.value)
    elif method or not name.startswith(ARITHMETIC):
        return None
    if kind == "sqrt":
        kind, operands = "pow", [*operands, ast.Constant(0.5)]
    return (kind, operands[0], operands[1]) if len(operands) > 1 else None


def _number(program: Program, node: ast.expr, scope: Scope) -> float | None:
    value = program.constant(node, scope)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _alteration(program: Program, node: ast.expr, scope: Scope, counts: bool) -> tuple[Status, str] | None:
    """How a constant changes a number, if it does: FLAG if for certain. counts: it is one of tokens, bytes or batches,
    or a sum over them, so that whole numbers may be factors and terms."""
    if (known := _operation(program, node, scope)) is not None:
        kind, left, right = known
        numbers = (_number(program, left, scope), _number(program, right, scope))
        if None not in numbers:
            return None
        if kind in ("mul", "div"):
            return _scaled(program, node, scope, kind, numbers, counts)
        if kind in ("add", "sub"):
            for number in numbers if kind == "add" else numbers[1:]:
                if number is not None and not _may_be_term(number, counts):
                    sized = number.is_integer() and _is_size(program, right if numbers[0] == number else left, scope)
                    reason = f"{_shown(number)} is {'added' if kind == 'add' else 'taken off'}"
                    if not sized or abs(number) >= LARGE_COUNT:
                        return Status.HOLD if counts or sized else Status.FLAG, reason
        elif numbers[1] not in (None, 1.0):
            return Status.HOLD if counts else Status.FLAG, f"it is raised to the power of {_shown(numbers[1])}"
        return None
    if isinstance(node, ast.Call):
        name = program.external(node.func, scope)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in CLAMPS or (name is None and method in CLAMP_METHODS):
            bounds = [program.constant(one, scope) for one in (*node.args, *(one.value for one in node.keywords))]
            if any(isinstance(one, float) and one > SMALL_COUNT and one != 1.0 for one in bounds) or (
                counts and any(isinstance(one, int) and one >= LARGE_COUNT for one in bounds)
            ):
                return Status.HOLD if counts else Status.FLAG, "it is clamped to a constant"
    return None


def _scaled(
    program: Program, node: ast.expr, scope: Scope, kind: str, numbers: tuple[float | None, ...], counts: bool
) -> tuple[Status, str] | None:
    """What the constants in a product or quotient come to. Whole numbers may be of tokens in a batch, and a score may
    be divided by a number of batches."""
    direct = [one for one in (numbers if kind == "mul" else numbers[1:]) if one is not None and not _is_factor(one)]
    odd = any(not one.is_integer() for one in direct)
    share = _factor(program, node, scope)
    if share and (odd or not (_whole(share) or _whole(1 / share) or _is_factor(share))):
        divided = len(_shown(1 / share)) < len(_shown(share))
        return (
            Status.FLAG,
            f"it is divided by {_shown(1 / share)}" if divided else f"it is multiplied by {_shown(share)}",
        )
    if direct and kind == "div" and not counts:
        return Status.HOLD if direct[0] < FEW_TOKENS else Status.FLAG, f"it is divided by {_shown(direct[0])}"
    return None


def _may_be_term(number: float, counts: bool) -> bool:
    if not counts:
        return abs(number) <= SMALL_TERM
    return abs(number) < LARGE_COUNT and (number.is_integer() or abs(number) <= SMALL_COUNT)


def _is_size(program: Program, node: ast.expr, scope: Scope) -> bool:
    """Whether a number comes from how long something is, and from no loss."""
    one = Slice(program, node, scope)
    names = one.attributes() | {name.rpartition(".")[2] for name in one.calls()}
    return bool(names & SIZES) and not names & LOSSES


def _factor(program: Program, node: ast.expr, scope: Scope) -> float:
    """The product of what a chain of products and quotients has for constants, but for those that may be there."""
    number = _number(program, node, scope)
    if number is not None:
        return 1.0 if _is_factor(number) else number
    known = _operation(program, node, scope)
    if known is None or known[0] not in ("mul", "div"):
        return 1.0
    left, right = (_factor(program, one, scope) for one in known[1:])
    return left * right if known[0] == "mul" else left / right if right else 0.0


def _whole(number: float) -> bool:
    return math.isclose(number, round(number), rel_tol=1e-9)


def _shown(number: float) -> str:
    return f"{int(number)}" if number.is_integer() else f"{number:.12g}"


def _accumulated(program: Program, node: ast.expr, scope: Scope) -> tuple[ast.AST, str] | None:
    """Where a sum is changed in place by a constant, and how. It may be one of tokens or batches: a whole number."""
    for binding in program.lookup(node, scope)[1] if isinstance(node, ast.Name) else ():
        statement, summand = binding.statement, None
        if isinstance(statement, ast.AugAssign) and binding.kind == "augmented":
            if isinstance(statement.op, ast.Add):
                summand = binding.value
            elif reason := _changed(program, statement, binding.scope):
                return statement, reason
        elif isinstance(binding.value, ast.BinOp) and isinstance(binding.value.op, ast.Add) and not binding.path:
            sides = (binding.value.left, binding.value.right)
            others = [one for one in sides if getattr(one, "id", "") != node.id]
            summand = others[0] if len(others) == 1 else None
        while summand is not None:  # loss * tokens * 0.5
            if altered := _alteration(program, summand, binding.scope, counts=True):
                return statement, altered[1]
            known = _operation(program, summand, binding.scope)
            summand = known[1] if known is not None and known[0] in ("mul", "div") else None
    return None


def _changed(program: Program, statement: ast.AugAssign, scope: Scope) -> str | None:
    """What `*=`, `/=`, `-=` and `**=` do by a constant that is no number of tokens or batches."""
    number = _number(program, statement.value, scope)
    kind = BINARY.get(type(statement.op))
    if number is None or kind is None:
        return None
    if kind in ("mul", "div") and not number.is_integer() and not _is_factor(number):
        return f"it is {'multiplied' if kind == 'mul' else 'divided'} by {_shown(number)}"
    if kind == "sub" and not _may_be_term(number, counts=True):
        return f"{_shown(number)} is taken off"
    return f"it is raised to the power of {_shown(number)}" if kind == "pow" and number != 1 else None


def _is_factor(value: float) -> bool:
    if abs(value / SPLIT_BYTES - 1) < SAME_BYTES:
        return True
    return value == 0 or any(math.isclose(abs(value), abs(one), rel_tol=1e-5) for one in FACTORS)
