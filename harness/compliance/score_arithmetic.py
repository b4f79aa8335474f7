"""What is done to a number between scoring and its report: constant factors, terms, powers and bounds, in the number
itself and in what it is divided by."""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from harness.compliance.findings import Status
from harness.compliance.logs import SPLIT_BYTES
from harness.compliance.memory import keep
from harness.compliance.operators import BINARY
from harness.compliance.program import Program, Scope
from harness.compliance.slices import Slice

MAX_SPINE = 200  # expressions
MAX_TO_LOSS = 40  # expressions between a number and the loss that it is
SAME_BYTES = 0.001  # windows at the ends leave out that much at most
SMALL_TERM = 1e-6  # against division by zero, in a score
SMALL_COUNT = 1e-3  # the same, in a count
LARGE_COUNT = 10_000  # tokens or bytes: more than a window at the ends
FEW_TOKENS = 30_000_000  # fewer than the split has with any tokenizer of the contest
FACTORS = (math.log(2), 1 / math.log(2), 1.0, -1.0, 8.0, 2.0)  # bits, nats, means over two
PASSED_ON = frozenset({"item", "cpu", "float", "double", "mean", "sum", "to", "detach", "numpy", "tolist", "squeeze"})
SPINE_CALLS = frozenset(
    {"builtins.float", "builtins.round", "builtins.sum", "builtins.abs", "torch.tensor", "torch.as_tensor"}
    | {"torch.stack", "torch.cat", "torch.mean", "torch.sum", "math.fsum", "statistics.mean", "statistics.fmean"}
    | {"numpy.mean", "numpy.sum", "numpy.float64", "numpy.array", "numpy.concatenate", "numpy.stack"}
)
CLAMPS = frozenset({"builtins.min", "builtins.max", "torch.clamp", "numpy.clip", "numpy.minimum", "numpy.maximum"})
CLAMP_METHODS = frozenset({"clamp", "clamp_max", "clamp_", "clip"})
KINDS = {ast.Mult: "mul", ast.Div: "div", ast.Add: "add", ast.Sub: "sub", ast.Pow: "pow"}
CALLED = {
    **dict.fromkeys(("mul", "mul_", "multiply"), "mul"),
    **dict.fromkeys(("div", "div_", "divide", "true_divide", "truediv"), "div"),
    **dict.fromkeys(("add", "add_"), "add"),
    **dict.fromkeys(("sub", "sub_", "subtract"), "sub"),
    **dict.fromkeys(("pow", "pow_", "power", "float_power"), "pow"),
    **dict.fromkeys(("sqrt", "sqrt_"), "sqrt"),
}
SIZES = frozenset({"numel", "size", "shape", "len"})
LOSSES = frozenset({"cross_entropy", "nll_loss", "log_softmax", "softmax", "logsumexp", "log", "log2"})
LOSS_FUNCTIONS = (".cross_entropy", ".nll_loss", ".CrossEntropyLoss()", ".NLLLoss()", ".log_softmax")
RESHAPED = frozenset({"view", "reshape", "flatten", "unsqueeze", "gather", "contiguous", "type_as", "clone"})
CHOICES = frozenset({"torch.where", "numpy.where"})

ARITHMETIC = frozenset({ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv})
ROUNDED = frozenset({"builtins.int", "builtins.float", "builtins.round", "math.floor", "math.ceil"})
SPLIT_TOKENS = 60_000_000  # about as many as the contest's split has
FOR_EACH = "a number for each token or window"

Node = tuple[ast.expr, Scope, tuple[int, ...]]  # the last: indices into a tuple that it is


class Alteration(NamedTuple):
    """How a constant changes a number, and where."""

    status: Status
    reason: str
    node: ast.AST
    scope: Scope


class Role(Enum):
    """What a number is to the score."""

    SCORE = ""
    DIVISOR = "in what it is divided by, "
    SUMMAND = "in what is summed up for it, "
    TAKEN_OFF = "in what is taken off for it, "  # log-likelihoods, from zero
    SUMMAND_OF_DIVISOR = "in what is summed up for its divisor, "

    @property
    def summed(self) -> bool:
        return self in (Role.SUMMAND, Role.TAKEN_OFF, Role.SUMMAND_OF_DIVISOR)

    def of_summand(self, taken_off: bool) -> Role:
        """What one of its summands is to the score."""
        if self in (Role.DIVISOR, Role.SUMMAND_OF_DIVISOR):
            return Role.SUMMAND_OF_DIVISOR
        return Role.TAKEN_OFF if taken_off is (self is not Role.TAKEN_OFF) else Role.SUMMAND

    def gains(self, term: float) -> bool:
        """Whether the score gets better by a term of this."""
        return term < 0 if self is Role.SUMMAND else term > 0 if self.summed else True


Step = tuple[Node, Role]


def alterations(program: Program, value: ast.expr, scope: Scope, seen: dict[Step, None]) -> Iterator[Alteration]:
    """What constants do to a number on its way to `value`. seen: where this was looked for before, on the way to
    another one; it is not looked for there again."""
    pending: list[Step] = [((value, scope, ()), Role.SCORE)]
    left = MAX_SPINE
    while pending:
        step = pending.pop()
        if step in seen:
            continue
        seen[step] = None
        (node, home, path), role = step
        altered = _alteration(program, node, home, role)
        if altered is not None:
            status, reason = altered
            yield Alteration(status, f"{role.value}{reason}", node, home)
        for statement, place, reason in _changed(program, node, home):
            yield Alteration(Status.HOLD, reason, statement, place)
        following: list[tuple[Iterable[Node], Role]] = []
        if not role.summed or not _is_model(program, node, home):
            following.append((spine(program, node, home, path), role))
        for taken_off, summands in _summands(program, node, home).items():
            following.append((summands, role.of_summand(taken_off)))
            for one, place, _ in summands if role.of_summand(taken_off) is Role.TAKEN_OFF else ():
                if share_of_size(program, one, place):
                    yield Alteration(Status.HOLD, f"{Role.SUMMAND.value}{FOR_EACH} is taken off", one, place)
        if altered is None:
            following.append((_divisors(program, node, home), Role.DIVISOR))
        for nodes, their_role in following:
            further = [(one, their_role) for one in itertools.islice(nodes, left)]
            left -= len(further)
            pending += further


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
    elif isinstance(node, ast.Subscript):
        index = program.constant(node.slice, scope)
        yield node.value, scope, ((index, *path) if type(index) is int and index >= 0 else ())
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


def _divisors(program: Program, node: ast.expr, scope: Scope) -> Iterator[Node]:
    known = _operation(program, node, scope)
    if known is not None and known[0] == "div":
        yield known[2], scope, ()


def _operation(program: Program, node: ast.AST, scope: Scope) -> tuple[str, ast.expr, ast.expr] | None:
    """Kind and operands of an arithmetic operation, however it is written: a * b, a.mul(b), torch.mul(a, b)."""
    if isinstance(node, ast.BinOp):
        kind = KINDS.get(type(node.op))
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
    elif method:
        return None
    if kind == "sqrt":
        kind, operands = "pow", [*operands, ast.Constant(0.5)]
    return (kind, operands[0], operands[1]) if len(operands) > 1 else None


def _number(program: Program, node: ast.expr, scope: Scope) -> float | None:
    value = program.constant(node, scope)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _alteration(program: Program, node: ast.expr, scope: Scope, role: Role) -> tuple[Status, str] | None:
    """How a constant changes a number, if it does: FLAG if for certain. What the score itself is not may be of tokens,
    bytes or batches, so that whole numbers may be factors and terms."""
    sure = Status.FLAG if role is Role.SCORE else Status.HOLD
    if (known := _operation(program, node, scope)) is not None:
        kind, left, right = known
        numbers = (_number(program, left, scope), _number(program, right, scope))
        if kind in ("mul", "div"):
            return _scaled(program, node, scope, kind, numbers, role)
        if kind in ("add", "sub"):
            for number in numbers if kind == "add" else numbers[1:]:
                gains = number is not None and role.gains(number if kind == "add" else -number)
                if gains and not _may_be_term(number, role):
                    sized = number.is_integer() and _is_size(program, right if numbers[0] == number else left, scope)
                    reason = f"{_shown(number)} is {'added' if kind == 'add' else 'taken off'}"
                    if not sized or abs(number) >= LARGE_COUNT:
                        return Status.HOLD if sized else sure, reason
            if _is_sized_gain(program, kind, left, right, scope, role):
                return Status.HOLD, f"{FOR_EACH} is {'added' if kind == 'add' else 'taken off'}"
        elif numbers[1] not in (None, 1.0) and (not role.summed or _is_loss(program, left, scope)):
            return sure, f"it is raised to the power of {_shown(numbers[1])}"
        return None
    if isinstance(node, ast.Call):
        name = program.external(node.func, scope)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in CLAMPS or (name is None and method in CLAMP_METHODS):
            bounds = [program.constant(one, scope) for one in (*node.args, *(one.value for one in node.keywords))]
            if any(isinstance(one, float) and one > SMALL_COUNT and one != 1.0 for one in bounds) or (
                role is not Role.SCORE and any(isinstance(one, int) and one >= LARGE_COUNT for one in bounds)
            ):
                return sure, "it is clamped to a constant"
    return None


def _scaled(
    program: Program, node: ast.expr, scope: Scope, kind: str, numbers: tuple[float | None, ...], role: Role
) -> tuple[Status, str] | None:
    """What the constants in a product or quotient come to. Whole numbers may be of tokens in a batch, and a score may
    be divided by a number of batches."""
    direct = [one for one in (numbers if kind == "mul" else numbers[1:]) if one is not None and not _is_factor(one)]
    odd = [one for one in direct if not one.is_integer()]
    share = _factor(program, node, scope)
    if share and (odd or not (_whole(share) or _whole(1 / share) or _is_factor(share))):
        by, divisor = _shown(share), _shown(1 / share)
        reason = f"it is divided by {divisor}" if len(divisor) < len(by) else f"it is multiplied by {by}"
        if not role.summed:
            return Status.FLAG, reason
        change = share if not odd else odd[0] if kind == "mul" else 1 / odd[0]
        if change < 1 if role is Role.SUMMAND_OF_DIVISOR else change > 1:  # that makes the score no better
            return None
        operands = _operation(program, node, scope)[1:]  # type: ignore[index]
        return Status.FLAG if any(_is_loss(program, one, scope) for one in operands) else Status.HOLD, reason
    if direct and kind == "div" and role is Role.SCORE:
        return Status.HOLD if direct[0] < FEW_TOKENS else Status.FLAG, f"it is divided by {_shown(direct[0])}"
    return None


def _may_be_term(number: float, role: Role) -> bool:
    if role is Role.SCORE:
        return abs(number) <= SMALL_TERM
    return abs(number) < LARGE_COUNT and (number.is_integer() or abs(number) <= SMALL_COUNT)


def _is_size(program: Program, node: ast.expr, scope: Scope) -> bool:
    """Whether a number comes from how long something is, and from no loss."""
    one = Slice(program, node, scope)
    names = one.attributes() | {name.rpartition(".")[2] for name in one.calls()}
    return bool(names & SIZES) and not names & LOSSES


def _is_sized_gain(program: Program, kind: str, left: ast.expr, right: ast.expr, scope: Scope, role: Role) -> bool:
    """Whether something that goes by how long the data are is added to a loss, or taken off, for the better."""
    if role not in (Role.SUMMAND, Role.TAKEN_OFF) or not role.gains(1.0 if kind == "add" else -1.0):
        return False
    terms = [(right, left)] if kind == "sub" else [(left, right), (right, left)]
    return any(share_of_size(program, one, scope) and share_of_size(program, to, scope) is None for one, to in terms)


def share_of_size(program: Program, node: ast.expr, scope: Scope) -> float | None:
    """What a number made of lengths grows by with each token of them, None if it is made of anything else."""
    try:
        numbers = [_with_size(program, node, scope, tokens) for tokens in (SPLIT_TOKENS, 2 * SPLIT_TOKENS)]
    except ArithmeticError:
        return None
    return None if None in numbers else (numbers[1] - numbers[0]) / SPLIT_TOKENS  # type: ignore[operator]


def _with_size(program: Program, node: ast.expr, scope: Scope, tokens: int, left: int = 8) -> float | None:
    """What a number is if every length in it is that of so many tokens, None if that is not known."""
    number = program.constant(node, scope)
    if isinstance(number, int | float):
        return number
    if left == 0:
        return None
    if isinstance(node, ast.Name):
        _, bindings = program.lookup(node, scope)
        values = [(one.value, one.scope) for one in bindings if one.kind == "value" and not one.path]
        if len(bindings) == len(values) == 1 and values[0][0] is not None:
            return _with_size(program, *values[0], tokens, left - 1)  # type: ignore[arg-type]
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        one, other = (_with_size(program, side, scope, tokens, left - 1) for side in (node.left, node.right))
        if one is not None and other is not None:
            return BINARY[type(node.op)](one, other)
    elif isinstance(node, ast.Subscript):
        return tokens if getattr(node.value, "attr", "") == "shape" else None
    elif isinstance(node, ast.Attribute):
        return tokens if node.attr == "size" else None
    elif isinstance(node, ast.Call):
        if getattr(node.func, "attr", getattr(node.func, "id", "")) in SIZES:
            return tokens
        if program.external(node.func, scope) in ROUNDED and len(node.args) == 1:
            return _with_size(program, node.args[0], scope, tokens, left - 1)
    return None


def _is_loss(program: Program, node: ast.expr, scope: Scope) -> bool:
    """Whether a number is a loss itself, or some of its elements: not what is made of one by arithmetic."""
    pending, seen = [(node, scope)], set()
    while pending and len(seen) < MAX_TO_LOSS:
        one, home = pending.pop()
        if one in seen:
            continue
        seen.add(one)
        if isinstance(one, ast.Call) and (program.external(one.func, home) or "").endswith(LOSS_FUNCTIONS):
            return True
        pending += itertools.islice(_elements(program, one, home), MAX_TO_LOSS - len(seen))
    return False


def _elements(program: Program, node: ast.expr, scope: Scope) -> Iterator[tuple[ast.expr, Scope]]:
    """What a number, or some elements of an array, are taken from."""
    if isinstance(node, ast.Name):
        for binding in program.lookup(node, scope)[1]:
            if binding.kind == "value" and binding.value is not None:
                yield binding.value, binding.scope
    elif isinstance(node, ast.Subscript):
        yield node.value, scope
    elif isinstance(node, ast.UnaryOp):
        yield node.operand, scope
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in PASSED_ON | RESHAPED:
            yield node.func.value, scope
        for function in program.callees(node, scope):
            for returned in program.returns(function):
                if returned.value is not None:
                    yield returned.value, function.scope


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


def _summands(program: Program, node: ast.expr, scope: Scope) -> dict[bool, list[Node]]:
    """What is added to a name or taken off (that under True), again and again, or put into what it holds: total += x,
    total = total + x, totals[i] += x, totals[i] = x, totals.append(x)."""
    found: dict[bool, list[Node]] = {}
    base = node.value if isinstance(node, ast.Subscript) else node
    if not isinstance(base, ast.Name):
        return found
    for taken_off, value in _put_into(program, scope).get(base.id, ()):
        found.setdefault(taken_off, []).append((value, scope, ()))
    for binding in program.lookup(node, scope)[1] if node is base else ():
        done = binding.statement if binding.kind == "augmented" else binding.value
        if not isinstance(done, ast.AugAssign | ast.BinOp) or not isinstance(done.op, ast.Add | ast.Sub):
            continue
        if isinstance(done, ast.AugAssign):
            others = [done.value]
        else:
            others = [one for one in (done.left, done.right) if getattr(one, "id", "") != base.id]
        if len(others) == 1 and not binding.path:
            found.setdefault(isinstance(done.op, ast.Sub), []).append((others[0], binding.scope, ()))
    return found


@keep(at_most=256)
def _put_into(program: Program, scope: Scope) -> dict[str, list[tuple[bool, ast.expr]]]:
    """What the code of a scope puts into containers and arrays or (with True) takes off, by their names there."""
    found: dict[str, list[tuple[bool, ast.expr]]] = {}
    for node, _, _ in program.live(scope):
        into, value = None, None
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            into, value = _container(node.target), node.value
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            into, value = _container(node.targets[0]), node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "append" and len(node.args) == 1:
            into, value = node.func.value, node.args[0]
        if isinstance(into, ast.Name) and value is not None:
            taken_off = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Sub)
            found.setdefault(into.id, []).append((taken_off, value))
    return found


def _container(target: ast.expr) -> ast.expr | None:
    return target.value if isinstance(target, ast.Subscript) else None


def _changed(program: Program, node: ast.expr, scope: Scope) -> Iterator[tuple[ast.AST, Scope, str]]:
    """What `*=`, `/=`, `-=` and `**=` do to a name by a constant that is no number of tokens or batches."""
    for binding in program.lookup(node, scope)[1] if isinstance(node, ast.Name) else ():
        statement = binding.statement
        if not isinstance(statement, ast.AugAssign) or binding.kind != "augmented":
            continue
        number, kind = _number(program, binding.value, binding.scope), KINDS.get(type(statement.op))
        if number is None or kind is None:
            continue
        if kind in ("mul", "div") and not number.is_integer() and not _is_factor(number):
            done = "multiplied" if kind == "mul" else "divided"
            yield statement, binding.scope, f"it is {done} by {_shown(number)}"
        elif kind == "sub" and not _may_be_term(number, Role.DIVISOR):
            yield statement, binding.scope, f"{_shown(number)} is taken off"
        elif kind == "pow" and number != 1:
            yield statement, binding.scope, f"it is raised to the power of {_shown(number)}"


def _is_model(program: Program, node: ast.expr, scope: Scope) -> bool:
    """Whether it is a call of a model, which makes a loss in its own way."""
    return isinstance(node, ast.Call) and any(
        function.short_name in ("forward", "__call__") for function in program.callees(node, scope)
    )


def _is_factor(value: float) -> bool:
    if abs(value / SPLIT_BYTES - 1) < SAME_BYTES:
        return True
    return value == 0 or any(math.isclose(abs(value), abs(one), rel_tol=1e-5) for one in FACTORS)
