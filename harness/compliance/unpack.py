"""Code that a script carries packed, or takes from a file beside it, found without executing anything.

What reaches `exec`, `eval`, `runpy` or an import machinery is worked out by evaluating the expressions that lead there:
constants, concatenations, slices, decoders and decompressors, files of the folder and files that the script itself has
written, assignments over several statements, functions of the script's own. The evaluator knows only what is listed
here (`CALLS`, `METHODS`); everything else is unknown, with a reason, and code that stays unknown is a HOLD. Steps,
layers and bytes are limited."""

from __future__ import annotations

import ast
import base64
import binascii
import bz2
import codecs
import contextlib
import itertools
import lzma
import posixpath
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from harness.compliance.effects import Effects, State, Unsure, modules, shown_path, written_path
from harness.compliance.findings import Finding, Place, Source, Status
from harness.compliance.inputs import Run, Target
from harness.compliance.operators import BINARY, COMPARE, UNARY
from harness.compliance.parsing import Unreadable, children, decode, parse

MAX_LAYERS = 12  # code in code
MAX_BYTES = 8_000_000  # of one value
MAX_TOTAL_BYTES = 32_000_000  # that are decoded or decompressed for one file
COPY = 16  # copying a byte or a name costs one sixteenth of decoding it or working it out
MAX_ITEMS = 1_000_000  # of a list
MAX_STEPS = 200_000  # expressions that are evaluated for one file
MAX_CALLS = 12  # of the script's own functions inside each other
MAX_PARENTS = 20  # folders above a file
MAX_INNER = 50  # pieces of code in one file

# With none of these names a text executes nothing but what is in it as code.
IMPORT = "an import"  # what executes a file that becomes a module
SUSPECTS = frozenset(
    (
        *("exec", "eval", "execfile", "__import__", "__builtins__", "builtins", "globals", "runpy", "marshal", "imp"),
        *("zipimport", "importlib", "spec_from_file_location", "spec_from_loader", "SourceFileLoader", "FunctionType"),
        *("SourcelessFileLoader", "CodeType", ".FunctionType", ".CodeType", ".__subclasses__", ".__globals__"),
        ".__builtins__",
    )
)


@dataclass(frozen=True)
class Unpacked:
    """sources: every source that could be parsed, packed code included; their text parses under this Python. runs: the
    target's runs, one for each code that a run's entry executes. explained: (source name, line) of the calls that
    execute text which is among the sources."""

    sources: tuple[Source, ...]
    runs: tuple[Run, ...]
    findings: tuple[Finding, ...]
    explained: frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Inner:
    """Code that `by` executes at `line`. imported: it is a file, and becomes a module. variables: of the environment,
    that were set before; Unsure if to what is not known."""

    source: Source
    by: Source
    line: int
    imported: bool = False
    variables: Mapping[str, object] = field(default_factory=dict)


def unpack_target(target: Target) -> Unpacked:
    """Everything that a target's sources carry."""
    sources: dict[str, Source] = {}
    executed: dict[str, list[Inner]] = {}
    findings: list[Finding] = []
    shells: set[str] = set()
    unknown = target.runs[0].unknown if target.runs else ()
    environment: dict[str, object] = {**target.environment}
    environment |= {name: _Unknown(f"it is the environment variable {name}") for name in unknown}

    def read(path: str) -> bytes | None:
        file = target.file(path)
        return None if file is None else file.read(MAX_BYTES)

    for source in target.sources:
        result = _unpack(source, read, environment)
        findings += result.findings
        shells |= result.shells
        for unpacked in result.sources:
            sources.setdefault(unpacked.name, unpacked)
        for inner in result.inners:
            executed.setdefault(inner.by.name, []).append(inner)
    runs = []
    for run in target.runs:
        for entry, (imported, variables) in _entries(run.entry.name, executed, shells).items():
            if entry in sources:
                runs.append(_with_variables(replace(run, entry=sources[entry], imported=imported), variables))
    explained = frozenset((inner.by.name, inner.line) for inners in executed.values() for inner in inners)
    return Unpacked(tuple(sources.values()), tuple(runs), tuple(findings), explained)


def unpack(
    source: Source, read: Callable[[str], bytes | None] = lambda path: None
) -> tuple[list[Source], list[Finding]]:
    """The source as this Python can parse it, what it carries, and what is to be said about it. read: the bytes of a
    file beside it, by path, or nothing if there is no such file."""
    result = _unpack(source, read, {})
    return result.sources, result.findings


def _entries(
    name: str, executed: Mapping[str, list[Inner]], shells: set[str]
) -> dict[str, tuple[bool, Mapping[str, object]]]:
    """The sources that are the program when `name` is started: itself, unless all it does is to execute others, and
    those. Whether they are only imported, and the variables that were set before."""
    found: dict[str, tuple[bool, Mapping[str, object]]] = {name: (False, {})}
    waiting = [name]
    while waiting:
        by = waiting.pop(0)
        for inner in executed.get(by, ()):
            if inner.source.name not in found:
                waiting.append(inner.source.name)
            imported, variables = found.get(inner.source.name, (True, {**found[by][1], **inner.variables}))
            found[inner.source.name] = imported and inner.imported, variables
    return {source: how for source, how in found.items() if source not in shells}


def _with_variables(run: Run, variables: Mapping[str, object]) -> Run:
    """A run whose environment was changed by what started it; nobody claims by that that they have an effect."""
    known = {name: value for name, value in variables.items() if isinstance(value, str)}
    left = {name: value for name, value in run.environment.items() if name not in variables}
    unknown = (run.unknown | variables.keys()) - known.keys()
    return replace(run, environment={**left, **known}, unknown=unknown, expanded=run.expanded | variables.keys())


@dataclass
class _Result:
    sources: list[Source] = field(default_factory=list)
    inners: list[Inner] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    shells: set[str] = field(default_factory=set)


def _unpack(source: Source, read: Callable[[str], bytes | None], environment: Mapping[str, object]) -> _Result:
    result = _Result()
    budget, effects = _Budget(), Effects()
    waiting: list[tuple[Source, dict | None]] = [(source, None)]
    names = {source.name: source.text}
    written: dict[str, Source] = {}  # by path
    while waiting:
        current, scope = waiting.pop(0)
        try:
            parsed = parse(current.text)
        except Unreadable as error:
            place = Place(current, error.line, 1, "here")
            result.findings.append(Finding("unreadable", Status.HOLD, f"{current.name} {error}", (place,)))
            continue
        current = Source(current.path, parsed.text, current.layers)
        result.sources.append(current)
        if SUSPECTS.isdisjoint(parsed.names):
            continue
        path = next((path for path, one in written.items() if one.name == current.name), current.path)
        evaluator = _Evaluator(current, path, read, environment, budget, effects)
        try:
            ended = evaluator.run(parsed.tree, scope)
        except RecursionError:
            message = "what it executes could not be worked out: its functions call each other without end"
            result.findings.append(Finding("hidden-code", Status.HOLD, message, (Place(current, 1, 1, "here"),)))
            continue
        only_shell = _is_shell(parsed.tree, evaluator)
        for sink in evaluator.sinks:
            inner = _inner(current, sink, names, written)
            if isinstance(inner, Finding):
                result.findings.append(inner)
                only_shell = False
                continue
            imported = sink.what == IMPORT and not inner.layers
            result.inners.append(Inner(inner, current, sink.line, imported, sink.variables))
            if inner.name in names:
                continue
            if len(inner.layers) > MAX_LAYERS or len(names) > MAX_INNER:
                place = Place(current, sink.line, sink.column, "executed here")
                message = f"code is packed in more than {MAX_LAYERS} layers or {MAX_INNER} pieces"
                result.findings.append(Finding("hidden-code", Status.HOLD, message, (place,)))
                break
            names[inner.name] = inner.text
            if inner.layers:  # a file of its own is read and unpacked as such
                waiting.append((inner, ended if sink.shares_scope else None))
        for path in modules(effects.files):
            inner = _inner(current, _Sink(IMPORT, 1, 1, evaluator.contents(path), False, path), names, written)
            if isinstance(inner, Source) and inner.layers and inner.name not in names and len(names) <= MAX_INNER:
                names[inner.name] = inner.text
                waiting.append((inner, None))
        if only_shell and evaluator.sinks:
            result.shells.add(current.name)
        if budget.steps <= 0 and not any(finding.check == "hidden-code" for finding in result.findings):
            message = "what it executes could not be worked out to the end: that takes too long"
            result.findings.append(Finding("hidden-code", Status.HOLD, message, (Place(current, 1, 1, "here"),)))
    return result


def _inner(source: Source, sink: _Sink, names: Mapping[str, str], written: dict[str, Source]) -> Source | Finding:
    """The code that a sink executes as a source, or why there is none. names: the text of each source by its name;
    written: the sources that are files which a script writes, by path; one that is new is added."""
    place = Place(source, sink.line, sink.column, "executed here")
    value = sink.value
    if isinstance(value, _Unknown):
        message = f"what {sink.what} executes could not be worked out: {value.reason}"
        return Finding("hidden-code", Status.HOLD, message, (place,))
    if isinstance(value, _Code):
        value = value.text
    path, layers = _origin(value)
    if isinstance(value, bytes):
        try:
            value = decode(value)
        except Unreadable as error:
            return Finding("hidden-code", Status.HOLD, f"what {sink.what} executes {error}", (place,))
    if not isinstance(value, str):
        return Finding("hidden-code", Status.HOLD, f"{sink.what} executes what is no text", (place,))
    if path and not layers and path.endswith((".py", ".pyw")):
        return Source(path, str(value).removeprefix("\ufeff"))
    layers = (
        (*source.layers, *(layers or (sink.what,))) if (path or source.path) == source.path else (layers or ("text",))
    )
    found = Source(path or source.path, str(value).removeprefix("\ufeff"), layers)
    if sink.path in written and written[sink.path].text == found.text:
        return written[sink.path]
    number = 2
    while names.get(found.name, found.text) != found.text:  # another piece, packed in the same way
        found = Source(found.path, found.text, (*layers[:-1], f"{layers[-1]} {number}"))
        number += 1
    if sink.path:
        written.setdefault(sink.path, found)
    return found


IMPORTING = frozenset({"__import__", "import_module"})
UNPACKING = frozenset(  # packages that serve to unpack, write and start code
    (
        *("__future__", "ast", "atexit", "base64", "binascii", "brotli", "builtins", "bz2", "codecs", "contextlib"),
        *("fcntl", "functools", "glob", "gzip", "hashlib", "importlib", "io", "json", "lzma", "marshal", "os"),
        *(
            "pathlib",
            "pickle",
            "re",
            "runpy",
            "shutil",
            "signal",
            "struct",
            "subprocess",
            "sys",
            "tempfile",
            "textwrap",
        ),
        *("time", "types", "urllib", "zipfile", "zlib"),
    )
)
PREPARING = frozenset(  # methods and functions that a script calls to write files and to set variables and paths
    (
        *("write", "writelines", "write_text", "write_bytes", "close", "flush", "mkdir", "makedirs", "chmod", "flock"),
        *("insert", "append", "update", "setdefault", "register", "copy", "copyfile", "replace", "rename", "move"),
        *("unlink", "remove", "rmtree", "rmdir", "cleanup", "touch", "fsync", "fchmod"),
    )
)


def _is_shell(tree: ast.Module, evaluator: _Evaluator) -> bool:
    """Whether a module does nothing but prepare and execute code from elsewhere: it defines nothing, and every
    statement is an import, an assignment, what writes that code to files, or the execution. Loops are what may train
    or score, too, where anything is imported that no unpacking needs."""
    lines = {sink.line for sink in evaluator.sinks}
    return all(_prepares(statement, lines) for statement in tree.body) and not (
        any(isinstance(statement, ast.For | ast.Try) for statement in ast.walk(tree)) and _imports_more(tree)
    )


def _imports_more(tree: ast.Module) -> bool:
    """Whether a module imports what no unpacking needs, or what is not written in it."""
    for node in ast.walk(tree):
        names: list[object] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "."]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in IMPORTING:
            names = [getattr(node.args[0], "value", "") if node.args else ""]
        if any(str(name).partition(".")[0] not in UNPACKING for name in names):
            return True
    return False


def _prepares(statement: ast.stmt, lines: set[int]) -> bool:
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.Pass():
            return True
        case ast.With() | ast.If() | ast.For() | ast.Try():
            inner = [one for field in ("body", "orelse", "finalbody") for one in getattr(statement, field, ())]
            inner += [one for handler in getattr(statement, "handlers", ()) for one in handler.body]
            return all(_prepares(one, lines) for one in inner)
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr():
            called = getattr(getattr(statement.value, "func", None), "attr", "")
            last = statement.end_lineno or statement.lineno
            return called in PREPARING or any(statement.lineno <= line <= last for line in lines)
    return False


# Values that are no Python constants.


class _Bytes(bytes):
    """Bytes that know which file and layers they come from."""

    origin: tuple[str, tuple[str, ...]] = ("", ())


class _Text(str):
    """Text that knows which file and layers it comes from."""

    __slots__ = ("origin",)


def _origin(value: object) -> tuple[str, tuple[str, ...]]:
    return getattr(value, "origin", ("", ()))


def _marked(value: object, origin: tuple[str, tuple[str, ...]]) -> object:
    """The same bytes or text, with an origin."""
    if isinstance(value, bytes | bytearray):
        marked: _Bytes | _Text = _Bytes(value)
    elif isinstance(value, str):
        marked = _Text(value)
    else:
        return value
    marked.origin = origin
    return marked


@dataclass(frozen=True)
class _Unknown:
    reason: str


@dataclass(frozen=True)
class _Named:
    """Something of a module, by its full name: "lzma.decompress"."""

    name: str


@dataclass(frozen=True)
class _Code:
    """What compile() gives."""

    text: object


@dataclass(frozen=True)
class _Path:
    path: str


@dataclass(frozen=True)
class _File:
    path: str
    binary: bool
    writes: bool = False


@dataclass(frozen=True)
class _Folder:
    """What tempfile.TemporaryDirectory() gives."""

    path: str


@dataclass(frozen=True)
class _Loader:
    """An import machinery's view of a file."""

    path: str


@dataclass(frozen=True)
class _Method:
    owner: object
    name: str


@dataclass(frozen=True, eq=False)
class _Own:
    """A function of the script."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    scope: dict


@dataclass
class _Sink:
    """A place where something is executed."""

    what: str
    line: int
    column: int
    value: object
    shares_scope: bool
    path: str = ""  # of a written file that it is in
    variables: Mapping[str, object] = field(default_factory=dict)


@dataclass
class _Budget:
    steps: int = MAX_STEPS
    bytes: int = MAX_TOTAL_BYTES


class _Return(Exception):
    def __init__(self, value: object) -> None:
        self.value = value


class _Stop(Exception):
    """Why an expression is unknown."""


COMPARABLE = (str, bytes, int, _Named, _Path, _Unknown)
UNSEEN = _Unknown("it comes from somewhere that is not in the text")


class _Evaluator:
    """Evaluates one source, statement by statement."""

    def __init__(
        self,
        source: Source,
        path: str,
        read: Callable[[str], bytes | None],
        environment: Mapping[str, object],
        budget: _Budget,
        effects: Effects,
    ) -> None:
        self.source = source
        self.script = path  # where it is when it runs
        self.effects = effects
        self.read_back: dict[str, tuple[str, object]] = {}  # path and content of written files, by how they are shown
        self.read_file = read
        self.environment = environment
        self.budget = budget
        self.sinks: list[_Sink] = []
        self.scopes: dict[ast.AST, dict] = {}  # of functions, where they were defined
        self.called: set[ast.AST] = set()
        self.stored: dict[ast.stmt, list[str]] = {}  # the names that a statement gives values, what is in it included
        self.depth = 0

    def run(self, tree: ast.Module, scope: dict | None) -> dict:
        """Evaluate a module, then the functions that nothing called; returns its names."""
        names = self.copied(scope or {})
        names["__file__"] = self.script
        names.setdefault("__name__", "__main__")
        names["__doc__"] = ast.get_docstring(tree, clean=False)
        self.guarded(tree.body, names)
        for node in _functions(tree):
            if node not in self.called:
                inside = self.copied(self.scopes.get(node, names))
                for argument in _arguments(node.args):
                    inside[argument.arg] = _Unknown(f"it depends on the argument {argument.arg!r} of {node.name}()")
                self.body_of(node, inside)
        for path, held in self.read_back.values():
            if self.effects.files.get(path) != held:
                for sink in self.sinks:
                    if sink.path == path:
                        sink.value = _Unknown(f"{shown_path(path)[:100]!r} is written more than once")
        return names

    def body_of(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: dict) -> object:
        self.called.add(node)
        try:
            self.statements(node.body, scope)
        except _Return as returned:
            return returned.value
        return None

    def state(self) -> State:
        """What has been written and set so far."""
        self.budget.steps -= (len(self.effects.files) + len(self.effects.variables)) // COPY
        return self.effects.state()

    def aside(self, node: ast.expr, scope: dict) -> object:
        """An expression that is not evaluated here for certain: what it writes is left out, what it executes is not."""
        before = self.state()
        value = self.value(node, scope)
        self.effects.back_to(before)
        return value

    def copied(self, scope: dict) -> dict:
        """Names for what may not change those outside; none when there are no steps left."""
        self.budget.steps -= len(scope) // COPY
        return dict(scope) if self.budget.steps > 0 else {}

    # Statements

    def statements(self, body: Iterable[ast.stmt], scope: dict) -> None:
        for statement in body:
            self.statement(statement, scope)

    def statement(self, node: ast.stmt, scope: dict) -> None:
        match node:
            case ast.Assign():
                value = self.value(node.value, scope)
                for target in node.targets:
                    self.assign(target, value, scope)
            case ast.AnnAssign() if node.value is not None:
                self.assign(node.target, self.value(node.value, scope), scope)
            case ast.AugAssign():
                load = ast.copy_location(_as_load(node.target), node)
                value = self.binary(node.op, self.value(load, scope), self.value(node.value, scope))
                self.assign(node.target, value, scope)
            case ast.Expr():
                self.value(node.value, scope)
            case ast.Return():
                raise _Return(self.value(node.value, scope) if node.value else None)
            case ast.Import():
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    scope[alias.asname or top] = _Named(alias.name if alias.asname else top)
            case ast.ImportFrom():
                module = f"{'.' * node.level}{node.module or ''}"
                for alias in node.names:
                    if alias.name == "*":
                        scope.update(
                            {name.rpartition(".")[2]: _named(name) for name in CALLS if name.startswith(f"{module}.")}
                        )
                    else:
                        scope[alias.asname or alias.name] = _named(f"{module}.{alias.name}")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for decorator in node.decorator_list:
                    self.value(decorator, scope)
                self.scopes[node] = scope
                scope[node.name] = _Own(node, scope) if not node.decorator_list else UNSEEN
            case ast.ClassDef():
                self.guarded(node.body, self.copied(scope))
                scope[node.name] = UNSEEN
            case ast.If():
                test = self.value(node.test, scope)
                if isinstance(test, bool | int | str | bytes | None):
                    self.statements(node.body if test else node.orelse, scope)
                else:
                    self.branches([node.body, node.orelse], scope)
            case ast.Try():
                before = self.copied(scope)
                returned = None
                try:
                    self.statements(node.body + node.orelse, scope)
                except _Return as caught:
                    returned = caught
                after = self.state()
                states = [after]
                for handler in node.handlers:
                    self.guarded(handler.body, self.copied(before))
                    states.append(self.state())
                    self.effects.back_to(after)
                self.effects.merge(states)
                self.statements(node.finalbody, scope)
                if returned is not None:
                    raise returned
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    value = self.value(item.context_expr, scope)
                    if isinstance(value, _Folder):
                        value = value.path
                    if item.optional_vars is not None:
                        self.assign(item.optional_vars, value, scope)
                self.statements(node.body, scope)
            case ast.For() | ast.AsyncFor():
                self.loop(node, scope)
            case ast.While():
                self.value(node.test, scope)
                self.repeated(node, scope)
            case ast.Match():
                self.value(node.subject, scope)
                self.branches([case.body for case in node.cases], scope)
            case ast.Delete():
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        scope.pop(target.id, None)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child, scope)

    def guarded(self, body: list[ast.stmt], scope: dict) -> None:
        """Statements after which others are still looked at, even if these return."""
        with contextlib.suppress(_Return):
            self.statements(body, scope)

    def branches(self, bodies: list[list[ast.stmt]], scope: dict) -> None:
        """Each body on its own; what they leave different is unknown."""
        ends, before, states = [], self.state(), []
        for body in bodies:
            end = self.copied(scope)
            try:
                self.statements(body, end)
                ends.append(end)
            except _Return:
                pass
            states.append(self.state())
            self.effects.back_to(before)
        self.effects.merge(states)
        if not ends:
            raise _Return(_Unknown("it depends on a condition"))
        first, *others = ends
        for name in set().union(*ends):
            value = first.get(name, UNSEEN)
            for end in others:
                other = end.get(name, UNSEEN)
                if other is not value and not _equal(other, value):
                    value = _Unknown("it depends on a condition")
                    break
            scope[name] = value

    def loop(self, node: ast.For | ast.AsyncFor, scope: dict) -> None:
        items = self.value(node.iter, scope)
        if isinstance(items, list | tuple | str | bytes | range) and len(items) <= 100_000:
            enough = self.budget.steps // 2  # what comes after it needs some, too
            for item in items:
                self.budget.steps -= 1
                if self.budget.steps <= enough:
                    break
                self.assign(node.target, item, scope)
                self.statements(node.body, scope)
            else:
                self.statements(node.orelse, scope)
                return
        self.assign(node.target, items if isinstance(items, _Unknown) else UNSEEN, scope)
        self.repeated(node, scope)

    def repeated(self, node: ast.For | ast.AsyncFor | ast.While, scope: dict) -> None:
        """The body of a loop that runs nobody knows how often."""
        before = self.state()
        self.forget(node.body, scope, "a loop changes it")
        self.branches([node.body, node.orelse], scope)
        self.forget(node.body, scope, "a loop changes it")
        self.effects.unsure_since(before, "a loop changes it")

    def forget(self, body: list[ast.stmt], scope: dict, reason: str) -> None:
        for statement in body:
            names = self.stored.get(statement)
            if names is None:
                names = self.stored[statement] = _stored_names(statement)
            for name in names:
                scope[name] = _Unknown(reason)

    def assign(self, target: ast.expr, value: object, scope: dict) -> None:
        match target:
            case ast.Name():
                scope[target.id] = value
            case ast.Tuple() | ast.List():
                plain = isinstance(value, tuple | list) and len(value) == len(target.elts)
                for position, element in enumerate(target.elts):
                    self.assign(element, value[position] if plain else UNSEEN, scope)
            case ast.Starred():
                self.assign(target.value, UNSEEN, scope)
            case ast.Subscript() if isinstance(target.value, ast.Name):
                owner = scope.get(target.value.id)
                key = self.value(target.slice, scope)
                if _is_environment(owner):
                    self.set_variable(key, value)
                elif isinstance(owner, dict) and isinstance(key, str | int | bytes):
                    scope[target.value.id] = {**owner, key: value}
                else:
                    self.stored_elsewhere(value)
                    if isinstance(owner, list | bytearray | dict):
                        scope[target.value.id] = _Unknown("it is changed in place")
            case _:
                if isinstance(target, ast.Subscript) and _is_environment(self.value(target.value, scope)):
                    self.set_variable(self.value(target.slice, scope), value)
                    return
                self.stored_elsewhere(value)
                self.visit_children(target, scope)

    def stored_elsewhere(self, value: object) -> None:
        """A file that is kept where nobody sees what is written to it."""
        if isinstance(value, _File) and value.writes:
            self.effects.write(self.written(value.path), Unsure("it is written by other code"))

    def set_variable(self, name: object, value: object) -> None:
        if isinstance(name, str):
            known = isinstance(value, str)
            self.effects.variables[str(name)] = str(value) if known else Unsure("it is set to what is not known")

    def variable(self, name: str, default: object) -> object:
        """A variable of the environment."""
        value = self.effects.variables.get(name, self.environment.get(name, default))
        return _Unknown(value.reason) if isinstance(value, Unsure) else value

    # Expressions

    def value(self, node: ast.expr, scope: dict) -> object:
        """What an expression is, as far as it can be known. Never raises for what the text holds."""
        self.budget.steps -= 1
        if self.budget.steps <= 0:
            if self.budget.steps == 0 or isinstance(node, ast.Call):
                return self.exhausted(node, scope)
            return _Unknown("it takes too long to work out")
        try:
            return self.expression(node, scope)
        except _Stop as stop:
            return _Unknown(str(stop))
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
            TypeError,
            ValueError,
            OSError,
            EOFError,
            lzma.LZMAError,
            zlib.error,
            AssertionError,
        ) as error:
            return _Unknown(f"{type(error).__name__}: {str(error)[:100]}")

    def exhausted(self, node: ast.expr, scope: dict) -> object:
        """A call when there are no steps left: if it executes something, that is unknown."""
        called = node.func if isinstance(node, ast.Call) else None
        unknown = _Unknown("it takes too long to work out")
        if isinstance(called, ast.Name) and called.id in ("exec", "eval"):
            self.sink(node, called.id, unknown, False)
        return unknown

    def expression(self, node: ast.expr, scope: dict) -> object:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                if node.id in scope:
                    return scope[node.id]
                if node.id in BUILTINS:
                    return _Named(f"builtins.{node.id}")
                if node.id == "__builtins__":
                    return _Named("builtins")
                return _Unknown(f"{node.id!r} is not known here")
            case ast.BinOp():
                return self.binary(node.op, self.value(node.left, scope), self.value(node.right, scope))
            case ast.UnaryOp():
                operand = self.known(self.value(node.operand, scope))
                return UNARY[type(node.op)](operand)
            case ast.BoolOp():
                return self.choice_of(node, scope)
            case ast.Compare():
                return self.compare(node, scope)
            case ast.IfExp():
                test = self.value(node.test, scope)
                if isinstance(test, bool | int | str | bytes | None):
                    self.aside(node.orelse if test else node.body, scope)
                    return self.value(node.body if test else node.orelse, scope)
                before, values, states = self.state(), [], []
                for branch in (node.body, node.orelse):
                    values.append(self.value(branch, scope))
                    states.append(self.state())
                    self.effects.back_to(before)
                self.effects.merge(states)
                return values[0] if _equal(*values) else _Unknown("it depends on a condition")
            case ast.NamedExpr():
                value = self.value(node.value, scope)
                self.assign(node.target, value, scope)
                return value
            case ast.Tuple() | ast.List():
                values = [self.value(element, scope) for element in node.elts]
                return tuple(values) if isinstance(node, ast.Tuple) else values
            case ast.Dict() if all(key is not None for key in node.keys):
                keys = [self.known(self.value(key, scope)) for key in node.keys if key is not None]
                return dict(zip(keys, [self.value(value, scope) for value in node.values], strict=True))
            case ast.JoinedStr():
                parts = [self.value(part, scope) for part in node.values]
                return self.bounded("".join(str(self.known(part)) for part in parts), COPY)
            case ast.FormattedValue():
                value = self.known(self.value(node.value, scope))
                plain = node.format_spec is None and node.conversion == -1 and isinstance(value, str | int)
                return str(value) if plain else _Unknown("it is formatted text")
            case ast.Subscript():
                return self.subscript(node, scope)
            case ast.Slice():
                return slice(
                    *(part and self.known(self.value(part, scope)) for part in (node.lower, node.upper, node.step))
                )
            case ast.Attribute():
                return self.attribute(self.value(node.value, scope), node.attr)
            case ast.Lambda():
                self.aside(node.body, self.copied(scope) | {argument.arg: UNSEEN for argument in _arguments(node.args)})
                return _Own(node, scope)
            case ast.ListComp() | ast.GeneratorExp():
                return self.comprehension(node, scope)
            case ast.Call():
                return self.call(node, scope)
            case ast.Await():
                return self.value(node.value, scope)
        self.visit_children(node, scope)
        return _Unknown(f"the text does not say what line {getattr(node, 'lineno', 0)} gives")

    def choice_of(self, node: ast.BoolOp, scope: dict) -> object:
        """What `and` and `or` give. Those values that are not evaluated leave nothing behind."""
        *others, last = node.values
        for position, one in enumerate(others):
            value = self.value(one, scope)
            if isinstance(value, _Unknown):
                before = self.state()
                for rest in node.values[position + 1 :]:
                    self.value(rest, scope)
                self.effects.merge([before, self.state()])
                return value
            if bool(value) == isinstance(node.op, ast.Or):
                for rest in node.values[position + 1 :]:
                    self.aside(rest, scope)
                return value
        return self.value(last, scope)

    def visit_children(self, node: ast.AST, scope: dict) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child, scope)
            elif isinstance(child, ast.comprehension):
                self.assign(child.target, UNSEEN, scope)
                self.value(child.iter, scope)

    def known(self, value: object) -> object:
        if isinstance(value, _Unknown):
            raise _Stop(value.reason)
        return value

    def bounded(self, value: object, cost: int = 1) -> object:
        """A value, if it is not too long; a byte of it costs 1/`cost` of the budget."""
        if isinstance(value, str | bytes | bytearray | list | tuple):
            if len(value) > MAX_BYTES:
                raise _Stop(f"it is longer than {MAX_BYTES:,} bytes")
            self.budget.bytes -= len(value) // cost
            if self.budget.bytes < 0:
                raise _Stop(f"the script unpacks to more than {MAX_TOTAL_BYTES:,} bytes")
        return value

    def binary(self, operation: ast.operator, left: object, right: object) -> object:
        try:
            left, right = self.known(left), self.known(right)
            if isinstance(operation, ast.Mult):
                for many, times in ((left, right), (right, left)):
                    repeated = isinstance(many, str | bytes | list | tuple) and isinstance(times, int)
                    if repeated and len(many) * max(times, 0) > MAX_BYTES:
                        raise _Stop(f"it is longer than {MAX_BYTES:,} bytes")
            if isinstance(operation, ast.Div) and isinstance(left, _Path):
                return _Path(posixpath.join(left.path, str(right)))
            if isinstance(left, int) and isinstance(right, int):
                too_large = left.bit_length() > 10_000 or right.bit_length() > 10_000
                if too_large or (isinstance(operation, ast.Pow | ast.LShift) and right > 10_000):
                    raise _Stop("it is a huge number")
            elif isinstance(left, str) and isinstance(operation, ast.Mod):
                raise _Stop("it is formatted text")
            if not all(isinstance(side, str | bytes | int | float | list | tuple) for side in (left, right)):
                raise _Stop("it combines what is not known")
            function = BINARY.get(type(operation))
            if function is None:
                raise _Stop("an operator is not known")
            origin = _origin(left) if _origin(left) != ("", ()) else _origin(right)
            return _marked(self.bounded(function(left, right), COPY), origin)
        except _Stop as stop:
            return _Unknown(str(stop))
        except (ArithmeticError, TypeError, ValueError, MemoryError) as error:
            return _Unknown(f"{type(error).__name__}: {str(error)[:100]}")

    def compare(self, node: ast.Compare, scope: dict) -> object:
        values = [self.value(node.left, scope), *(self.value(other, scope) for other in node.comparators)]
        for value in values:
            if not isinstance(self.known(value), str | bytes | int | float | None | list | tuple | dict):
                raise _Stop("it depends on a condition")
        return all(
            COMPARE[type(operation)](left, right)
            for operation, left, right in zip(node.ops, values, values[1:], strict=False)
        )

    def subscript(self, node: ast.Subscript, scope: dict) -> object:
        owner, key = self.value(node.value, scope), self.known(self.value(node.slice, scope))
        owner = self.known(owner)
        if isinstance(owner, _Named) and isinstance(key, str):
            if owner.name in ("globals()", "locals()", "vars()"):
                return scope.get(key, _Named("builtins") if key == "__builtins__" else UNSEEN)
            if owner.name == "os.environ":
                return self.variable(key, _Unknown(f"it is the environment variable {key}"))
            if owner.name == "sys.argv":
                return UNSEEN
            return _named(f"{owner.name}.{key}")  # vars(module)["name"]
        if isinstance(owner, _Named) and owner.name == "sys.argv" and key == 0:
            return self.script
        if not isinstance(owner, str | bytes | list | tuple | dict):
            raise _Stop("it is a part of what is not known")
        found = owner[key]
        return _marked(self.bounded(found, COPY), _origin(owner)) if isinstance(owner, str | bytes) else found

    def attribute(self, owner: object, name: str) -> object:
        owner = self.known(owner)
        if isinstance(owner, _Named):
            if name == "__dict__":
                return owner
            return _named(f"{owner.name}.{name}")
        if isinstance(owner, _Path):
            if name == "parent":
                return _Path(_parent(owner.path))
            if name == "parents":
                return [_Path(path) for path in itertools.islice(_parents(owner.path), MAX_PARENTS)]
            if name == "name":
                return posixpath.basename(owner.path)
        if isinstance(owner, _Loader) and name == "loader":
            return owner
        if isinstance(owner, _File | _Folder) and name == "name":
            return owner.path
        return _Method(owner, name)

    def comprehension(self, node: ast.ListComp | ast.GeneratorExp, scope: dict) -> object:
        first = node.generators[0]
        items = self.value(first.iter, scope)
        inside = self.copied(scope)
        plain = len(node.generators) == 1 and isinstance(items, list | tuple | str | bytes | range)
        if not plain or len(items) > MAX_ITEMS:
            for generator in node.generators:
                self.assign(generator.target, UNSEEN, inside)
            before = self.state()
            self.value(node.elt, inside)
            self.effects.unsure_since(before, "a loop changes it")
            raise _Stop(items.reason if isinstance(items, _Unknown) else "it is made item by item")
        made = []
        for item in items:
            self.assign(first.target, item, inside)
            if all(self.known(self.value(test, inside)) for test in first.ifs):
                made.append(self.known(self.value(node.elt, inside)))
        return made

    # Calls

    def call(self, node: ast.Call, scope: dict) -> object:
        function = self.value(node.func, scope)
        arguments = []
        for argument in node.args:
            value = self.value(argument, scope)
            if isinstance(argument, ast.Starred):
                inner = self.value(argument.value, scope)
                arguments.extend(inner if isinstance(inner, list | tuple) else [UNSEEN])
            else:
                arguments.append(value)
        keywords = {word.arg: self.value(word.value, scope) for word in node.keywords if word.arg is not None}
        for word in node.keywords:
            if word.arg is None:
                extra = self.value(word.value, scope)
                keywords.update(extra if isinstance(extra, dict) else {})
        if isinstance(function, _Own):
            return self.own(function, arguments, keywords)
        try:
            if isinstance(function, _Method):
                return self.method(node, function, arguments, keywords)
            if isinstance(function, _Named):
                return self.named(node, function.name, arguments, keywords, scope)
        except _Stop:
            self.given_away(function, [*arguments, *keywords.values()])
            raise
        self.given_away(function, [*arguments, *keywords.values()])
        if getattr(node.func, "attr", "") in WRITES:
            self.effects.doubt("something is written to a file that is not known")
        raise _Stop(function.reason if isinstance(function, _Unknown) else "what is called is not known")

    def given_away(self, function: object, arguments: list) -> None:
        """Files that were written, given to what may write something else into them."""
        if not self.effects.files:
            return
        if isinstance(function, _Method):
            arguments = [function.owner, *arguments]
        called = function.name if isinstance(function, _Named | _Method) else "what is called"
        for value in arguments:
            is_open = isinstance(value, _File) and value.writes
            if isinstance(function, _Named) and called.startswith(HARMLESS_TO_OPEN if is_open else HARMLESS):
                continue
            path = value.path if isinstance(value, _File | _Path) else value
            if isinstance(path, str) and (name := self.written(path)) in self.effects.files:
                self.effects.write(name, Unsure(f"{called}() may write to it"))

    def written(self, path: str) -> str:
        return written_path(path, self.source.path)

    def own(self, function: _Own, arguments: list, keywords: dict) -> object:
        """A call of a function of the script's own."""
        node = function.node
        if self.depth >= MAX_CALLS:
            raise _Stop("functions call each other too deeply")
        inside = self.copied(function.scope)
        names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
        defaults = node.args.defaults
        for name, default in zip(names[len(names) - len(defaults) :], defaults, strict=True):
            inside[name] = self.value(default, function.scope)
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            inside[argument.arg] = UNSEEN if default is None else self.value(default, function.scope)
        given = {**dict(zip(names, arguments, strict=False)), **keywords}
        for argument in _arguments(node.args):
            inside[argument.arg] = given.get(argument.arg, inside.get(argument.arg, UNSEEN))
        self.depth += 1
        try:
            if isinstance(node, ast.Lambda):
                return self.value(node.body, inside)
            return self.body_of(node, inside)
        finally:
            self.depth -= 1

    def sink(self, node: ast.Call, what: str, value: object, shares_scope: bool) -> None:
        layers = _origin(value.text if isinstance(value, _Code) else value)[1]
        path = self.read_back[layers[-1]][0] if layers and layers[-1] in self.read_back else ""
        variables = dict(self.effects.variables)
        sink = _Sink(what, node.lineno, node.col_offset + 1, value, shares_scope, path, variables)
        if len(self.sinks) > 2 * MAX_INNER:
            return  # more than are looked at
        for other in self.sinks:
            met = (other.line, other.column) == (sink.line, sink.column)
            if met and (_equal(other.value, value) or all(isinstance(one.value, _Unknown) for one in (other, sink))):
                return  # met again, in a loop or another call
        self.sinks.append(sink)

    def named(self, node: ast.Call, name: str, arguments: list, keywords: dict, scope: dict) -> object:
        """A call of something of a module."""
        first = arguments[0] if arguments else next(iter(keywords.values()), UNSEEN)
        match name:
            case "builtins.exec" | "builtins.eval" | "builtins.execfile":
                if name.endswith("execfile"):
                    first = self.contents(first)
                elif isinstance(first, _Named | _Loader | _Own | _Path):
                    first = _Unknown("it is no text")
                self.sink(node, name.rpartition(".")[2], first, True)
                return UNSEEN
            case "builtins.compile":
                return _Code(self.known(first))
            case "runpy.run_path":
                self.sink(node, "runpy", self.contents(first), False)
                return UNSEEN
            case "runpy.run_module" | "runpy._run_module_as_main":
                path = str(self.known(first)).replace(".", "/") + ".py"
                if self.file(path) is None and self.effects.file(self.written(path)) is None:
                    first = _Unknown(f"there is no module {str(first)[:60]!r} in the folder")
                else:
                    first = self.contents(path)
                self.sink(node, "runpy", first, False)
                return UNSEEN
            case "importlib.import_module" | "builtins.__import__":
                if isinstance(first, _Unknown):
                    self.sink(node, name.rpartition(".")[2], first, False)
                    return UNSEEN
                module = str(first)
                return _Named(module if name.endswith("import_module") else module.partition(".")[0])
            case "importlib.util.spec_from_file_location":
                place = arguments[1] if len(arguments) > 1 else keywords.get("location", UNSEEN)
                self.sink(node, IMPORT, self.contents(place), False)
                return UNSEEN
            case "importlib.machinery.SourceFileLoader" | "imp.load_source":
                place = arguments[1] if len(arguments) > 1 else keywords.get("path", UNSEEN)
                self.sink(node, IMPORT, self.contents(place), False)
                return UNSEEN
            case "importlib.machinery.SourcelessFileLoader" | "zipimport.zipimporter" | "imp.load_compiled":
                self.sink(node, IMPORT, _Unknown("it is byte code or an archive"), False)
                return UNSEEN
            case "types.FunctionType" | "types.CodeType":
                self.sink(node, name, _Unknown("it is made of byte code"), False)
                return UNSEEN
            case "marshal.loads" | "marshal.load" | "dill.loads" | "cloudpickle.loads":
                return _Unknown(f"it is byte code ({name})")
            case "builtins.getattr":
                if len(arguments) >= 2 and isinstance(arguments[1], str):
                    return self.attribute(first, arguments[1])
            case "builtins.vars" if isinstance(first, _Named):
                return first
            case "builtins.globals" | "builtins.locals" | "builtins.vars":
                return _Named(f"{name.rpartition('.')[2]}()")
            case "builtins.open" | "io.open" | "codecs.open":
                return self.opened(first, arguments[1] if len(arguments) > 1 else keywords.get("mode", "r"))
            case "os.fdopen" if isinstance(first, _File):
                return first
            case "os.write" if isinstance(first, _File) and len(arguments) == 2:
                return self.write(first, arguments[1])
            case "shutil.copy" | "shutil.copyfile" | "shutil.copy2" | "shutil.move" | "os.replace" | "os.rename":
                if len(arguments) == 2:
                    self.write(_File(self.path(arguments[1]), True), self.contents(first, True), whole=True)
                    return UNSEEN
            case "tempfile.gettempdir":
                return "/tmp"
            case "tempfile.mkdtemp" | "tempfile.mktemp":
                return self.effects.folder()
            case "tempfile.TemporaryDirectory":
                return _Folder(self.effects.folder())
            case "tempfile.NamedTemporaryFile":
                mode = arguments[0] if arguments else keywords.get("mode", "w+b")
                suffix = keywords.get("suffix")
                return self.opened(f"{self.effects.folder()}/file{suffix if isinstance(suffix, str) else ''}", mode)
            case "tempfile.mkstemp":
                suffix = keywords.get("suffix", first)
                file = self.opened(f"{self.effects.folder()}/file{suffix if isinstance(suffix, str) else ''}", "wb")
                return (file, file.path)
            case "os.environ.update" | "os.environ.setdefault" | "os.putenv" | "os.environ.pop":
                return self.change_variables(name.rpartition(".")[2], arguments, keywords)
            case "os.environ.get" | "os.getenv":
                if isinstance(first, str):
                    return self.variable(first, arguments[1] if len(arguments) > 1 else keywords.get("default"))
            case "os.path.join" | "posixpath.join":
                return posixpath.join(*(self.path(argument) for argument in arguments))
            case "os.path.dirname" | "os.path.basename" | "posixpath.dirname":
                return getattr(posixpath, name.rpartition(".")[2])(self.path(first))
            case "os.path.abspath" | "os.path.realpath" | "os.path.normpath" | "os.fspath":
                return self.path(first)
            case "os.getcwd" | "pathlib.Path.cwd":
                return "" if name.startswith("os") else _Path("")
            case "pathlib.Path" | "pathlib.PurePath" | "pathlib.PosixPath":
                return _Path(posixpath.join("", *(self.path(argument) for argument in arguments)))
            case "builtins.map" if len(arguments) == 2:
                items = self.known(arguments[1])
                if isinstance(items, str | bytes | list | tuple) and len(items) <= MAX_ITEMS:
                    return [self.apply(arguments[0], [item], node, scope) for item in items]
        function = CALLS.get(name)
        if function is None:
            raise _Stop(f"it comes from {name.removeprefix('builtins.')}()")
        for value in (*arguments, *keywords.values()):
            self.known(value)
        origin = next((_origin(value) for value in arguments if _origin(value) != ("", ())), ("", ()))
        made = self.bounded(function(*arguments, **keywords))
        layer = LAYERS.get(name)
        return _marked(made, (origin[0], (*origin[1], layer) if layer else origin[1]))

    def apply(self, function: object, arguments: list, node: ast.Call, scope: dict) -> object:
        self.budget.steps -= 1
        if self.budget.steps <= 0:
            raise _Stop("it takes too long to work out")
        if isinstance(function, _Own):
            return self.known(self.own(function, arguments, {}))
        if isinstance(function, _Named):
            return self.known(self.named(node, function.name, arguments, {}, scope))
        raise _Stop("what is called is not known")

    def method(self, node: ast.Call, method: _Method, arguments: list, keywords: dict) -> object:
        owner, name = method.owner, method.name
        if isinstance(owner, _File):
            if owner.writes:
                if name in ("write", "writelines") and len(arguments) == 1:
                    for one in arguments[0] if name == "writelines" and isinstance(arguments[0], list) else arguments:
                        self.write(owner, one)
                    return UNSEEN
                if name in ("close", "flush", "fileno"):
                    return owner
            elif name in ("read", "readlines", "read1") and not arguments:
                data = self.contents(owner.path, owner.binary)
                return data if name != "readlines" else self.known(data).splitlines(keepends=True)
            raise _Stop(f"it is a part of the file {owner.path!r}")
        if isinstance(owner, _Path):
            match name:
                case "read_text" | "read_bytes":
                    return self.contents(owner.path, name == "read_bytes")
                case "write_text" | "write_bytes" if arguments:
                    return self.write(_File(owner.path, name == "write_bytes"), arguments[0], whole=True)
                case "open":
                    return self.opened(owner, arguments[0] if arguments else keywords.get("mode", "r"))
                case "exists" | "is_file" | "stat" | "chmod" | "unlink":
                    return UNSEEN
                case "resolve" | "absolute" | "expanduser":
                    return owner
                case "joinpath":
                    return _Path(posixpath.join(owner.path, *(self.path(argument) for argument in arguments)))
                case "with_name":
                    return _Path(posixpath.join(posixpath.dirname(owner.path), self.path(arguments[0])))
                case "with_suffix":
                    return _Path(posixpath.splitext(owner.path)[0] + self.path(arguments[0]))
                case "as_posix" | "__str__" | "__fspath__":
                    return owner.path
            raise _Stop(f"it comes from the method {name}() of a path")
        if isinstance(owner, dict) and name == "get" and arguments:
            return owner.get(self.known(arguments[0]), arguments[1] if len(arguments) > 1 else None)
        if isinstance(owner, dict) and name in ("items", "keys", "values") and not arguments:
            return list(getattr(owner, name)())
        if isinstance(owner, list) and name in ("append", "extend") and len(arguments) == 1:
            added = arguments[0]
            if name == "append":
                owner.append(added)
            else:
                owner.extend(self.known(added) if isinstance(added, list | tuple | str | bytes) else [UNSEEN])
            return None
        if isinstance(owner, str | bytes) and name in METHODS:
            for value in (*arguments, *keywords.values()):
                self.known(value)
            if name == "join":
                parts = [self.known(part) for part in arguments[0]]
                if sum(map(len, parts)) + len(owner) * len(parts) > MAX_BYTES:
                    raise _Stop(f"it is longer than {MAX_BYTES:,} bytes")
                origin = next((_origin(part) for part in parts if _origin(part) != ("", ())), _origin(owner))
                return _marked(self.bounded(owner.join(parts), COPY), origin)
            if name == "replace" and len(arguments) >= 2:
                count = owner.count(arguments[0]) if arguments[0] else len(owner) + 1
                if count * len(arguments[1]) > MAX_BYTES:
                    raise _Stop(f"it is longer than {MAX_BYTES:,} bytes")
            if name in ("encode", "decode"):
                encoding = str((arguments or list(keywords.values()) or ["utf-8"])[0]).lower()
                if encoding not in ENCODINGS:
                    raise _Stop(f"it is encoded as {encoding[:40]!r}")
            if "split" in name and len(owner) > MAX_ITEMS:
                raise _Stop("it is split into too many pieces")
            made = self.bounded(getattr(owner, name)(*arguments, **keywords), COPY)
            origin = _origin(owner)
            return [_marked(one, origin) for one in made] if isinstance(made, list) else _marked(made, origin)
        if isinstance(owner, _Decompressor) and name == "decompress":
            data = self.known(arguments[0])
            made = self.bounded(owner.function(data))
            return _marked(made, (_origin(data)[0], (*_origin(data)[1], owner.layer)))
        if isinstance(owner, _Decompressor) and name == "flush":
            return b""
        raise _Stop(f"it comes from the method {name}()")

    # Files

    def path(self, value: object) -> str:
        value = self.known(value)
        if isinstance(value, _Path):
            return value.path
        if isinstance(value, str):
            return str(value)
        raise _Stop("a file name is not known")

    def opened(self, value: object, mode: object) -> _File:
        """A file that is opened to be read or written."""
        path, binary = self.path(value), isinstance(mode, str) and "b" in mode
        if not isinstance(mode, str) or mode.strip("rbtU") == "":
            return _File(path, binary)
        self.effects.opened(self.written(path), binary=binary, keep=not ("w" in mode or "x" in mode))
        return _File(path, binary, writes=True)

    def write(self, file: _File, content: object, *, whole: bool = False) -> object:
        """Something is written to a file, after what is in it or instead of that."""
        path = self.written(file.path)
        before = (b"" if file.binary else "") if whole else self.effects.files.get(path)
        if isinstance(content, bytearray):
            content = bytes(content)
        if isinstance(content, _Unknown):
            content = Unsure(content.reason)
        elif any(isinstance(before, kind) and isinstance(content, kind) for kind in (str, bytes)):
            origin = _origin(before) if _origin(before) != ("", ()) else _origin(content)
            content = _marked(self.bounded(before + content, COPY), origin)
        else:
            content = before if isinstance(before, Unsure) else Unsure("it is no text, or no bytes")
        self.effects.write(path, content)
        return UNSEEN

    def change_variables(self, how: str, arguments: list, keywords: dict) -> object:
        """os.environ.update(), setdefault() and pop(), os.putenv()."""
        if how == "update":
            given = arguments[0] if arguments and isinstance(arguments[0], dict) else {}
            for name, value in {**given, **keywords}.items():
                self.set_variable(name, value)
            return UNSEEN
        name = arguments[0] if arguments else UNSEEN
        there = isinstance(name, str) and (name in self.effects.variables or name in self.environment)
        if how == "pop" and there:
            self.set_variable(name, UNSEEN)
        elif how == "putenv" or (how == "setdefault" and not there):
            self.set_variable(name, arguments[1] if len(arguments) > 1 else UNSEEN)
        return self.variable(name, UNSEEN) if isinstance(name, str) else UNSEEN

    def file(self, path: str) -> tuple[str, bytes] | None:
        """The file of the folder that a path means, from the folder of the script or any folder above it."""
        path = posixpath.normpath(path.lstrip("/")) if path else ""
        parts = [part for part in path.split("/") if part not in ("..", ".")]
        here = posixpath.dirname(self.source.path)
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            for candidate in dict.fromkeys((posixpath.join(here, tail), tail)):
                if start and candidate == self.source.path:
                    continue  # another folder's file of the same name
                data = self.read_file(candidate)
                if data is not None:
                    return candidate, data
        return None

    def contents(self, value: object, binary: bool = False) -> object:
        """What is in a file of the folder."""
        if isinstance(value, _Unknown):
            return value
        try:
            path = self.path(value)
            written = self.written(path)
            held = self.effects.file(written)
            if held is not None:
                return self.from_written(written, held, binary)
            found = self.file(path)
        except _Stop as stop:
            return _Unknown(str(stop))
        except OSError as error:
            return _Unknown(f"a file cannot be read: {error.strerror}")
        if found is None:
            return _Unknown(f"there is no file {path[:100]!r} in the folder")
        name, data = found
        self.bounded(data)
        if binary:
            return _marked(data, (name, ()))
        try:
            return _marked(decode(data), (name, ()))
        except Unreadable as error:
            return _Unknown(f"{name[:100]} {error}")

    def from_written(self, path: str, held: object, binary: bool) -> object:
        """What is read from a file that was written before."""
        if isinstance(held, Unsure):
            return _Unknown(held.reason)
        shown = shown_path(path)
        self.read_back[shown] = (path, held)
        origin = (_origin(held)[0], (*_origin(held)[1], shown))
        if binary and isinstance(held, str):
            held = held.encode()
        elif not binary and isinstance(held, bytes):
            try:
                held = decode(held)
            except Unreadable as error:
                return _Unknown(f"{shown[:100]} {error}")
        return _marked(self.bounded(held, COPY), origin)


def _parent(path: str) -> str:
    """The folder that holds a file or folder; above the root of what is checked, by dots."""
    return posixpath.join(path, "..") if posixpath.basename(path) in ("", "..") else posixpath.dirname(path)


def _parents(path: str) -> Iterator[str]:
    while True:
        path = _parent(path)
        yield path


def _is_environment(value: object) -> bool:
    return isinstance(value, _Named) and value.name == "os.environ"


def _named(name: str) -> object:
    """Something of a module, or its value if that is a constant."""
    return CONSTANTS.get(name, _Named(name))


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions, outer ones before those inside them. Expressions hold none and are not looked at."""
    level: list[ast.AST] = [tree]
    while level:
        yield from (node for node in level if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        level = [
            inner
            for node in level
            for name in ("body", "handlers", "orelse", "finalbody", "cases")
            for inner in getattr(node, name, ())
        ]


def _stored_names(statement: ast.stmt) -> list[str]:
    """The names that are given values in a statement, in order of their depth."""
    found = []
    level: list[ast.AST] = [statement]
    while level:
        found += [node.id for node in level if type(node) is ast.Name and type(node.ctx) is ast.Store]
        level = [child for node in level for child in children(node)]
    return found


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    return named + [extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None]


def _as_load(target: ast.expr) -> ast.expr:
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    return target


def _equal(left: object, right: object) -> bool:
    return any(isinstance(left, kind) and isinstance(right, kind) and left == right for kind in COMPARABLE)


# What may be called. Decompressors stop at the limit; the largest value is checked before it is made.


@dataclass(frozen=True)
class _Decompressor:
    function: Callable[[bytes], bytes]
    layer: str


def _as_bytes(data: object) -> bytes:
    if isinstance(data, str):
        return data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise TypeError("what is to be unpacked is no bytes")
    return bytes(data)


def _too_large() -> _Stop:
    return _Stop(f"it unpacks to more than {MAX_BYTES:,} bytes")


def _inflate(data: object, wbits: int = zlib.MAX_WBITS, bufsize: int = 0) -> bytes:
    unpacker = zlib.decompressobj(wbits)
    made = unpacker.decompress(_as_bytes(data), MAX_BYTES + 1)
    if len(made) > MAX_BYTES:
        raise _too_large()
    if not unpacker.eof:
        raise _Stop("its compressed data end too early")
    return made


def _gunzip(data: object) -> bytes:
    return _inflate(data, 31)


def _unlzma(data: object, format: int = lzma.FORMAT_AUTO, memlimit: object = None, filters: object = None) -> bytes:
    memory = None if format == lzma.FORMAT_RAW else 256_000_000
    chain = None
    if filters is not None:
        if not isinstance(filters, list | tuple):
            raise _Stop("its filters are not known")
        chain = [{key: value for key, value in dict(one).items() if isinstance(value, int)} for one in filters]
        if any(one.get("dict_size", 0) > 256_000_000 for one in chain):
            raise _Stop("its dictionary is too large")
    unpacker = lzma.LZMADecompressor(format, memory, chain)
    made = unpacker.decompress(_as_bytes(data), MAX_BYTES + 1)
    if len(made) > MAX_BYTES:
        raise _too_large()
    return made


def _bunzip(data: object) -> bytes:
    made = bz2.BZ2Decompressor().decompress(_as_bytes(data), MAX_BYTES + 1)
    if len(made) > MAX_BYTES:
        raise _too_large()
    return made


def _unbrotli(data: object) -> bytes:
    import brotli  # here, because few scripts need it

    unpacker = brotli.Decompressor()
    try:
        made = [unpacker.process(_as_bytes(data), output_buffer_limit=1_000_000)]
        while not unpacker.is_finished():
            made.append(unpacker.process(b"", output_buffer_limit=1_000_000))
            if not made[-1]:
                raise _Stop("its compressed data end too early")
            if sum(map(len, made)) > MAX_BYTES:
                raise _too_large()
    except brotli.error as error:
        raise _Stop(f"it is not brotli's: {error}") from None
    return b"".join(made)


def _codec(data: object, encoding: object = "utf-8", errors: object = "strict") -> object:
    name = str(encoding).lower().replace("_", "-")
    match name:
        case "base64" | "base-64":
            return base64.b64decode(_as_bytes(data))
        case "hex" | "hex-codec":
            return binascii.unhexlify(_as_bytes(data))
        case "zlib" | "zip":
            return _inflate(data)
        case "bz2":
            return _bunzip(data)
        case "rot13" | "rot-13":
            return codecs.decode(str(data), "rot13")
    if name not in ENCODINGS:
        raise _Stop(f"it is encoded as {name[:40]!r}")
    return _as_bytes(data).decode(name)


def _bytes_of(value: object = b"", encoding: object = None) -> bytes:
    if isinstance(value, int) and value > MAX_BYTES:
        raise _too_large()
    if isinstance(value, str) and str(encoding).lower() in ENCODINGS:
        return value.encode(str(encoding))
    if isinstance(value, int | bytes | bytearray):
        return bytes(value)
    return bytes(_few(value))


def _text_of(value: object = "", encoding: object = None, errors: object = "strict") -> str:
    if isinstance(value, bytes) and encoding is not None and str(encoding).lower() in ENCODINGS:
        return value.decode(str(encoding))
    if isinstance(value, str | int | bool):
        return str(value)
    if isinstance(value, _Path):
        return value.path
    raise _Stop("it is formatted text")


def _few(items: object = ()) -> list:
    """The items, if they are a list, text or range of not too many."""
    if not isinstance(items, str | bytes | list | tuple | range | dict) or len(items) > MAX_ITEMS:
        raise _Stop("it is made of too many items")
    return list(items)


def _least(*items: object) -> object:
    return min(_few(items[0]) if len(items) == 1 else items)


def _most(*items: object) -> object:
    return max(_few(items[0]) if len(items) == 1 else items)


def _pairs(*rows: object) -> list:
    return [tuple(pair) for pair in zip(*map(_few, rows), strict=False)]


WRITES = frozenset({"write", "writelines", "write_text", "write_bytes"})
# What is given the path of a file and does not change what is in it, or runs it, which is looked at elsewhere.
HARMLESS = (
    *("builtins.print", "builtins.len", "builtins.isinstance", "builtins.exec", "builtins.eval", "builtins.compile"),
    *("builtins.getattr", "builtins.open", "os.path.", "posixpath.", "os.remove", "os.unlink", "os.chmod", "os.stat"),
    *("os.makedirs", "os.mkdir", "os.access", "os.environ", "os.exec", "os.spawn", "os.system", "os.putenv"),
    "os.close",
    *("sys.", "fcntl.", "shutil.rmtree", "atexit.", "subprocess.", "runpy.", "importlib.", "imp.", "logging."),
)
HARMLESS_TO_OPEN = ("fcntl.", "os.close", "os.fsync", "os.fstat", "builtins.isinstance")  # files that are written
ENCODINGS = frozenset(("utf-8", "utf8", "utf_8", "utf-8-sig", "ascii", "latin-1", "latin1", "latin_1", "iso-8859-1"))
METHODS = frozenset(
    (
        *("encode", "decode", "replace", "strip", "lstrip", "rstrip", "join", "split", "rsplit", "splitlines"),
        *("partition", "rpartition", "lower", "upper", "swapcase", "translate", "removeprefix", "removesuffix"),
        *("hex", "find", "rfind", "index", "rindex", "startswith", "endswith", "count", "__getitem__"),
    )
)
LAYERS = {
    "lzma.decompress": "lzma",
    "zlib.decompress": "zlib",
    "gzip.decompress": "gzip",
    "bz2.decompress": "bz2",
    "brotli.decompress": "brotli",
    "base64.b64decode": "base64",
    "base64.standard_b64decode": "base64",
    "base64.urlsafe_b64decode": "base64",
    "base64.decodebytes": "base64",
    "base64.b32decode": "base32",
    "base64.b16decode": "hex",
    "base64.b85decode": "base85",
    "base64.a85decode": "ascii85",
    "binascii.a2b_base64": "base64",
    "binascii.unhexlify": "hex",
    "binascii.a2b_hex": "hex",
    "builtins.bytes.fromhex": "hex",
    "codecs.decode": "codec",
    "urllib.parse.unquote": "url",
}
CALLS: dict[str, Callable] = {
    "lzma.decompress": _unlzma,
    "lzma.LZMADecompressor": lambda *words, **named: _Decompressor(lambda data: _unlzma(data, *words, **named), "lzma"),
    "zlib.decompress": _inflate,
    "zlib.decompressobj": lambda wbits=zlib.MAX_WBITS: _Decompressor(lambda data: _inflate(data, wbits), "zlib"),
    "gzip.decompress": _gunzip,
    "bz2.decompress": _bunzip,
    "bz2.BZ2Decompressor": lambda: _Decompressor(_bunzip, "bz2"),
    "brotli.decompress": _unbrotli,
    "brotli.Decompressor": lambda: _Decompressor(_unbrotli, "brotli"),
    "base64.b64decode": base64.b64decode,
    "base64.standard_b64decode": base64.standard_b64decode,
    "base64.urlsafe_b64decode": base64.urlsafe_b64decode,
    "base64.decodebytes": base64.decodebytes,
    "base64.b32decode": base64.b32decode,
    "base64.b16decode": base64.b16decode,
    "base64.b85decode": base64.b85decode,
    "base64.a85decode": base64.a85decode,
    "binascii.a2b_base64": binascii.a2b_base64,
    "binascii.unhexlify": binascii.unhexlify,
    "binascii.a2b_hex": binascii.unhexlify,
    "codecs.decode": _codec,
    "urllib.parse.unquote": urllib.parse.unquote,
    "builtins.bytes": _bytes_of,
    "builtins.bytearray": _bytes_of,
    "builtins.bytes.fromhex": bytes.fromhex,
    "builtins.bytearray.fromhex": bytes.fromhex,
    "builtins.memoryview": _as_bytes,
    "builtins.str": _text_of,
    "builtins.chr": chr,
    "builtins.ord": ord,
    "builtins.int": lambda value=0, base=None: int(value) if base is None else int(value, base),
    "builtins.len": len,
    "builtins.min": _least,
    "builtins.max": _most,
    "builtins.range": range,
    "builtins.list": _few,
    "builtins.tuple": lambda items=(): tuple(_few(items)),
    "builtins.reversed": lambda items: _few(items)[::-1],
    "builtins.sorted": lambda items: sorted(_few(items)),
    "builtins.zip": _pairs,
    "builtins.enumerate": lambda items, start=0: list(enumerate(_few(items), start)),
    "builtins.dict": lambda **named: dict(named),
}
BUILTINS = frozenset(
    (
        *(name.split(".")[1] for name in CALLS if name.startswith("builtins.")),
        *("exec", "eval", "execfile", "compile", "getattr", "vars", "globals", "locals", "open", "map", "__import__"),
        *("print", "isinstance", "hasattr", "setattr", "type", "super", "float", "bool", "sum", "any", "all", "set"),
        *("input", "iter", "next", "abs", "round", "id", "hash", "repr", "format", "filter", "object", "property"),
    )
)
CONSTANTS = {
    "lzma.FORMAT_RAW": lzma.FORMAT_RAW,
    "lzma.FORMAT_XZ": lzma.FORMAT_XZ,
    "lzma.FORMAT_ALONE": lzma.FORMAT_ALONE,
    "lzma.FORMAT_AUTO": lzma.FORMAT_AUTO,
    "lzma.FILTER_LZMA1": lzma.FILTER_LZMA1,
    "lzma.FILTER_LZMA2": lzma.FILTER_LZMA2,
    "lzma.FILTER_DELTA": lzma.FILTER_DELTA,
    "lzma.FILTER_X86": lzma.FILTER_X86,
    "zlib.MAX_WBITS": zlib.MAX_WBITS,
}
