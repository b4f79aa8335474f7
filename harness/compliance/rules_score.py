"""The number that is reported: where it comes from, over which bytes, tokens and data."""

from __future__ import annotations

import ast
import itertools
import math
import posixpath
import re
from collections.abc import Iterator, Sequence

from harness.compliance.findings import Finding, Status
from harness.compliance.logs import SPLIT_BYTES, parse_log
from harness.compliance.program import UNKNOWN, ExternalCall, Program, Scope
from harness.compliance.slices import Slice

SCORE = re.compile(r"(?<![a-z])(val_?bpb|val_?loss|bpb|bits_per_byte|val_nats)\b[\"']?\s*[:=]\s*$", re.IGNORECASE)
NOTED = re.compile(r"([a-z])\s*\([^()]{1,60}\)(?=\s*[:=]\s*$)", re.IGNORECASE)  # "val_bpb (stride 64): "
WRITTEN_SCORE = re.compile(r"(?<![a-z])(val_?bpb|val_?loss)\s*[:=]\s*\d+\.\d+", re.IGNORECASE)
REFERENCE = re.compile(
    r"baseline|target|previous|reference|record|best|goal|expected|\bvs\b|delta|sota|leaderboard|\best[_ i]|approx",
    re.IGNORECASE,
)
FACTORS = (math.log(2), 1 / math.log(2), 1.0, -1.0, 8.0, 2.0)  # bits, nats, means over two
PASSED_ON = frozenset({"item", "cpu", "float", "double", "mean", "sum", "to", "detach", "numpy", "tolist", "squeeze"})
SPINE_CALLS = frozenset(
    {"builtins.float", "builtins.round", "builtins.sum", "torch.tensor", "numpy.mean", "numpy.float64"}
)
TEXTS = frozenset({"builtins.str", "builtins.format", "builtins.repr", "builtins.round"})
CLAMPS = frozenset({"builtins.min", "builtins.max", "torch.clamp", "numpy.clip", "numpy.minimum", "numpy.maximum"})
CLAMP_METHODS = frozenset({"clamp", "clamp_max", "clamp_", "clip"})
MAX_SPINE = 200

PIECES = frozenset({"id_to_piece", "IdToPiece"})
BYTE_TESTS = frozenset({"is_byte", "IsByte"})
MARKER = "\u2581"
PRINTED = frozenset({ast.Constant, ast.JoinedStr, ast.BinOp, ast.Call, ast.Dict})  # what may hold a score's name

# The contest's vocabularies have powers of two; a number behind the name is a version, or a job's own copy.
TOKENIZER = re.compile(
    r"^fineweb_(256|512|1024|2048|4096|8192|16384)_bpe(_v?\d+)?\.model$|^fineweb_pure_byte_260\.json$"
)
CODE_MARK = re.compile(r"[{}()]|\w$")  # before a word on its line: source that the log begins with, or a longer word
TOKENIZER_LINE = re.compile(
    r"tokenizer(?:_path|_file|_model)?[:=] ?([^\s{}()'\"]{1,300}\.(?:model|json|vocab))(?=\s|$)", re.M
)
SAMPLES = frozenset({"random.sample", "random.Random().sample", "numpy.random.choice", "random.choices"})
SIZES = frozenset({"numel", "size", "shape"})
SAME_BYTES = 0.001  # windows at the ends leave out that much at most
FEW_TOKENS = 30_000_000  # fewer than the split has with any tokenizer of the contest
WINDOW_TOKENS = 100_000  # up to this many at a time are a window, a chunk or a batch


def check_score(program: Program) -> Iterator[Finding]:
    """constant-score: a score in the output that is written in the code, clamped or scaled."""
    for node, _, scope, _ in program.live_of(ast.Call):
        for argument in (*node.args, *[one.value for one in node.keywords]):
            if type(argument) in PRINTED:
                yield from _printed(program, argument, scope)
        if len(node.args) < 2:
            continue
        for label, value in itertools.pairwise(node.args):  # print("val_bpb:", value)
            if isinstance(label, ast.Constant) and (_names_score(label.value) or _names_score(f"{label.value}:")):
                yield from _reported(program, value, scope)


def _printed(program: Program, node: ast.expr, scope: Scope) -> Iterator[Finding]:
    source = scope.module.source
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        written = WRITTEN_SCORE.search(node.value)
        if written and not REFERENCE.search(node.value) and node.value.count("\n") < 3:
            message = f"A score is printed that is written in the code: {written[0]}."
            yield Finding("constant-score", Status.FLAG, message, (program.place(node, source, "the score is text"),))
        return
    for value in _score_values(node):
        yield from _reported(program, value, scope)


def _reported(program: Program, value: ast.expr, scope: Scope) -> Iterator[Finding]:
    place = program.place(value, scope.module.source, "this is printed as the score")
    while isinstance(value, ast.Call) and value.args and program.external(value.func, scope) in TEXTS:
        value = value.args[0]
    known = program.constants(value, scope)
    if known and all(isinstance(one, int | float) and not isinstance(one, bool) and one > 0 for one in known):
        if all(math.isfinite(one) for one in known):
            message = f"The score that is printed is a constant, {known[0]}."
            yield Finding("constant-score", Status.FLAG, message, (place,))
    elif _is_written(program, value, scope):
        message = "The score that is printed is a constant: what gives it back is a number written in the code."
        yield Finding("constant-score", Status.FLAG, message, (place,))
    else:
        yield from _altered(program, value, scope)


def _names_score(text: object) -> bool:
    return isinstance(text, str) and SCORE.search(text) is not None and not REFERENCE.search(text[-60:])


def _is_written(program: Program, value: ast.expr, scope: Scope) -> bool:
    """Whether everything that a value may be, through names, calls and returns, is a number in the code."""
    pending: list[tuple[ast.expr, Scope, tuple[int, ...]]] = [(value, scope, ())]
    seen: set[ast.expr] = set()
    numbers = 0
    while pending and len(seen) < MAX_SPINE:
        node, home, path = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        number = program.constant(node, home) if not path else UNKNOWN
        if isinstance(number, int | float) and not isinstance(number, bool):
            numbers += number > 0 and math.isfinite(number)
            continue
        before = [] if isinstance(node, ast.BinOp) else list(_spine(program, node, home, path))
        if not before:
            return False
        pending += before
    return numbers > 0


def _score_values(node: ast.expr) -> Iterator[ast.expr]:
    """The expressions that a printed text puts behind the name of a score."""
    if isinstance(node, ast.JoinedStr):
        before, text = "", ""
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                if _names_score(before) or (NOTED.search(text) and _names_score(NOTED.sub(r"\1", text))):
                    yield part.value
                before, text = "", f"{text}0"
            elif isinstance(part, ast.Constant):
                before = str(part.value)
                text += before
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and _names_score(key.value + ":"):
                yield value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        label = node.left.right if isinstance(node.left, ast.BinOp) else node.left
        if isinstance(label, ast.Constant) and _names_score(label.value):
            yield node.right
        if isinstance(node.left, ast.BinOp):
            yield from _score_values(node.left)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
        yield from _template(str(node.left.value), r"%[-+ 0#]*\d*(?:\.\d+)?[a-zA-Z]", node.right)
    elif _method(node) == "format" and isinstance(node.func.value, ast.Constant) and not node.keywords:
        yield from _template(str(node.func.value.value), r"\{[^{}]*\}", ast.Tuple(elts=node.args))


def _template(text: str, field: str, values: ast.expr) -> Iterator[ast.expr]:
    given = values.elts if isinstance(values, ast.Tuple) else [values]
    position = 0
    for match, value in zip(re.finditer(field, text), given, strict=False):
        before = text[position : match.start()]
        if _names_score(before):
            yield value
        position = match.end()


def _altered(program: Program, value: ast.expr, scope: Scope) -> Iterator[Finding]:
    """Clamps and constant factors between what scoring returns and what is printed."""
    pending: list[tuple[ast.expr, Scope, tuple[int, ...]]] = [(value, scope, ())]
    seen: set[ast.expr] = set()
    printed = program.place(value, scope.module.source, "this is printed as the score")
    while pending and len(seen) < MAX_SPINE:
        node, home, path = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if reason := _alteration(program, node, home):
            place = program.place(node, home.module.source, reason)
            yield Finding("constant-score", Status.FLAG, f"The reported score is altered: {reason}.", (place, printed))
        elif summand := _accumulated(program, node, home):
            statement, reason = summand
            place = program.place(statement, home.module.source, reason)
            message = f"What is summed up for the reported score is altered: {reason}. See what for."
            yield Finding("constant-score", Status.HOLD, message, (place, printed))
        pending += _spine(program, node, home, path)


def _alteration(program: Program, node: ast.expr, scope: Scope, whole: bool = False) -> str | None:
    """How a constant changes a number. whole: whether whole numbers may be factors, and terms."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        sides = (node.left, node.right) if isinstance(node.op, ast.Mult) else (node.right,)
        for side in sides:
            factor = program.constant(side, scope)
            if whole and isinstance(factor, int | float) and float(factor).is_integer():
                continue
            if isinstance(factor, int | float) and not isinstance(factor, bool) and not _is_factor(float(factor)):
                return f"it is {'multiplied by' if isinstance(node.op, ast.Mult) else 'divided by'} {factor}"
        if whole:  # loss * tokens * 0.5
            for side in (node.left, node.right) if isinstance(node.op, ast.Mult) else (node.left,):
                if reason := _alteration(program, side, scope, whole):
                    return reason
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub) and not whole:
        for side in (node.left, node.right) if isinstance(node.op, ast.Add) else (node.right,):
            term = program.constant(side, scope)
            if isinstance(term, int | float) and not isinstance(term, bool) and abs(term) > 1e-6:
                return f"{term} is {'added' if isinstance(node.op, ast.Add) else 'taken off'}"
    if isinstance(node, ast.Call):
        name = program.external(node.func, scope)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in CLAMPS or (name is None and method in CLAMP_METHODS):
            bounds = [program.constant(one, scope) for one in (*node.args, *(one.value for one in node.keywords))]
            if any(isinstance(one, float) and one > 1e-3 and one != 1.0 for one in bounds):
                return "it is clamped to a constant"
    return None


def _accumulated(program: Program, node: ast.expr, scope: Scope) -> tuple[ast.AST, str] | None:
    """Where a sum is changed in place by a constant, and how. It may be one of tokens or batches: a whole number."""
    for binding in program.lookup(node, scope)[1] if isinstance(node, ast.Name) else ():
        statement, summand, factors = binding.statement, None, []
        if isinstance(statement, ast.AugAssign) and binding.kind == "augmented":
            summand = binding.value if isinstance(statement.op, ast.Add) else None
            factors = [binding.value] if isinstance(statement.op, ast.Mult | ast.Div) else []
        elif isinstance(binding.value, ast.BinOp) and isinstance(binding.value.op, ast.Add) and not binding.path:
            sides = (binding.value.left, binding.value.right)
            others = [one for one in sides if getattr(one, "id", "") != node.id]
            summand = others[0] if len(others) == 1 else None
        if summand is not None and (reason := _alteration(program, summand, binding.scope, whole=True)):
            return statement, reason
        for factor in (program.constant(one, binding.scope) for one in factors):
            known = isinstance(factor, int | float) and not float(factor).is_integer()  # no number of batches
            if known and not _is_factor(float(factor)):
                done = "multiplied" if isinstance(statement.op, ast.Mult) else "divided"
                return statement, f"it is {done} by {factor}"
    return None


def _is_factor(value: float) -> bool:
    if abs(value / SPLIT_BYTES - 1) < SAME_BYTES:
        return True
    return value == 0 or any(math.isclose(abs(value), abs(one), rel_tol=1e-5) for one in FACTORS)


def _spine(
    program: Program, node: ast.expr, scope: Scope, path: tuple[int, ...]
) -> Iterator[tuple[ast.expr, Scope, tuple[int, ...]]]:
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
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div):
        yield node.left, scope, ()
        if isinstance(node.op, ast.Mult):
            yield node.right, scope, ()
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield value, scope, path
            if program.truth(value, scope) is isinstance(node.op, ast.Or):  # it is this one
                break
    elif isinstance(node, ast.IfExp):
        yield node.body, scope, path
        yield node.orelse, scope, path
    elif isinstance(node, ast.Call):
        name = program.external(node.func, scope)
        if (name in SPINE_CALLS or name in CLAMPS) and node.args:
            yield node.args[0], scope, ()
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


def check_bytes(program: Program) -> Iterator[Finding]:
    """byte-count: the table of bytes for each token, and byte counts that come from files."""
    tables: dict[Scope, ast.Call] = {}
    for node, _, scope, _ in program.live_of(ast.Call):
        if _method(node) in PIECES:
            tables.setdefault(scope, node)
    for scope, piece in tables.items():
        nodes = [node for node, _, _ in program.live(scope)]
        if any(_method(node) == "encode" or _is_len(program, node, scope) for node in nodes):
            yield from _table(program, scope, nodes, piece)
    for call in program.external_calls:
        if call.name in ("glob.glob", "numpy.fromfile", "numpy.load", "builtins.open") and call.node.args:
            name = program.constant(call.node.args[0], call.scope)
            if isinstance(name, str) and re.search(
                r"(?<![a-z])bytes?(?![a-z]).*\.(bin|npy|npz|pt)$", posixpath.basename(name)
            ):
                base = posixpath.basename(name)
                place = program.place(call.node, call.scope.module.source, f"byte counts are read from {base}")
                yield Finding("byte-count", *_counts_of_file(base, program.log_texts), (place,))


def _counts_of_file(name: str, logs: Sequence[str]) -> tuple[Status, str]:
    """What is said about byte counts that come from a file. Only their sum is in the score; logs show what it is."""
    runs = [run for text in logs for run in parse_log("", text)]
    sums = [run.counted_bytes for run in runs if run.counted_bytes is not None]
    what = f"The denominator of the score comes from a file: byte counts are read from {name}."
    if sums and all(abs(one / SPLIT_BYTES - 1) < SAME_BYTES for one in sums):
        known = f"{SPLIT_BYTES / 1e6:.1f} million of the validation split's text"
        return Status.CLEAN, f"{what} By the logs they come to the {known}."
    return Status.HOLD, f"{what} See how that file was made."


def _method(node: ast.AST) -> str:
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def _is_len(program: Program, node: ast.AST, scope: Scope) -> bool:
    if not isinstance(node, ast.Call) or not node.args or program.external(node.func, scope) != "builtins.len":
        return False
    return any(_method(one) in PIECES for one, _ in Slice(program, node.args[0], scope).nodes)


def _table(program: Program, scope: Scope, nodes: list[ast.AST], piece: ast.Call) -> Iterator[Finding]:
    place = program.place(piece, scope.module.source, "the pieces of the tokenizer are measured here")
    compared = {id(part) for node in nodes if isinstance(node, ast.Compare) for part in (node.left, *node.comparators)}
    lengths = [node for node in nodes if id(node) not in compared and _is_len(program, node, scope)]
    if not lengths:
        return

    def finding(status: Status, message: str, node: ast.AST | None = None, note: str = "") -> Finding:
        more = (program.place(node, scope.module.source, note),) if node is not None else ()
        return Finding("byte-count", status, message, (place, *more))

    for length in lengths:
        if not any(_method(one) == "encode" for one, _ in Slice(program, length.args[0], scope).nodes):
            yield finding(
                Status.FLAG, "The characters of pieces are counted, not their UTF-8 bytes.", length, "characters"
            )
    tests = [node for node in nodes if _method(node) in BYTE_TESTS or _is_byte_text(node)]
    if not tests:
        yield finding(
            Status.FLAG, "Byte pieces such as <0xE2> are counted by the length of their names, not as one byte."
        )
    for node in nodes:
        if isinstance(node, ast.If) and any(one in tests for one in ast.walk(node.test)) and not _negated(node.test):
            for one in node.body:
                value = one.value if isinstance(one, ast.Assign | ast.AugAssign) else None
                counted = program.constant(value, scope) if value is not None else UNKNOWN
                if isinstance(counted, int) and not isinstance(counted, bool) and counted != 1:
                    yield finding(
                        Status.FLAG, f"A byte piece is counted as {counted} bytes, not one.", one, "counted here"
                    )
    marked = [node for node in nodes if isinstance(node, ast.Constant) and node.value == MARKER]
    if not marked:
        yield finding(Status.FLAG, "The mark of a leading space is counted as the three bytes of its character.")
        return
    for node in nodes:
        if _method(node) != "replace" or len(node.args) != 2 or program.constant(node.args[0], scope) != MARKER:
            continue
        other = program.constant(node.args[1], scope)
        if other == " ":
            message = "A leading space is counted at every token, also behind a boundary token where there is none."
            yield finding(Status.HOLD, message + " See whether the difference matters.", node, "counted here")
        elif other == "" and not _space_noted(nodes, marked):
            yield finding(Status.FLAG, "The byte of a leading space is not counted.", node, "it is dropped here")
    stripped = [node for node in nodes if _method(node) in ("lstrip", "removeprefix", "strip") or _drops_first(node)]
    if stripped and not _space_noted(nodes, marked):
        yield finding(Status.FLAG, "The byte of a leading space is not counted.", stripped[0], "it is dropped here")


def _is_byte_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lower().startswith("<0x")


def _negated(test: ast.expr) -> bool:
    return any(isinstance(one, ast.Not) for one in ast.walk(test))


def _drops_first(node: ast.AST) -> bool:
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Slice):
        return False
    lower = node.slice.lower
    return isinstance(lower, ast.Constant) and lower.value == 1 and node.slice.upper is None


def _space_noted(nodes: list[ast.AST], marked: list[ast.AST]) -> bool:
    """Whether anything besides the piece itself depends on the mark: a table of leading spaces, or one byte more."""
    for node in nodes:
        if isinstance(node, ast.If) and any(one in marked for one in ast.walk(node.test)):
            stores = [one for one in (*node.body, *node.orelse) if isinstance(one, ast.Assign | ast.AugAssign)]
            if any(isinstance(one, ast.AugAssign) or not isinstance(one.targets[0], ast.Name) for one in stores):
                return True
            if len(stores) > 1:
                return True
        uses = isinstance(node, ast.Assign | ast.AugAssign | ast.IfExp)
        if uses and any(
            one in marked for one in ast.walk(node.value if not isinstance(node, ast.IfExp) else node.test)
        ):
            value = node.value if not isinstance(node, ast.IfExp) else None
            if value is None or _is_flag(value, marked):
                return True
    return False


def _is_flag(value: ast.expr, marked: list[ast.AST]) -> bool:
    """Whether a value is a test for the mark, not the piece without it."""
    if isinstance(value, ast.Call) and _method(value) in ("replace", "lstrip", "removeprefix", "strip"):
        return False
    return any(one in marked for one in ast.walk(value)) and not any(_drops_first(one) for one in ast.walk(value))


def check_data(program: Program) -> Iterator[Finding]:
    """other-data: a tokenizer or dataset that is not the contest's, and scores of a part of the split."""
    logged = [
        match[1]
        for text in program.log_texts
        for match in TOKENIZER_LINE.finditer(text)
        if not CODE_MARK.search(text, text.rfind("\n", 0, match.start()) + 1, match.start())
    ]
    loads = [
        call
        for call in program.external_calls
        if call.name.startswith(("sentencepiece.SentencePieceProcessor", "tokenizers.Tokenizer.from_file"))
    ]
    named: dict[str, ExternalCall | None] = {}
    for call in () if logged else loads:
        arguments = [*call.node.args, *(one.value for one in call.node.keywords if one.arg in ("model_file", "path"))]
        for argument in arguments[:1]:
            name = program.constant(argument, call.scope)
            if isinstance(name, str) and name.endswith((".model", ".json")):
                named.setdefault(posixpath.basename(name), call)
    for name in logged:  # what the run had beats what the code says
        named.setdefault(posixpath.basename(name), loads[0] if loads else None)
    for base, call in named.items():
        if TOKENIZER.match(base):
            continue
        what = f"the tokenizer is {base}"
        node, source = (call.node, call.scope.module.source) if call else (program.entry.tree, program.entry.source)
        message = f"This is not one of the contest's tokenizers: {what}. See whether it may be used."
        yield Finding("other-data", Status.HOLD, message, (program.place(node, source, what),))
    for node, statement, scope, _ in program.live_of(ast.Subscript):
        if isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load):
            yield from _part(program, node, statement, scope)
    for node, statement, scope, _ in program.live_of(ast.Call):
        if len(node.args) > 1 and program.external(node.func, scope) == "builtins.min":
            yield from _capped(program, node, statement, scope)
    for call in program.external_calls:
        if call.name in SAMPLES and len(call.node.args) > 1:
            yield from _sampled(program, call)


def _sampled(program: Program, call: ExternalCall) -> Iterator[Finding]:
    """A share of the validation documents, drawn at random."""
    for node, scope in Slice(program, call.node.args[1], call.scope).nodes:
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
            continue
        for share, whole in ((node.left, node.right), (node.right, node.left)):
            shares = [one for one in program.constants(share, scope) if isinstance(one, float) and 0 < one < 1]
            if not shares or "builtins.len" not in Slice(program, whole, scope).calls():
                continue
            drawn = ((call.node.args[0], call.scope), (share, scope))  # VAL_SHARE says it, too
            if any(_of_validation(Slice(program, one, home)) for one, home in drawn):
                what = f"{max(shares):.3g} of the validation documents are drawn"
                place = program.place(call.node, call.scope.module.source, what)
                message = f"The score may be of a part of the split: {what}. See whether the reported score is of all."
                yield Finding("other-data", Status.HOLD, message, (place,))
                return


def _capped(program: Program, node: ast.Call, statement: ast.stmt, scope: Scope) -> Iterator[Finding]:
    """Scoring that ends at the end of the split, or at so many tokens if that comes first."""
    for limit in node.args:
        count = program.constant(limit, scope)  # of several, one is the run's
        if not isinstance(count, int) or isinstance(count, bool) or not WINDOW_TOKENS < count < FEW_TOKENS:
            continue
        others = [Slice(program, other, scope) for other in node.args if other is not limit]
        sizes = [one for one in others if "builtins.len" in one.calls() or one.attributes() & SIZES]
        if sizes and any(map(_of_validation, sizes)) and _ends_there(program, node, statement, scope):
            what = f"at most {count:,} validation tokens are scored"
            place = program.place(node, scope.module.source, what)
            message = f"The score may be of a part of the split: {what}. See whether the reported score is of all."
            yield Finding("other-data", Status.HOLD, message, (place,))
            return


def _of_validation(one: Slice) -> bool:
    texts = (node.value for node, _ in one.nodes if isinstance(node, ast.Constant))
    return any("val" in text.lower() for text in texts if isinstance(text, str))


def _ends_there(program: Program, node: ast.Call, statement: ast.stmt, scope: Scope) -> bool:
    """Whether a number is where a loop, a range or a slice ends: itself, or by the name that it is given."""
    names = {one.id for one in getattr(statement, "targets", ()) if isinstance(one, ast.Name)}
    ends: list[ast.expr] = []
    for one, _, _ in program.live(scope):
        if isinstance(one, ast.Subscript) and isinstance(one.slice, ast.Slice) and one.slice.upper is not None:
            ends.append(one.slice.upper)
        elif isinstance(one, ast.Call) and program.external(one.func, scope) == "builtins.range":
            ends += one.args[:1] if len(one.args) == 1 else one.args[1:2]
        elif isinstance(one, ast.While):
            ends.append(one.test)
    return any(
        part is node or (isinstance(part, ast.Name) and part.id in names) for end in ends for part in ast.walk(end)
    )


def _part(program: Program, node: ast.Subscript, statement: ast.stmt, scope: Scope) -> Iterator[Finding]:
    """The first so many validation tokens, and no others."""
    upper = node.slice.upper
    if upper is None or (node.slice.lower is not None and program.constant(node.slice.lower, scope) != 0):
        return
    counts = [
        one
        for one in program.constants(upper, scope)
        if isinstance(one, int) and not isinstance(one, bool) and WINDOW_TOKENS < one < FEW_TOKENS
    ]
    if not counts or not isinstance(statement, ast.Assign | ast.Return):
        return
    value = statement.value
    if value is not node and not (isinstance(value, ast.Call) and node in ast.walk(value.func)):
        return
    if _of_validation(Slice(program, node.value, scope)):
        what = f"only the first {max(counts):,} validation tokens are kept"
        place = program.place(node, scope.module.source, what)
        message = f"The score may be of a part of the split: {what}. See whether the reported score is of all."
        yield Finding("other-data", Status.HOLD, message, (place,))
