"""Evaluates code that measures the pieces of a tokenizer, or adds up the bytes of tokens, with a small vocabulary of
every kind of piece in place of the tokenizer and with all pairs of its tokens in place of the data.

It knows only what is listed here; everything else is unknown. Nothing of the program is executed."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from harness.compliance.memory import keep
from harness.compliance.operators import BINARY, COMPARE
from harness.compliance.program import Binding, Function, Program, Scope
from harness.compliance.score_arithmetic import CALLED
from harness.compliance.slices import Slice

MAX_STEPS = 40_000  # expressions that are evaluated for one program
MAX_DEPTH = 12  # functions and names inside each other
MAX_ITEMS = 70_000  # of an array


MARKER = "\u2581"  # of a space in front


class Piece(NamedTuple):
    """kind: of SentencePiece's, "plain" for what stands for text. bytes: of its text, without a leading space."""

    text: str
    kind: str
    bytes: int


PIECES = (
    Piece("<unk>", "unknown", 0),
    Piece("<s>", "control", 0),
    Piece("</s>", "control", 0),
    Piece("b", "plain", 1),
    Piece("ing", "plain", 3),
    Piece("\u00e9", "plain", 2),
    Piece("\u2019s", "plain", 4),
    Piece("\u2581a", "plain", 1),
    Piece("\u2581the", "plain", 3),
    Piece("\u2581\u65e5\u672c", "plain", 6),
    Piece("\u2581", "plain", 0),
    Piece("<0x41>", "byte", 1),
    Piece("<0xE2>", "byte", 1),
    Piece("<unused>", "unused", 0),
)
SIZE = len(PIECES)
TEXT = np.array([one.kind in ("plain", "byte") for one in PIECES])  # tokens that stand for text
BYTES = np.array([one.bytes for one in PIECES])
SPACED = np.array([one.text.startswith(MARKER) for one in PIECES])
PREVIOUS, NEXT = (one.ravel() for one in np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"))  # all pairs
TRUE_BYTES = BYTES[NEXT] + (SPACED[NEXT] & TEXT[PREVIOUS])
IN_TEXT = TEXT[NEXT] & TEXT[PREVIOUS]

MEASURING = frozenset({"id_to_piece", "IdToPiece"})
KIND_TESTS = {
    **dict.fromkeys(("is_control", "IsControl"), "control"),
    **dict.fromkeys(("is_unknown", "IsUnknown"), "unknown"),
    **dict.fromkeys(("is_unused", "IsUnused"), "unused"),
    **dict.fromkeys(("is_byte", "IsByte"), "byte"),
}
COUNTS = frozenset({"vocab_size", "get_piece_size", "GetPieceSize", "piece_size", "__len__"})
SPECIAL = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
TOKENIZERS = ("sentencepiece.SentencePieceProcessor",)
TEXT_METHODS = frozenset(
    (
        *("startswith", "endswith", "encode", "strip", "lstrip", "rstrip", "replace", "removeprefix", "removesuffix"),
        *("hex", "isspace", "lower", "upper", "count", "find", "decode"),
    )
)
SAME = frozenset(  # methods that change nothing that is counted
    (
        *("to", "cpu", "cuda", "numpy", "clone", "copy", "contiguous", "detach", "item", "tolist", "pin_memory"),
        *("view", "reshape", "flatten", "squeeze", "unsqueeze", "ravel", "sum", "requires_grad_"),
    )
)
FLOATS = frozenset({"float", "double", "half", "bfloat16"})
INTEGERS = frozenset({"int", "long", "short"})
MADE = {"zeros": 0, "empty": 0, "ones": 1}
ALIKE = {"zeros_like": 0, "ones_like": 1, "empty_like": 0}
KEPT = frozenset({"array", "asarray", "ascontiguousarray", "tensor", "as_tensor", "from_numpy", "sum"})
OPERATORS: dict[str, Callable] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}
LOGIC: dict[str, Callable] = {
    **dict.fromkeys(("logical_and", "bitwise_and"), operator.and_),
    **dict.fromkeys(("logical_or", "bitwise_or"), operator.or_),
}
LEAST = frozenset({"maximum", "max", "clamp_min", "clamp_min_"})
MOST = frozenset({"minimum", "min", "clamp_max", "clamp_max_"})
CLIPS = frozenset({"clip", "clamp", "clamp_", "clip_"})
ARRAYS = ("numpy.", "torch.", "mlx.core.")
LEAVING = (ast.Return, ast.Raise, ast.Break, ast.Continue)
RESHAPED = frozenset({"to", "cpu", "cuda", "numpy", "long", "int", "view", "reshape", "flatten", "ravel", "contiguous"})


class _Unclear(Exception):
    """An expression whose value is not known here."""


FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MemoryError)  # of what is evaluated


class _Abandoned(Exception):
    """What is evaluated is given up: it takes too long, or changes something that is not followed."""


class _Left(Exception):
    """The end of a loop's turn (False) or of the loop (True)."""


class _Returned(Exception):
    def __init__(self, value: object) -> None:
        self.value = value


class _Tokenizer:
    """Stands for the vocabulary."""


UNKNOWN = object()
Given = tuple[ast.expr, tuple[int, ...], Scope]  # what a name is given: an expression, or the part at a place in it
TOKENIZER = _Tokenizer()


@dataclass(eq=False)
class Object:
    """What `self` is in a method."""

    attributes: dict[str, object]


@dataclass(frozen=True, eq=False)
class Array:
    """values: numbers or truth values, one for each token or for each pair. counted: by a table of the program."""

    values: np.ndarray
    counted: bool = False


class Trial:
    """Evaluates what it is asked for with the small vocabulary."""

    def __init__(self, program: Program, measuring: list[Function]) -> None:
        self.program = program
        self.measuring = frozenset(measuring)
        self.steps = MAX_STEPS
        self.depth = 0
        self.results: dict[Function, object] = {}
        self.names: dict[tuple[Scope | None, str], object] = {}
        self.roles: dict[str, np.ndarray] = {}
        self.touched: dict[ast.stmt, Touched] = {}
        self.spoiled: list[np.ndarray] = []  # was changed in a way that is not known
        self.unpacked: dict[str, list[Given]] | None = None

    # -- what is asked -------------------------------------------------------------------------------------------------

    def result(self, function: Function) -> object:
        """What a function that measures pieces gives back."""
        if function not in self.results:
            self.results[function] = UNKNOWN
            names: dict[str, object] = {}
            for name in function.parameters:
                names[name] = TOKENIZER if self.is_tokenizer(function, name) else SIZE
            if function.class_ is not None and function.parameters:
                names[function.parameters[0]] = Object({})
            try:
                made = self.run(function, names)
                own = names.get(function.parameters[0]) if function.parameters else None
                self.results[function] = own if made is None and isinstance(own, Object) else made
            except (_Unclear, _Abandoned, _Left):
                pass
            _freeze(self.results[function])
        return self.results[function]

    def is_tokenizer(self, function: Function, name: str) -> bool:
        methods = MEASURING | COUNTS | KIND_TESTS.keys()
        return any(
            isinstance(node, ast.Attribute) and node.attr in methods and getattr(node.value, "id", "") == name
            for node in ast.walk(function.node)
        )

    def added(self, statement: ast.stmt, value: ast.expr, scope: Scope) -> object:
        """What a statement adds to a sum, for all pairs of tokens."""
        self.roles = {}
        names: dict[str, object] = {}
        needed = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
        matter = []
        for before in reversed(self.program.statements_before(statement)):
            if before not in self.touched:
                self.touched[before] = _touched(before)
            touched = self.touched[before]
            if not needed.isdisjoint(touched.given | touched.altered):
                matter.append(before)
                needed |= touched.read
        try:
            for before in reversed(matter):
                self.tolerant(before, scope, names)
            return self.value(value, scope, names)
        except (_Unclear, _Abandoned):
            return UNKNOWN

    # -- statements ----------------------------------------------------------------------------------------------------

    def run(self, function: Function, names: dict[str, object]) -> object:
        if self.depth >= MAX_DEPTH:
            raise _Unclear
        self.depth += 1
        try:
            if isinstance(function.node, ast.Lambda):
                return self.value(function.node.body, function.scope, names)
            self.block(function.node.body, function.scope, names)
        except _Returned as returned:
            return returned.value
        finally:
            self.depth -= 1
        return None

    def tolerant(self, statement: ast.stmt, scope: Scope, names: dict[str, object]) -> None:
        """A statement before one that matters; what it changes in an unknown way is unknown."""
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.With):
            try:
                self.statement(statement, scope, names)
                return
            except (_Unclear, _Left, _Returned):
                pass
        self.forget(statement, names)

    def forget(self, statement: ast.AST, names: dict[str, object]) -> None:
        """What a statement gives values, or may change in place, is not known any more, also under other names."""
        touched = _touched(statement)
        for name in touched.altered | touched.given:
            value = names.get(name)
            if name in touched.altered and isinstance(value, Array):
                self.spoiled.append(value.values)
            if not isinstance(value, _Tokenizer):
                names[name] = UNKNOWN

    def block(self, body: list[ast.stmt], scope: Scope, names: dict[str, object]) -> None:
        for statement in body:
            try:
                self.statement(statement, scope, names)
            except _Unclear:
                if any(isinstance(node, LEAVING) for node in ast.walk(statement)):
                    raise
                self.forget(statement, names)

    def statement(self, node: ast.stmt, scope: Scope, names: dict[str, object]) -> None:
        match node:
            case ast.Assign():
                value = self.attempt(node.value, scope, names)
                for target in node.targets:
                    self.assign(target, value, scope, names)
            case ast.AnnAssign() if node.value is not None:
                self.assign(node.target, self.attempt(node.value, scope, names), scope, names)
            case ast.AugAssign():
                load = ast.Name(node.target.id, ast.Load()) if isinstance(node.target, ast.Name) else node.target
                value = self.attempt(ast.BinOp(load, node.op, node.value), scope, names)
                before = names.get(node.target.id) if isinstance(node.target, ast.Name) else None
                if isinstance(before, Array) and isinstance(value, Array):
                    value = _changed_in_place(before, value)  # what other names hold changes, too
                self.assign(node.target, value, scope, names)
            case ast.Return():
                raise _Returned(None if node.value is None else self.value(node.value, scope, names))
            case ast.If():
                self.block(node.body if self.truth(node.test, scope, names) else node.orelse, scope, names)
            case ast.For():
                for item in self.items(node.iter, scope, names):
                    self.assign(node.target, item, scope, names)
                    try:
                        self.block(node.body, scope, names)
                    except _Left as left:
                        if left.args[0]:
                            break
                else:
                    self.block(node.orelse, scope, names)
            case ast.Break() | ast.Continue():
                raise _Left(isinstance(node, ast.Break))
            case ast.With():
                self.block(node.body, scope, names)
            case ast.Try():
                self.block([*node.body, *node.orelse], scope, names)
                for handler in node.handlers:  # it may have been needed
                    self.forget(handler, names)
                self.block(node.finalbody, scope, names)
            case ast.Expr():
                self.value(node.value, scope, names)
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Assert() | ast.FunctionDef() | ast.AnnAssign():
                pass
            case _:
                raise _Unclear

    def assign(self, target: ast.expr, value: object, scope: Scope, names: dict[str, object]) -> None:
        try:
            self.store(target, value, scope, names)
        except FAULTS as error:
            raise _Unclear from error

    def store(self, target: ast.expr, value: object, scope: Scope, names: dict[str, object]) -> None:
        match target:
            case ast.Name():
                names[target.id] = value
            case ast.Tuple() | ast.List():
                known = isinstance(value, tuple | list) and len(value) == len(target.elts)
                for place, one in enumerate(target.elts):
                    self.store(one, value[place] if known else UNKNOWN, scope, names)  # type: ignore[index]
            case ast.Attribute():
                owner = self.value(target.value, scope, names)
                if isinstance(owner, Object):
                    owner.attributes[target.attr] = value
            case ast.Subscript():
                owner, key = self.value(target.value, scope, names), self.value(target.slice, scope, names)
                if value is UNKNOWN:
                    raise _Unclear
                if isinstance(owner, Array):
                    owner.values[_plain(key)] = _plain(value)
                elif isinstance(owner, list | dict):
                    owner[key] = value  # type: ignore[index]
                else:
                    raise _Unclear
            case _:
                raise _Unclear

    # -- expressions ---------------------------------------------------------------------------------------------------

    def attempt(self, node: ast.expr, scope: Scope, names: dict[str, object]) -> object:
        try:
            return self.value(node, scope, names)
        except _Unclear:
            return UNKNOWN

    def truth(self, node: ast.expr, scope: Scope, names: dict[str, object]) -> bool:
        value = self.value(node, scope, names)
        if isinstance(value, Array):
            raise _Unclear
        return bool(value)

    def items(self, node: ast.expr, scope: Scope, names: dict[str, object]) -> list:
        value = self.value(node, scope, names)
        if isinstance(value, Array):
            return list(value.values)
        if isinstance(value, str | bytes | list | tuple | range | dict):
            return list(value)
        raise _Unclear

    def value(self, node: ast.expr, scope: Scope, names: dict[str, object]) -> object:
        """What an expression is. Raises _Unclear."""
        self.steps -= 1
        if self.steps <= 0:
            raise _Abandoned
        try:
            value = self.expression(node, scope, names)
        except FAULTS as error:
            raise _Unclear from error
        if value is UNKNOWN or (isinstance(value, str | bytes | list | tuple) and len(value) > MAX_ITEMS):
            raise _Unclear
        if isinstance(value, Array) and any(np.may_share_memory(value.values, one) for one in self.spoiled):
            raise _Unclear
        return value

    def expression(self, node: ast.expr, scope: Scope, names: dict[str, object]) -> object:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return names[node.id] if node.id in names else self.elsewhere(node, scope)
            case ast.Attribute():
                return self.attribute(node, scope, names)
            case ast.BinOp():
                left, right = self.value(node.left, scope, names), self.value(node.right, scope, names)
                return _elementwise(BINARY[type(node.op)], left, right)
            case ast.UnaryOp():
                operand = self.value(node.operand, scope, names)
                if isinstance(node.op, ast.Not):
                    return not operand if not isinstance(operand, Array) else UNKNOWN
                if isinstance(node.op, ast.Invert):
                    return Array(~operand.values, operand.counted) if _is_truth(operand) else UNKNOWN
                return _elementwise(operator.neg if isinstance(node.op, ast.USub) else operator.pos, operand)
            case ast.BoolOp():
                for one in node.values[:-1]:
                    value = self.value(one, scope, names)
                    if isinstance(value, Array):
                        return UNKNOWN
                    if bool(value) is isinstance(node.op, ast.Or):
                        return value
                return self.value(node.values[-1], scope, names)
            case ast.Compare() if len(node.ops) == 1:
                left, right = self.value(node.left, scope, names), self.value(node.comparators[0], scope, names)
                return _elementwise(COMPARE[type(node.ops[0])], left, right)
            case ast.IfExp():
                return self.value(node.body if self.truth(node.test, scope, names) else node.orelse, scope, names)
            case ast.NamedExpr():
                value = self.value(node.value, scope, names)
                self.assign(node.target, value, scope, names)
                return value
            case ast.Tuple():
                return tuple(self.attempt(one, scope, names) for one in node.elts)
            case ast.List():
                return [self.attempt(one, scope, names) for one in node.elts]
            case ast.Dict() if all(key is not None for key in node.keys):
                keys = [self.value(key, scope, names) for key in node.keys if key is not None]
                return dict(zip(keys, (self.attempt(one, scope, names) for one in node.values), strict=True))
            case ast.Set():
                return [self.value(one, scope, names) for one in node.elts]
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp() if len(node.generators) == 1:
                return self.comprehension(node, scope, names)
            case ast.Slice():
                ends = (node.lower, node.upper, node.step)
                return slice(*(None if one is None else self.value(one, scope, names) for one in ends))
            case ast.Subscript():
                return self.subscript(node, scope, names)
            case ast.Call():
                return self.call(node, scope, names)
        return UNKNOWN

    def comprehension(
        self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp, scope: Scope, names: dict[str, object]
    ) -> list:
        (generator,) = node.generators
        made, inside = [], dict(names)
        for item in self.items(generator.iter, scope, names):
            self.assign(generator.target, item, scope, inside)
            if all(self.truth(test, scope, inside) for test in generator.ifs):
                made.append(self.value(node.elt, scope, inside))
        return made

    def subscript(self, node: ast.Subscript, scope: Scope, names: dict[str, object]) -> object:
        owner = self.value(node.value, scope, names)
        key = self.attempt(node.slice, scope, names)
        if isinstance(owner, Array):
            if key is UNKNOWN:
                if owner.counted:
                    return Array(owner.values.copy(), counted=True)  # some of the tokens
                if owner.values.ndim != 1 or len(owner.values) < SIZE:
                    return UNKNOWN
                return Array(owner.values[self.role(owner, node.slice, scope)], counted=True)
            picked = owner.values[_plain(key)]
            return Array(picked, owner.counted) if isinstance(picked, np.ndarray) and picked.ndim else picked.item()
        if isinstance(owner, list | tuple | str | bytes | dict) and key is not UNKNOWN:
            return owner[_plain(key)]  # type: ignore[index]
        return UNKNOWN

    def role(self, table: Array, index: ast.expr, scope: Scope) -> np.ndarray:
        """The tokens of all pairs that an index stands for: those before for a table of boundaries, else those that
        come, unless they are the data without its last token."""
        while isinstance(index, ast.Call) and isinstance(index.func, ast.Attribute) and index.func.attr in RESHAPED:
            index = index.func.value
        text = ast.unparse(index)
        if text not in self.roles:
            before = _is_truth(table) and not np.array_equal(table.values[:SIZE], SPACED)
            if not before:
                before = {_cut(one) for one, _ in Slice(self.program, index, scope).nodes} - {""} == {":-1"}
            self.roles[text] = PREVIOUS if before else NEXT
        return self.roles[text]

    def attribute(self, node: ast.Attribute, scope: Scope, names: dict[str, object]) -> object:
        owner = self.attempt(node.value, scope, names)
        if isinstance(owner, Object) and node.attr in owner.attributes:
            return owner.attributes[node.attr]
        if isinstance(owner, Array):
            return {"shape": (len(owner.values),), "size": len(owner.values), "ndim": 1, "dtype": None}.get(
                node.attr, UNKNOWN
            )
        found = self.agreed(self.stored(node.attr))
        if found is UNKNOWN:
            constant = self.program.constant(node, scope)
            return constant if isinstance(constant, int | float | str | bytes) else UNKNOWN
        return found

    def stored(self, name: str) -> list[Given]:
        """What attributes of a name are given, anywhere."""
        if self.unpacked is None:
            self.unpacked = {}
            for node, statement, scope, _ in self.program.live_of(ast.Call):
                target = statement.targets[0] if isinstance(statement, ast.Assign) else None
                if isinstance(target, ast.Tuple) and self.measuring.intersection(self.program.callees(node, scope)):
                    for place, one in enumerate(target.elts):
                        if isinstance(one, ast.Attribute):
                            self.unpacked.setdefault(one.attr, []).append((node, (place,), scope))
        stores = [(value, scope) for _, value, scope in self.program.stores_of(name, made=False)]
        for class_ in self.program.classes.values():
            stores += class_.attributes.get(name, ())
        unpacked = self.unpacked.get(name, [])
        others: list[Given] = [(value, (), scope) for value, scope in stores if value is not None]
        return [*others, *unpacked] if len(others) + len(unpacked) == len(stores) else []

    def agreed(self, bindings: Iterable[Given]) -> object:
        """What all of some expressions are, if they are the same."""
        found: list[object] = []
        if self.depth >= MAX_DEPTH:
            return UNKNOWN
        self.depth += 1
        try:
            for node, path, scope in bindings:
                value = self.attempt(node, scope, {})
                for index in path:
                    value = value[index] if isinstance(value, tuple | list) and index < len(value) else UNKNOWN
                if value is UNKNOWN or (found and not _same(found[0], value)):
                    return UNKNOWN
                found.append(value)
        finally:
            self.depth -= 1
        for one in found[:1]:
            _freeze(one)
        return found[0] if found else UNKNOWN

    def elsewhere(self, node: ast.Name, scope: Scope) -> object:
        """A name that is given its value outside of what is evaluated."""
        home, bindings = self.program.lookup(node, scope)
        key = (home, node.id)
        if key not in self.names:
            self.names[key] = UNKNOWN
            self.names[key] = self.agreed(self.given(node.id, home, bindings))
        return self.names[key]

    def given(self, name: str, home: Scope | None, bindings: list[Binding]) -> Iterator[Given]:
        for binding in bindings:
            if binding.kind == "value" and binding.value is not None:
                yield binding.value, binding.path, binding.scope
            elif binding.kind == "parameter" and home is not None and home.function is not None:
                for value, scope in self.program.passed(home.function, name):
                    yield value, (), scope
            else:
                yield ast.Name("", ast.Load()), (), binding.scope  # not known

    # -- calls ---------------------------------------------------------------------------------------------------------

    def call(self, node: ast.Call, scope: Scope, names: dict[str, object]) -> object:
        callees = self.program.callees(node, scope)
        if callees:
            if len(callees) > 1:
                return UNKNOWN
            return self.own(callees[0], node, scope, names)
        name = self.program.external(node.func, scope) or ""
        if name.startswith(TOKENIZERS) and name.count("(") == 0:
            return TOKENIZER
        keywords = {one.arg: one.value for one in node.keywords if one.arg is not None}
        if "out" in keywords:
            raise _Abandoned
        of_module = name.startswith((*ARRAYS, "builtins.", "math.")) and "(" not in name
        if isinstance(node.func, ast.Attribute) and not of_module:
            owner = self.attempt(node.func.value, scope, names)
            if owner is UNKNOWN and node.func.attr in (*MEASURING, *COUNTS, *KIND_TESTS) and self.depth:
                owner = TOKENIZER
            if owner is not UNKNOWN:
                arguments = [self.attempt(one, scope, names) for one in node.args]
                given = {key: self.attempt(one, scope, names) for key, one in keywords.items()}
                if isinstance(owner, Array) and node.func.attr in ("to", "astype", "type"):
                    return _as_kind(owner, self.kinds([*node.args, *keywords.values()], scope))
                return self.method(owner, node.func.attr, arguments, given)
            return Array(np.ones(NEXT.shape)) if node.func.attr == "numel" else UNKNOWN
        arguments = [self.attempt(one, scope, names) for one in node.args]
        given = {key: self.attempt(one, scope, names) for key, one in keywords.items() if key != "device"}
        dtype = self.program.external(keywords["dtype"], scope) if "dtype" in keywords else None
        if name.startswith("builtins."):
            return _built_in(name.removeprefix("builtins."), arguments)
        if name.startswith(ARRAYS):
            return _array_function(name.rpartition(".")[2], arguments, given, dtype or "")
        return UNKNOWN

    def kinds(self, nodes: list[ast.expr], scope: Scope) -> str:
        """The names of the types among some arguments."""
        names = [self.program.external(one, scope) or "" for one in nodes]
        names += [str(one.value) for one in nodes if isinstance(one, ast.Constant)]
        return " ".join(name.rpartition(".")[2] for name in names)

    def own(self, function: Function, node: ast.Call, scope: Scope, names: dict[str, object]) -> object:
        """A call of a function of the program."""
        if function in self.measuring:
            return self.result(function)
        inside: dict[str, object] = {}
        for name in function.parameters:
            passed = self.program.argument(node, function, name)
            if passed is not None:
                value, default = passed
                inside[name] = self.attempt(value, function.scope if default else scope, {} if default else names)
            else:
                inside[name] = UNKNOWN
        if _changes_others(function):
            raise _Abandoned
        if all(value is UNKNOWN for value in inside.values()):
            return UNKNOWN
        return self.run(function, inside)

    def method(self, owner: object, name: str, arguments: list, given: Mapping[str, object]) -> object:
        if isinstance(owner, _Tokenizer):
            return _of_tokenizer(name, arguments)
        if isinstance(owner, str | bytes) and name in TEXT_METHODS:
            if UNKNOWN in arguments or (name == "replace" and len(owner) * len(arguments[1]) > MAX_ITEMS):
                return UNKNOWN
            return getattr(owner, name)(*arguments)
        if isinstance(owner, list) and name in ("append", "extend"):
            getattr(owner, name)(arguments[0])
            return None
        if isinstance(owner, dict) and name in ("get", "items", "keys", "values"):
            made = getattr(owner, name)(*arguments)
            return made if name == "get" else list(made)
        if isinstance(owner, Array):
            return _of_array(owner, name, arguments, given)
        if isinstance(owner, int | float) and name in SAME:
            return owner
        return UNKNOWN


def _freeze(value: object) -> None:
    """What is kept for others to use does not change any more: who tries gets nothing known."""
    if isinstance(value, Object):
        value = list(value.attributes.values())
    for one in value if isinstance(value, tuple | list) else [value]:
        if isinstance(one, Array):
            one.values.flags.writeable = False


def _changed_in_place(before: Array, after: Array) -> Array:
    """An array that holds new numbers from now on. Raises _Unclear if it may not be changed, or has another shape."""
    if not before.values.flags.writeable or before.values.shape != after.values.shape:
        raise _Unclear
    before.values[...] = after.values
    return Array(before.values, after.counted)


@keep(at_most=256)
def _changes_others(function: Function) -> bool:
    """Whether a function changes in place what is not its own."""
    body = function.node
    touched = _touched(body)
    return not isinstance(body, ast.Lambda) and not touched.altered <= touched.given.union(function.parameters)


class Touched(NamedTuple):
    """The names that a statement gives values, whose values it may change in place, and that it reads."""

    given: set[str]
    altered: set[str]
    read: set[str]


def _touched(statement: ast.AST) -> Touched:
    made = Touched(set(), set(), set())
    for node in ast.walk(statement):
        altered: list[ast.expr] = []
        if isinstance(node, ast.Name):
            (made.given if isinstance(node.ctx, ast.Store) else made.read).add(node.id)
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            altered.append(node)
        elif isinstance(node, ast.AugAssign):
            altered.append(node.target)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _in_place(node.func.attr):
            altered.append(node.func.value)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            shown = isinstance(node.value.func, ast.Name) and node.value.func.id == "print"
            altered += [] if shown else node.value.args  # it is called for what it does
        for one in altered:
            while isinstance(one, ast.Subscript | ast.Attribute):
                one = one.value
            if isinstance(one, ast.Name):
                made.altered.add(one.id)
    return made


def _in_place(method: str) -> bool:
    return method in ("append", "extend", "insert", "update", "pop", "clear", "fill") or method.endswith("_")


def _cut(node: ast.expr) -> str:
    """Where the last axis of an array is cut so that its tokens move, or the last one is gone: "1:", ":-1"."""
    if not isinstance(node, ast.Subscript):
        return ""
    last = node.slice.elts[-1] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
    if not isinstance(last, ast.Slice):
        return ""
    batch = last.lower is not None and last.upper is not None  # x[i * n : (i + 1) * n]
    if (batch or last.lower is None) and (last.upper is None or _positive(last.upper)):
        return ""
    return ast.unparse(last)


def _positive(node: ast.expr) -> bool:
    return not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub))


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_plain(one) for one in value)
    if value is UNKNOWN:
        raise _Unclear
    return value.values if isinstance(value, Array) else value


def _same(one: object, other: object) -> bool:
    if isinstance(one, Array) and isinstance(other, Array):
        return np.array_equal(one.values, other.values)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or (type(one) is type(other) and isinstance(one, int | float | str | bytes) and one == other)


def _is_truth(value: object) -> bool:
    return isinstance(value, Array) and value.values.dtype == np.bool_


def _elementwise(function: Callable, *operands: object) -> object:
    if not any(isinstance(one, Array) for one in operands):
        if any(isinstance(one, int | float) and abs(one) > 1e9 for one in operands):
            raise _Unclear
        if function in (operator.pow, operator.lshift) and operands[1] not in range(-64, 65):
            raise _Unclear
        if function is operator.mod and isinstance(operands[0], str | bytes):
            raise _Unclear
        repeated = function is operator.mul and any(isinstance(one, str | bytes | list | tuple) for one in operands)
        sizes = [one if isinstance(one, int) else len(one) for one in operands] if repeated else []  # type: ignore[arg-type]
        if math.prod(sizes) > MAX_ITEMS:
            raise _Unclear
        return function(*operands)
    plain = [_plain(one) for one in operands]
    if math.prod(np.broadcast_shapes(*(np.shape(one) for one in plain))) > MAX_ITEMS:
        raise _Unclear
    made = function(*plain)
    counted = any(isinstance(one, Array) and one.counted for one in operands)
    return Array(made, counted) if isinstance(made, np.ndarray) else UNKNOWN


def _of_tokenizer(name: str, arguments: list) -> object:
    if name in COUNTS:
        return SIZE
    if name in SPECIAL:
        return SPECIAL[name]
    if name in ("piece_to_id", "PieceToId"):
        return next((number for number, one in enumerate(PIECES) if one.text == arguments[0]), 0)
    number = arguments[0] if arguments else UNKNOWN
    if not isinstance(number, int | np.integer) or not 0 <= number < SIZE:
        return UNKNOWN
    if name in MEASURING:
        return PIECES[number].text
    if name in KIND_TESTS:
        return PIECES[number].kind == KIND_TESTS[name]
    return UNKNOWN


def _of_array(owner: Array, name: str, arguments: list, given: Mapping[str, object]) -> object:
    """A method of an array. Sums stay as they are for each pair."""
    values = owner.values
    if name in SAME:
        return owner if name not in ("clone", "copy") else Array(values.copy(), owner.counted)
    if name in FLOATS or name in INTEGERS or name == "bool":
        return _as_kind(owner, "float" if name in FLOATS else name)
    if name in ("numel", "size", "__len__"):
        return Array(np.ones(NEXT.shape)) if owner.counted else len(values)
    made = _combined(owner, name, arguments, given)
    return _changed_in_place(owner, made) if name.endswith("_") and isinstance(made, Array) else made


def _combined(owner: object, name: str, arguments: list, given: Mapping[str, object]) -> object:
    """Arithmetic, logic and bounds, as functions or methods."""
    if CALLED.get(name) in OPERATORS and arguments:
        return _elementwise(OPERATORS[CALLED[name]], owner, arguments[0])
    if name in LOGIC and arguments:
        return _elementwise(LOGIC[name], owner, arguments[0])
    if name in ("logical_not", "bitwise_not", "invert") and isinstance(owner, Array):
        return Array(~owner.values.astype(bool), owner.counted)
    if name in LEAST and arguments:
        return _elementwise(np.maximum, owner, arguments[0])
    if name in MOST and arguments:
        return _elementwise(np.minimum, owner, arguments[0])
    if name in CLIPS:
        least = arguments[0] if arguments else given.get("min", given.get("a_min"))
        most = arguments[1] if len(arguments) > 1 else given.get("max", given.get("a_max"))
        for bound, function in ((least, np.maximum), (most, np.minimum)):
            if bound is not None:
                owner = _elementwise(function, owner, bound)
        return owner
    return UNKNOWN


def _as_kind(owner: Array, kinds: str) -> Array:
    """The same numbers as truth values or whole numbers, if that is among the names of types."""
    kind = np.bool_ if "bool" in kinds else np.int64 if "int" in kinds or "long" in kinds or "short" in kinds else None
    values = owner.values.astype(kind or (np.float64 if "float" in kinds else owner.values.dtype))
    return Array(values, owner.counted)


def _array_function(name: str, arguments: list, given: Mapping[str, object], dtype: str) -> object:
    first = arguments[0] if arguments else UNKNOWN
    kind = bool if "bool" in dtype else float if "float" in dtype else int if "int" in dtype else None
    if name in MADE or name == "full":
        size = first[0] if isinstance(first, tuple | list) and len(first) == 1 else first
        if not isinstance(size, int) or not 0 < size <= MAX_ITEMS:
            return UNKNOWN
        filling = arguments[1] if name == "full" else MADE[name]
        return Array(np.full(size, filling, dtype=kind or (float if name != "full" else None)))
    if name in ALIKE and first is UNKNOWN:
        return Array(np.full(NEXT.shape, ALIKE[name]))  # what is like the tokens themselves
    if name in ALIKE and isinstance(first, Array):
        return Array(np.full(first.values.shape, ALIKE[name], dtype=kind or first.values.dtype), first.counted)
    if name in KEPT:
        if isinstance(first, list) and first and all(isinstance(one, int | float | np.generic) for one in first):
            return Array(np.array(first, dtype=kind))
        if isinstance(first, Array):
            return first if kind is None else Array(first.values.astype(kind), first.counted)
        return UNKNOWN
    if name == "arange" and len(arguments) == 1 and isinstance(first, int) and first <= MAX_ITEMS:
        return Array(np.arange(first))
    if name == "where" and len(arguments) == 3 and isinstance(first, Array):
        return _elementwise(np.where, *arguments)
    return _combined(first, name, arguments[1:], given) if isinstance(first, Array) else UNKNOWN


def _built_in(name: str, arguments: list) -> object:
    if UNKNOWN in [one for one in arguments if not isinstance(one, Array)]:
        return UNKNOWN
    first = arguments[0] if arguments else None
    if name in ("int", "float", "bool", "abs", "str") and len(arguments) == 1:
        if isinstance(first, Array):
            return first if name in ("int", "float") else UNKNOWN
        return {"int": int, "float": float, "bool": bool, "abs": abs, "str": str}[name](first)  # type: ignore[operator]
    if name == "len":
        return len(first.values) if isinstance(first, Array) else len(first)  # type: ignore[arg-type]
    if name in ("max", "min") and arguments and all(isinstance(one, int | float) for one in arguments):
        return max(arguments) if name == "max" else min(arguments)
    if name == "range" and all(isinstance(one, int) for one in arguments):
        made = range(*arguments)
        return made if len(made) <= MAX_ITEMS else UNKNOWN
    if name == "enumerate" and isinstance(first, list | tuple | str | range):
        return list(enumerate(first))
    if name in ("list", "tuple", "set", "sorted") and isinstance(first, list | tuple | range | str):
        return list(first)
    if name in ("list", "dict", "set") and not arguments:
        return {} if name == "dict" else []
    if name in ("ord", "chr"):
        return ord(first) if name == "ord" else chr(first)  # type: ignore[arg-type]
    if name == "repr" and isinstance(first, str):
        return repr(first)
    if name == "sum" and isinstance(first, list):
        return sum(first)
    return UNKNOWN
