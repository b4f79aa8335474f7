"""The sources of one entry point as a whole: modules, scopes, functions, classes, constants and what can be reached.

Nothing is executed. An expression is folded to the set of values that it may have (`Program.values`), of which plain
Python values, functions, classes, instances and modules of the program are known, and everything else is UNKNOWN.
Folding knows os.environ with the documented run command's variables, argparse with its flags, class attributes,
dataclasses, parameters (by their call sites) and small local functions. Bindings of a name are joined whatever their
order, except those that cannot be reached. A run is judged as the rules name it: 8 GPUs on one node.

scope        a module, class, function or lambda; names are looked up in it and outwards
reachable    True: runs unless something before it fails; UNKNOWN: may run; False: cannot run under the constants
"""

from __future__ import annotations

import ast
import copy
import math
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from harness.compliance import parsing
from harness.compliance.findings import Place, Source
from harness.compliance.operators import BINARY, COMPARE, UNARY
from harness.compliance.parsing import Unreadable, children, heads
from harness.compliance.writes import Writes

MAX_VALUES = 8  # of one expression; more are UNKNOWN
MAX_FOLDING_DEPTH = 60
MAX_INLINING_DEPTH = 5
MAX_FOLDED_STATEMENTS = 40  # of a function
MAX_OTHER_NAMES = 100  # of a container; one with more is taken to be changed
MAX_CONSTANT_LENGTH = 1_000_000
MAX_INTEGER_BITS = 512

WORLD_SIZE = 8
GPU_ENVIRONMENT = {"WORLD_SIZE": str(WORLD_SIZE), "LOCAL_WORLD_SIZE": str(WORLD_SIZE)}
RANK_VARIABLES = frozenset({"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"})  # set, and different


class Unknown:
    """The type of UNKNOWN. It is true, as "may be" must not be skipped; compare with `is`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()
ONLY_UNKNOWN = (UNKNOWN,)


@dataclass(unsafe_hash=True, slots=True)
class External:
    """A name of a package that is not part of the program, as it is imported there: "torch.compile", "builtins.int"."""

    name: str


@dataclass(eq=False, slots=True)
class Scope:
    """A module, class, function or lambda. bindings: every statement that gives a name of this scope a value.
    frame: values of parameters where a call is folded by inlining."""

    node: ast.AST
    module: Module
    parent: Scope | None
    name: str
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    outer: set[str] = field(default_factory=set)  # declared global or nonlocal
    mutated: set[str] = field(default_factory=set)  # names of containers that are changed in place
    frame: dict[str, tuple] | None = None
    function: Function | None = None
    class_: Class | None = None

    @property
    def body(self) -> list[ast.stmt]:
        """Its statements; a lambda has none."""
        return self.node.body if isinstance(self.node.body, list) else []


@dataclass(eq=False, slots=True)
class Module:
    """One source. name: as the program's other modules import it; the entry is "__main__" to itself."""

    source: Source
    name: str
    tree: ast.Module
    runs_as_main: bool = False
    scope: Scope = field(init=False)


@dataclass(eq=False, slots=True)
class Function:
    """A function, method or lambda. name: qualified with the module ("train_gpt.GPT.forward"). parameters: all names,
    in order, with the starred ones."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    module: Module
    parameters: tuple[str, ...]
    scope: Scope
    class_: Class | None = None

    @property
    def short_name(self) -> str:
        return getattr(self.node, "name", "<lambda>")


@dataclass(eq=False, slots=True)
class Class:
    """A class of the program. methods: its own, by name. attributes: `self.name = value` in its methods."""

    name: str
    node: ast.ClassDef
    module: Module
    scope: Scope
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, list[tuple[ast.expr | None, Scope]]] = field(default_factory=dict)


@dataclass(unsafe_hash=True, slots=True)
class Instance:
    """An object that a call of a class of the program made."""

    class_: Class
    call: ast.Call
    scope: Scope


@dataclass(unsafe_hash=True, slots=True)
class BoundMethod:
    """A method taken from an instance: its first parameter is that instance."""

    function: Function
    instance: Instance


@dataclass(unsafe_hash=True, slots=True)
class Result:
    """What a call of something external returned."""

    callee: External
    call: ast.Call
    scope: Scope


class LiveNode(NamedTuple):
    """A node that can run. sure: whether it does."""

    node: ast.AST
    statement: ast.stmt
    scope: Scope
    sure: bool | Unknown


@dataclass(frozen=True)
class ExternalCall:
    """name: dotted, of what is called. sure: whether it runs."""

    name: str
    node: ast.Call
    statement: ast.stmt
    scope: Scope
    sure: bool | Unknown


@dataclass(eq=False, slots=True)
class Binding:
    """kind: "value" (path: indices into it, for unpacking), "augmented" (`+=` and the like), "element" (of the iterated
    value), "import", "function", "class", "parameter" or "unknown"."""

    kind: str
    statement: ast.AST
    scope: Scope
    value: ast.expr | None = None
    path: tuple[int, ...] = ()
    target: object = None  # of imports: dotted name; else Function or Class


@dataclass(slots=True)
class _Looked:
    """How many statements of a block were looked at, and the place of the first after which the next is never run."""

    count: int = 0
    end: float = math.inf


def parse(source: Source) -> ast.Module:
    """The syntax tree of a source. Raises Unreadable for what is too large, too deep or no Python."""
    try:
        return parsing.parse(source.text.removeprefix("\ufeff")).tree
    except Unreadable as error:
        raise Unreadable(f"{source.name} {error}", error.line) from None


def load_program(
    sources: Sequence[Source],
    entry: Source,
    environment: Mapping[str, str],
    arguments: Sequence[str],
    unknown: Collection[str] = (),
) -> Program:
    """The program that `entry` starts. environment and arguments are those of the documented run command, unknown the
    names of variables that it sets to something that cannot be read from it. Sources that cannot be parsed are in
    `unreadable`, except the entry: raises Unreadable."""
    parse(entry)
    return Program(sources, entry, environment, arguments, unknown)


NONE_IF_MISSING = frozenset(("get", "pop", "setdefault", "match", "search", "fullmatch", "find_spec", "which"))
PURE = {
    f"builtins.{function.__name__}": function
    for function in (
        int,
        float,
        str,
        bool,
        len,
        min,
        max,
        abs,
        round,
        sum,
        tuple,
        list,
        dict,
        set,
        sorted,
        any,
        all,
        repr,
    )
} | {
    "math.sqrt": math.sqrt,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.log": math.log,
    "math.log2": math.log2,
    "math.exp": math.exp,
    "os.path.join": posixpath.join,
    "os.path.basename": posixpath.basename,
    "os.path.dirname": posixpath.dirname,
    "os.path.abspath": lambda path: path,
    "os.path.expanduser": lambda path: path,
    "os.fspath": str,
    "pathlib.Path": posixpath.join,
    "torch.cuda.device_count": lambda: WORLD_SIZE,
    "torch.distributed.get_world_size": lambda: WORLD_SIZE,
    "torch.cuda.is_available": lambda: True,
}
STRING_METHODS = frozenset(
    {
        "lower",
        "upper",
        "strip",
        "lstrip",
        "rstrip",
        "split",
        "startswith",
        "endswith",
        "replace",
        "join",
        "format",
        "title",
        "removeprefix",
        "removesuffix",
        "isdigit",
        "partition",
        "rpartition",
        "count",
        "find",
        "encode",
        "decode",
        "get",
        "keys",
        "values",
        "items",
        "index",
        "copy",
        "resolve",
        "absolute",
        "expanduser",
        "as_posix",
    }
)
MODULE_LOADERS = {  # -> which argument says what is loaded
    "importlib.util.spec_from_file_location": (1, "location"),
    "importlib.util.module_from_spec": (0, "spec"),
    "importlib.import_module": (0, "name"),
}
RUNNERS = ("builtins.exec", "runpy.", "subprocess.", "os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn")
PATH_METHODS = frozenset({"resolve", "absolute", "expanduser", "as_posix"})  # of pathlib.Path, folded to its text
WRAPPERS = frozenset(
    {  # calls that give back their first argument, as far as calling it goes
        "torch.compile",
        "torch.jit.script",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.DataParallel",
        "copy.deepcopy",
        "copy.copy",
        "functools.partial",
        "functools.lru_cache",
        "functools.cache",
        "functools.wraps",
        "torch._dynamo.disable",
        "torch.compiler.disable",
        "torch.no_grad",
        "torch.inference_mode",
        "typing.cast",
        "builtins.staticmethod",
        "builtins.classmethod",
        "mx.compile",
        "mlx.core.compile",
        "mlx.nn.value_and_grad",
        "torch.func.functional_call",
        "torch.set_grad_enabled",
    }
)
SAME_MODULE = frozenset(
    {  # methods of torch modules that return the module
        "to",
        "cuda",
        "cpu",
        "half",
        "float",
        "bfloat16",
        "double",
        "eval",
        "train",
        "requires_grad_",
        "share_memory",
        "compile",
        "apply",
        "to_empty",
    }
)
PASSIVE_DECORATORS = WRAPPERS | frozenset(
    {  # decorators that do not call or register what they decorate
        "builtins.property",
        "abc.abstractmethod",
        "dataclasses.dataclass",
        "contextlib.contextmanager",
        "functools.cached_property",
        "triton.jit",
        "triton.autotune",
        "triton.heuristics",
        "torch.library.custom_op",
        "torch.jit.ignore",
        "torch.jit.unused",
        "torch.autograd.function.once_differentiable",
        "typing.overload",
        "numba.njit",
        "numba.jit",
        "torch.jit.export",
        "torch.library.triton_op",
        "torch.enable_grad",
        "numba.prange",
        "typing.final",
        "torch.amp.custom_fwd",
        "torch.amp.custom_bwd",
        "torch.cuda.amp.custom_fwd",
        "torch.cuda.amp.custom_bwd",
        "torch._dynamo.allow_in_graph",
    }
)
EXITS = frozenset({"sys.exit", "os._exit", "builtins.exit", "builtins.quit", "os.abort"})
MUTATORS = frozenset(
    {
        "append",
        "extend",
        "insert",
        "remove",
        "pop",
        "clear",
        "update",
        "setdefault",
        "add",
        "discard",
        "sort",
        "reverse",
        "popitem",
        "appendleft",
        "popleft",
    }
)
PLAIN_TYPES = frozenset({type(None), bool, int, float, str, bytes, tuple, list, dict, set, range})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SCOPES = (*FUNCTIONS, ast.ClassDef, ast.Lambda)
OWN_BODY = frozenset({*SCOPES, ast.Module})
MENTIONS = frozenset({ast.Name, ast.Attribute, ast.Call, ast.Lambda, ast.Import, ast.ImportFrom, *FUNCTIONS})
LISTED = frozenset({ast.Call, ast.Compare, ast.Subscript, ast.For, ast.AsyncFor, ast.While, ast.Import, ast.ImportFrom})
KEPT = MENTIONS | LISTED  # of what can run, these nodes are kept
COMPOUND = frozenset(
    {ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match}
)
MAY_END = frozenset(
    {ast.Return, ast.Raise, ast.Break, ast.Continue, ast.Expr, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.While}
)
COMPREHENSIONS = frozenset({ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp})


class Program:
    """See the module. modules: by name. functions: by qualified name (a redefinition has its line appended).
    classes: by qualified name. entry: the module that is run. unreadable: sources and why. reached: the functions that
    the entry point can call, True or UNKNOWN; those missing cannot be called."""

    def __init__(
        self,
        sources: Sequence[Source],
        entry: Source,
        environment: Mapping[str, str],
        arguments: Sequence[str],
        unknown: Collection[str] = (),
    ) -> None:
        self.environment = {**GPU_ENVIRONMENT, **environment}
        self.unknown = RANK_VARIABLES | set(unknown)  # variables that are set, but not to what
        self.logged: frozenset[str] = frozenset()  # variables of the environment that only logs tell of
        self.documented: Program | None = None  # what was to be started, where logs show that something else was
        self.log_texts: tuple[str, ...] = ()  # of runs of this program
        self.claims: object = None  # what its submission says of its score
        self.only_adapts = False  # whether its tokens were followed, and all that it learns from are of validation
        self.whole = True  # whether all code that it executes is here
        self.expanded: frozenset[str] = frozenset()  # variables that the shell script which starts it makes use of
        self.idle = False  # whether its tokens were followed, and it neither trains nor scores
        self.arguments = tuple(arguments)
        self.modules: dict[str, Module] = {}
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, Class] = {}
        self.unreadable: list[tuple[Source, str]] = []
        self.scope_of: dict[ast.AST, Scope] = {}  # of a function, lambda, class or module node: its own scope
        self.reached: dict[Function, bool | Unknown] = {}
        self.reached_modules: dict[Module, bool | Unknown] = {}
        self._owner: dict[ast.stmt, tuple[ast.AST, list[ast.stmt], int, Scope]] = {}
        self._comprehension_names: dict[ast.Name, ast.comprehension] = {}
        self._calls: dict[str, list[tuple[ast.Call, ast.stmt, Scope]]] = {}  # by the callee's last name
        self._linked: set[str] = set()  # names that are bound to a function, a class or an import somewhere
        self._mentions: dict[str, int] = {}  # loads of a name that are not calls of it
        self._stores: dict[str, list[tuple[ast.expr, ast.expr | None, Scope]]] = {}  # obj.name = value
        self._methods: dict[str, list[Function]] = {}
        self._mutated: set[str] = set()  # attributes whose containers are changed in place
        self._aliases: dict[str, list[tuple[ast.expr, Scope]]] = {}  # targets of `target = name`, by the name
        self._handed: dict[str, list[tuple[ast.Call, Scope]]] = {}  # calls that pass a name, by the name
        self._items: list[tuple[ast.expr, ast.expr, ast.expr | None, Scope, ast.AST]] = []  # base[key] = value
        self._augmented: list[tuple[ast.AugAssign, Scope]] = []  # mapping |= others
        self.spread: list[tuple[ast.Dict, Scope, ast.AST]] = []  # {**others}
        self._values: dict[tuple[ast.AST, Scope], tuple] = {}
        self._names: dict[tuple[Scope, str], tuple] = {}
        self._parameters: dict[tuple[Function, str], tuple] = {}
        self._local: dict[tuple[ast.stmt, Scope], bool | Unknown] = {}
        self._ends: dict[tuple[int, Scope], _Looked] = {}
        self._live: dict[Scope, list[tuple[list[ast.AST], ast.stmt, bool | Unknown]]] = {}
        self._live_whole: dict[Scope, list[tuple[ast.AST, ast.stmt, bool | Unknown]]] = {}
        self._live_by_kind: dict[type, list[LiveNode]] | None = None
        self._flat: dict[ast.expr, list[ast.AST]] = {}  # what of KEPT is in an expression without conditions
        self._return_statements: dict[Function, list[ast.Return]] = {}
        self._foldable: dict[Function, bool] = {}
        self._generators: set[Scope] = set()  # functions whose body yields
        self._depth = 0
        self._inlining = 0
        for source in (entry, *(source for source in sources if source != entry)):
            try:
                tree = parse(source)
            except Unreadable as error:
                self.unreadable.append((source, str(error)))
                continue
            name = module_name(source)
            while name in self.modules:
                name += "'"
            if tree in self.scope_of:  # a file with the same text: nodes belong to one module
                tree = copy.deepcopy(tree)
            module = Module(source, name, tree)
            self.modules[name] = module
            _Indexer(self, module).index()
        self.entry = next(iter(self.modules.values()))
        for module in self.modules.values():
            module.runs_as_main = module.source.path == entry.path and module.source.file == entry.file
        self._name_packed()
        self._writes = Writes(self, UNKNOWN, self._items, self._augmented)
        if self._writes.prepare():
            for folded in (self._values, self._names, self._parameters, self._local, self._ends):
                folded.clear()
        self._explore()

    def _name_packed(self) -> None:
        """What is packed in a file is what other modules import by the file's name, if the file itself defines
        nothing. What is written to a file is imported by the name of that file."""
        packed: dict[str, list[Module]] = {}
        for module in self.modules.values():
            if module.source.layers:
                packed.setdefault(module_name(Source(module.source.file, "")), []).append(module)
        for name, layers in packed.items():
            file = self.modules.get(name)
            deepest = max(len(one.source.layers) for one in layers)
            inner = [one for one in layers if _defines(one)]
            inner = inner or [one for one in layers if len(one.source.layers) == deepest]
            if len(inner) != 1:
                continue
            (only,) = inner
            if file is None:
                del self.modules[only.name]
                self.modules[name], only.name = only, name
            elif not _defines(file):
                self.modules[name], self.modules[only.name] = only, file
                file.name, only.name = only.name, name

    @cached_property
    def _executed_in(self) -> dict[Module, list[Module]]:
        """The texts that a module executes as if they were its own."""
        found: dict[Module, list[Module]] = {}
        for module in self.modules.values():
            *outer, last = module.source.layers or ("",)
            if last.split(" ")[0] in ("exec", "eval"):
                path = module.source.path
                for other in self.modules.values():
                    if other.source.path == path and other.source.layers == tuple(outer):
                        found.setdefault(other, []).append(module)
        return found

    # -- what callers ask ------------------------------------------------------------------------------------------

    def constant(self, node: ast.expr, scope: Scope) -> object:
        """The plain value of an expression (None, numbers, text, bytes and containers of them), or UNKNOWN."""
        values = self.values(node, scope)
        return values[0] if len(values) == 1 and _plain(values[0]) else UNKNOWN

    def constants(self, node: ast.expr, scope: Scope) -> tuple:
        """All the plain values that an expression may have; (UNKNOWN,) or with UNKNOWN where there may be others."""
        return _unique(value if _plain(value) else UNKNOWN for value in self.values(node, scope))

    def resolve(self, call: ast.Call, scope: Scope) -> Function | None:
        """The function of the program that a call runs, if it is one for certain: of a class `__init__`, of an instance
        `__call__` or `forward`."""
        functions = self.callees(call, scope)
        return functions[0] if len(functions) == 1 and UNKNOWN not in self.values(call.func, scope) else None

    def callees(self, call: ast.Call, scope: Scope) -> tuple[Function, ...]:
        """All functions of the program that a call may run, as far as the callee is known."""
        holders = self._holders if type(call.func) is ast.Attribute else None
        if holders is not None and call.func.attr not in holders:
            return ()  # most calls are of methods of tensors
        found = []
        for value in self.values(call.func, scope):
            function = None if value is UNKNOWN else self.function_of(value)
            if function is not None and function not in found:
                found.append(function)
        return tuple(found)

    @cached_property
    def _holders(self) -> set[str] | None:
        """The names under which something of the program may have a function of the program; None if any may do."""
        if any("SimpleNamespace" in module.source.text for module in self.modules.values()):
            return None
        found = set(self._stores)
        for class_ in self.classes.values():
            found.update(class_.attributes, class_.scope.bindings)
        for module in self.modules.values():
            found.update(module.scope.bindings)
        return found

    def function_of(self, value: object) -> Function | None:
        """What runs when a value is called."""
        if isinstance(value, Function):
            return value
        if isinstance(value, BoundMethod):
            return value.function
        if isinstance(value, Class):
            return self.method(value, "__init__")
        if isinstance(value, Instance):
            return self.method(value.class_, "__call__") or self.method(value.class_, "forward")
        return None

    def external(self, node: ast.expr, scope: Scope) -> str | None:
        """The dotted name of something that is not of the program ("torch.optim.Adam", "builtins.open"), however it was
        imported or renamed; None for anything else."""
        values = self.values(node, scope)
        return values[0].name if len(values) == 1 and type(values[0]) is External else None

    def method(self, class_: Class, name: str) -> Function | None:
        """A method of a class of the program, its bases included."""
        for one in self.bases(class_):
            if name in one.methods:
                return one.methods[name]
        return None

    def bases(self, class_: Class) -> list[Class]:
        """A class and its bases that are of the program, nearest first."""
        found = [class_]
        for one in found:
            for base in one.node.bases:
                found += [
                    value
                    for value in self.values(base, one.scope.parent)
                    if isinstance(value, Class) and value not in found
                ]
        return found

    def foreign_bases(self, class_: Class) -> set[str]:
        """The dotted names of the bases that are not of the program; "?" for those that are unknown."""
        names = set()
        for one in self.bases(class_):
            for base in one.node.bases:
                for value in self.values(base, one.scope.parent):
                    if not isinstance(value, Class):
                        names.add(value.name if isinstance(value, External) else "?")
        return names

    def is_reached(self, one: Function | Class) -> bool:
        """Whether the entry point may call a function or make use of a class."""
        return one in self.reached or one in self._classes_reached

    def scope_reached(self, scope: Scope) -> bool | Unknown:
        """Whether the body of a scope can run at all."""
        while scope.function is None and scope.parent is not None:
            scope = scope.parent
        if scope.function is not None:
            return self.reached.get(scope.function, False)
        return self.reached_modules.get(scope.module, False)

    def live(self, scope: Scope) -> Iterator[tuple[ast.AST, ast.stmt, bool | Unknown]]:
        """Every node of a scope's own body that can run, with its statement and how sure that is, in order of the text.
        Bodies of nested functions and lambdas are scopes of their own; those of classes are walked here."""
        start = self.scope_reached(scope)
        if start is not False:
            found = self._live_whole.get(scope)
            if found is None:
                found = self._live_whole[scope] = self._walk(scope, True)
            if start is True:
                yield from found
            else:
                for node, statement, sure in found:
                    yield node, statement, _both(start, sure)

    def _walk(self, scope: Scope, whole: bool) -> list[tuple]:
        """What runs when a scope's body does: nodes, or without `whole` lists of nodes of `KEPT`, each with its
        statement and how sure that is."""
        if not isinstance(scope.node, ast.Lambda):
            return self._live_block(scope.body, scope, True, whole, [])
        found: list[tuple] = []
        self._live_expression(scope.node.body, ast.Expr(scope.node.body), scope, True, whole, found)
        return found

    def _live_nodes(self, scope: Scope) -> list[tuple[list[ast.AST], ast.stmt, bool | Unknown]]:
        found = self._live.get(scope)
        if found is None:
            found = self._live[scope] = self._walk(scope, False)
        return found

    def live_of(self, *kinds: type) -> Sequence[LiveNode]:
        """Every node of some types (of `LISTED`) that can run, with its statement, scope and how sure that is."""
        if self._live_by_kind is None:
            self._live_by_kind = {}
            for scope in self.live_scopes():
                start = self.scope_reached(scope)
                for nodes, statement, sure in self._live_nodes(scope):
                    for node in nodes:
                        kind = type(node)
                        if kind in LISTED:
                            one = LiveNode(node, statement, scope, sure if start is True else _both(start, sure))
                            self._live_by_kind.setdefault(kind, []).append(one)
        if len(kinds) == 1:
            return self._live_by_kind.get(kinds[0], [])
        return [one for kind in kinds for one in self._live_by_kind.get(kind, ())]

    def foreign_imports(self, node: ast.Import | ast.ImportFrom) -> list[str]:
        """The dotted names that an import statement binds to what is not of the program."""
        own = {part for name in self.modules for part in name.split(".")}
        names = imported_names(node)
        return [one for one in names if one.split(".")[0] not in own and isinstance(self._imported(one), External)]

    def mentions(self, attribute: str) -> bool:
        """Whether code that can run has an attribute or method of that name."""
        return attribute in self._names_reached

    def calls_named(self, name: str) -> Sequence[tuple[ast.Call, ast.stmt, Scope]]:
        """The calls, with statement and scope, of what has that name last."""
        return self._calls.get(name, ())

    def stores_of(self, name: str, made: bool = True) -> list[tuple[ast.expr, ast.expr | None, Scope]]:
        """What the attribute of that name is given: object, value and scope. made: to be added to."""
        return self._stores.setdefault(name, []) if made else self._stores.get(name, [])

    def attribute_stores(self) -> Iterator[tuple[str, ast.expr, Scope]]:
        """Attributes that are given something, by `object.name = value` or setattr: name, object and scope."""
        for name, stores in self._stores.items():
            for receiver, _, scope in stores:
                yield name, receiver, scope
        for receiver, write in self._writes.of_objects:
            for name in self.values(write.name, write.scope) if write.name is not None else ():
                if isinstance(name, str):
                    yield name, receiver, write.scope

    def loop_of(self, statement: ast.AST) -> ast.For | ast.AsyncFor | None:
        """The innermost `for` of its own function that a statement is in."""
        while statement in self._owner:
            statement = self._owner[statement][0]
            if isinstance(statement, SCOPES):
                return None
            if isinstance(statement, ast.For | ast.AsyncFor):
                return statement
        return None

    def runs(self, statement: ast.AST, scope: Scope) -> bool | Unknown:
        """Whether a statement runs when the body of its function does."""
        return self._local_reach(statement, scope)

    def imports_own(self, node: ast.Import | ast.ImportFrom) -> bool:
        """Whether a statement imports a module of the program."""
        return any(self._module(name) is not None for name in imported_names(node) if name)

    def variable(self, name: str, node: ast.AST, scope: Scope) -> tuple[str | Unknown | None, ...]:
        """What an environment variable may hold where `node` reads it; None if it is not set."""
        given = UNKNOWN if name in self.unknown else self.environment.get(name)
        return self._writes.variable(name, given, node, scope)

    def live_scopes(self) -> Iterator[Scope]:
        """Modules and functions that can run."""
        for module in self.modules.values():
            if module in self.reached_modules:
                yield module.scope
        for function in self.functions.values():
            if function in self.reached:
                yield function.scope

    def conditions(self, statement: ast.AST) -> Iterator[tuple[ast.expr, Scope]]:
        """The tests of the `if` and `while` statements of its own function that a statement is in, innermost first."""
        while statement in self._owner:
            owner, _, _, scope = self._owner[statement]
            if isinstance(owner, SCOPES):
                return
            if isinstance(owner, ast.If | ast.While):
                yield owner.test, scope
            statement = owner

    def loops(self, statement: ast.AST) -> Iterator[ast.For | ast.AsyncFor | ast.While]:
        """The loops of its own function that a statement is in, or is, innermost first."""
        while statement in self._owner and not isinstance(statement, SCOPES):
            if isinstance(statement, ast.For | ast.AsyncFor | ast.While):
                yield statement
            statement = self._owner[statement][0]

    def outermost_loop(self, statement: ast.AST) -> ast.AST | None:
        """The loop of its own function that a statement is in, or is, and that is in no other."""
        return next(reversed(list(self.loops(statement))), None)

    def block_of(self, statement: ast.stmt) -> tuple[list[ast.stmt], int]:
        """The statements that one stands among, and its place there."""
        _, block, index, _ = self._owner[statement]
        return block, index

    def statements_before(self, statement: ast.AST, in_loop: bool = False) -> list[ast.stmt]:
        """The statements that come before one in the blocks of its own function that it is in, outermost first.
        in_loop: only in the same turn of the innermost loop."""
        found: list[ast.stmt] = []
        while statement in self._owner:
            owner, block, index, _ = self._owner[statement]
            found = block[:index] + found
            if isinstance(owner, SCOPES) or (in_loop and isinstance(owner, ast.For | ast.AsyncFor | ast.While)):
                break
            statement = owner
        return found

    def handlers(self, statement: ast.AST) -> Iterator[ast.ExceptHandler]:
        """The exception handlers of its own function that a statement is in."""
        while statement in self._owner:
            statement = self._owner[statement][0]
            if isinstance(statement, SCOPES):
                return
            if isinstance(statement, ast.ExceptHandler):
                yield statement

    @property
    def external_calls(self) -> list[ExternalCall]:
        """Every call that can run of something that is not of the program, in order of the scopes and their text."""
        return self._calls_by_home[0]

    @property
    def other_calls(self) -> list[LiveNode]:
        """The other calls that can run: of the program's own functions, of methods of its values, of unknown things."""
        return self._calls_by_home[1]

    @cached_property
    def _calls_by_home(self) -> tuple[list[ExternalCall], list[LiveNode]]:
        external, others = [], []
        for one in self.live_of(ast.Call):
            node, statement, scope, sure = one
            name = self._external_callee(node.func, scope)
            if name is None:
                others.append(one)
            else:
                external.append(ExternalCall(name, node, statement, scope, sure))
        return external, others

    def _external_callee(self, callee: ast.expr, scope: Scope) -> str | None:
        """Without folding what cannot be external: a method of a local value."""
        root, names = callee, []
        while type(root) is ast.Attribute:
            names.append(root.attr)
            root = root.value
        if isinstance(root, ast.Call):
            return self.external(callee, scope)
        if isinstance(root, ast.Subscript):
            held = root.value
            named = getattr(held, "attr", "") in ("modules", "__dict__") or isinstance(held, ast.Call)
            return self.external(callee, scope) if named else None
        if not isinstance(root, ast.Name):
            return None
        home, bindings = self.lookup(root, scope)
        if home is not None and len(bindings) == 1 and bindings[0].kind == "import":
            values = self.values(root, scope)  # once for each name, but for attributes the text will do
            if len(values) == 1 and type(values[0]) is External:
                return ".".join((values[0].name, *reversed(names)))
        if not bindings or any(one.kind in ("import", "value") for one in bindings):
            return self.external(callee, scope)
        return None

    def imported_name(self, node: ast.expr, scope: Scope) -> str | None:
        """The dotted name of what an import gives a name, or of an attribute of it; None for anything else."""
        root, names = node, []
        while type(root) is ast.Attribute:
            names.append(root.attr)
            root = root.value
        if type(root) is not ast.Name or root.id not in self._linked:
            return None
        bindings = self.lookup(root, scope)[1]
        if len(bindings) != 1 or bindings[0].kind != "import":
            return None
        return ".".join((bindings[0].target, *reversed(names)))

    def place(self, node: ast.AST, source: Source, note: str) -> Place:
        """Where a node is."""
        return Place(source, getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1, note)

    # -- folding ---------------------------------------------------------------------------------------------------

    def values(self, node: ast.expr, scope: Scope) -> tuple:
        """All the values that an expression may have, of the kinds in this module; UNKNOWN among them for others."""
        kind = type(node)
        if kind is ast.Constant:
            return (node.value,) if type(node.value) in PLAIN_TYPES else ONLY_UNKNOWN
        key = (node, scope)
        found = self._values.get(key)
        if found is not None:
            return found
        fold = FOLDS.get(kind)
        if fold is None or self._depth > MAX_FOLDING_DEPTH:
            return ONLY_UNKNOWN
        self._values[key] = ONLY_UNKNOWN  # while it is being found: an expression that depends on itself
        found = ONLY_UNKNOWN  # if the code itself would fail here
        self._depth += 1
        try:
            found = _unique(fold(self, node, scope))
            if len(found) > MAX_VALUES or not found:
                found = ONLY_UNKNOWN
        except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError):
            pass
        except BaseException:
            del self._values[key]
            raise
        finally:
            self._depth -= 1
        self._values[key] = found
        return found

    def _product(self, nodes: Sequence[ast.expr], scope: Scope) -> Iterator[tuple]:
        combined: list[tuple] = [()]
        for node in nodes:
            combined = [(*known, value) for known in combined for value in self.values(node, scope)]
            if len(combined) > 4 * MAX_VALUES:
                return iter([(UNKNOWN,) * len(nodes)])
        return iter(combined)

    def _fold_Constant(self, node: ast.Constant, scope: Scope) -> Iterator:
        yield node.value if _plain(node.value) else UNKNOWN

    def _fold_Lambda(self, node: ast.Lambda, scope: Scope) -> Iterator:
        yield self.scope_of[node].function

    def _fold_NamedExpr(self, node: ast.NamedExpr, scope: Scope) -> Iterator:
        yield from self.values(node.value, scope)

    def _fold_Await(self, node: ast.Await, scope: Scope) -> Iterator:
        yield from self.values(node.value, scope)

    def _fold_IfExp(self, node: ast.IfExp, scope: Scope) -> Iterator:
        truth = self.truth(node.test, scope)
        if truth is not False:
            yield from self.values(node.body, scope)
        if truth is not True:
            yield from self.values(node.orelse, scope)

    def _fold_BoolOp(self, node: ast.BoolOp, scope: Scope) -> Iterator:
        stop = isinstance(node.op, ast.Or)
        for position, operand in enumerate(node.values):
            last = position == len(node.values) - 1
            for value in self.values(operand, scope):
                truth = _truth(value)
                if last or truth is UNKNOWN or truth is stop:
                    yield value
            if self.truth(operand, scope) is stop:
                return

    def _fold_UnaryOp(self, node: ast.UnaryOp, scope: Scope) -> Iterator:
        for value in self.values(node.operand, scope):
            if isinstance(node.op, ast.Not):
                truth = _truth(value)
                yield UNKNOWN if truth is UNKNOWN else not truth
            else:
                yield UNARY[type(node.op)](value) if _plain(value) else UNKNOWN

    def _fold_BinOp(self, node: ast.BinOp, scope: Scope) -> Iterator:
        if not any(_plain(value) for value in self.values(node.left, scope)):
            yield UNKNOWN
            return
        for left, right in self._product((node.left, node.right), scope):
            if not _plain(left) or not _plain(right):
                yield UNKNOWN
                continue
            if isinstance(left, str) and isinstance(node.op, ast.Div):
                yield posixpath.join(left, right)  # pathlib.Path, which is folded to its text
                continue
            yield _bounded(node.op, left, right)

    def _fold_Compare(self, node: ast.Compare, scope: Scope) -> Iterable:
        in_environment = self._in_environment(node, scope)
        if in_environment is not None:
            return (in_environment,)
        if self.values(node.left, scope) == ONLY_UNKNOWN:
            return ONLY_UNKNOWN
        return self._compared(node, scope)

    def _in_environment(self, node: ast.Compare, scope: Scope) -> bool | Unknown | None:
        """Whether a variable is set, if that is what a comparison asks."""
        inside = len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn)
        if inside and self.external(node.comparators[0], scope) == "os.environ":
            name = self.constant(node.left, scope)
            there = {one is not None for one in self.variable(name, node, scope)} if isinstance(name, str) else ()
            return there.pop() == isinstance(node.ops[0], ast.In) if len(there) == 1 else UNKNOWN
        return None

    def _compared(self, node: ast.Compare, scope: Scope) -> Iterator:
        for left, *rights in self._product((node.left, *node.comparators), scope):
            result: object = True
            for op, right in zip(node.ops, rights, strict=True):
                if isinstance(op, ast.Is | ast.IsNot) and (left is None or right is None):
                    if UNKNOWN in (left, right) or _may_be_none(left) or _may_be_none(right):
                        result = UNKNOWN
                        break
                    same = left is right
                    result = same == isinstance(op, ast.Is)
                elif isinstance(left, External) and isinstance(right, External):
                    if not isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
                        result = UNKNOWN
                        break
                    result = (left == right) == isinstance(op, ast.Eq | ast.Is)  # types: `kind is bool`
                elif not _plain(left) or not _plain(right):
                    result = UNKNOWN
                    break
                else:
                    result = COMPARE[type(op)](left, right)
                if not result:
                    break
                left = right
            yield result

    def _fold_JoinedStr(self, node: ast.JoinedStr, scope: Scope) -> Iterator:
        parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
        for combination in self._product(parts, scope):
            text = []
            for part, value in zip(node.values, combination, strict=True):
                if not _plain(value):
                    break
                if isinstance(part, ast.FormattedValue) and part.format_spec is not None:
                    spec = self.constant(part.format_spec, scope)
                    if not isinstance(spec, str) or len(spec) > 12:
                        break
                    text.append(format(value, spec))
                else:
                    text.append(repr(value) if getattr(part, "conversion", -1) == ord("r") else str(value))
            else:
                yield "".join(text)
                continue
            yield UNKNOWN

    def _elements(self, nodes: Sequence[ast.expr], scope: Scope) -> Iterator[list]:
        if any(isinstance(node, ast.Starred) for node in nodes) or len(nodes) > 1000:
            yield [UNKNOWN]
            return
        for combination in self._product(nodes, scope):
            yield list(combination)

    def _fold_List(self, node: ast.List, scope: Scope) -> Iterator:
        for elements in self._elements(node.elts, scope):
            yield elements if all(_plain(value) for value in elements) else UNKNOWN

    def _fold_Tuple(self, node: ast.Tuple, scope: Scope) -> Iterator:
        for elements in self._elements(node.elts, scope):
            yield tuple(elements) if all(_plain(value) for value in elements) else UNKNOWN

    def _fold_Set(self, node: ast.Set, scope: Scope) -> Iterator:
        for elements in self._elements(node.elts, scope):
            yield set(elements) if all(_plain(value) for value in elements) else UNKNOWN

    def _fold_Dict(self, node: ast.Dict, scope: Scope) -> Iterator:
        if None in node.keys or len(node.keys) > 1000:
            yield UNKNOWN
            return
        keys = [self.constant(key, scope) for key in node.keys]
        values = [self.constant(value, scope) for value in node.values]
        yield UNKNOWN if UNKNOWN in keys or UNKNOWN in values else dict(zip(keys, values, strict=True))

    def _fold_Subscript(self, node: ast.Subscript, scope: Scope) -> Iterator:
        of = self.external(node.value, scope)
        if of == "os.environ":
            yield from (UNKNOWN if one is None else one for one in self._variable(node.slice, node, scope))
            return
        if of == "sys.modules":
            name = self.constant(node.slice, scope)
            own = name == self._builtin("__name__", scope)
            yield scope.module if own else self._imported(name) if isinstance(name, str) else UNKNOWN
            return
        if (package := self._namespace(node.value, scope)) is not None:
            name = self.constant(node.slice, scope)
            yield from self.attribute(package, name) if isinstance(name, str) else ONLY_UNKNOWN
            return
        if isinstance(node.value, ast.Dict | ast.List | ast.Tuple) or self._literal(node.value, scope) is not None:
            yield from self._fold_literal_item(node, scope)
            return
        bounds = node.slice
        for value in self.values(node.value, scope):
            if not isinstance(value, str | bytes | tuple | list | dict | range):
                yield UNKNOWN
            elif isinstance(bounds, ast.Slice):
                parts = [
                    self.constant(part, scope) if part else None for part in (bounds.lower, bounds.upper, bounds.step)
                ]
                yield UNKNOWN if UNKNOWN in parts else value[slice(*parts)]
            else:
                for index in self.values(bounds, scope):
                    yield value[index] if _plain(index) else UNKNOWN

    def _namespace(self, node: ast.expr, scope: Scope) -> External | Module | None:
        """The package or module of which an expression is the names: vars(module), module.__dict__."""
        if isinstance(node, ast.Attribute) and node.attr == "__dict__":
            held: ast.expr = node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "vars" and len(node.args) == 1:
            held = node.args[0]
        else:
            return None
        values = self.values(held, scope)
        return values[0] if len(values) == 1 and isinstance(values[0], External | Module) else None

    def _literal(self, node: ast.expr, scope: Scope) -> tuple[ast.Dict, Scope] | None:
        """The dict display that a name stands for: its values may be functions, which no plain value holds."""
        if isinstance(node, ast.Dict):
            return node, scope
        if not isinstance(node, ast.Name):
            return None
        home, bindings = self.lookup(node, scope)
        if len(bindings) != 1 or bindings[0].kind != "value" or not isinstance(bindings[0].value, ast.Dict):
            return None
        return None if bindings[0].path or self._is_changed(node.id, home) else (bindings[0].value, home)

    def _fold_literal_item(self, node: ast.Subscript, scope: Scope) -> Iterator:
        container, home = self._literal(node.value, scope) or (node.value, scope)
        index = UNKNOWN if isinstance(node.slice, ast.Slice) else self.constant(node.slice, scope)
        if isinstance(container, ast.Dict):
            for key, value in zip(container.keys, container.values, strict=True):
                known = self.constant(key, home) if key is not None else UNKNOWN
                if index is UNKNOWN or known is UNKNOWN or known == index:
                    yield from self.values(value, home) if key is not None else (UNKNOWN,)
        elif isinstance(index, int) and not any(isinstance(one, ast.Starred) for one in container.elts):
            yield from self.values(container.elts[index], scope)
        else:
            yield UNKNOWN

    def _fold_Name(self, node: ast.Name, scope: Scope) -> tuple:
        if node in self._comprehension_names:
            return ONLY_UNKNOWN
        name = node.id
        current: Scope | None = scope
        while current is not None and current.frame is None:
            current = current.parent
        if current is not None and name in current.frame and name not in scope.outer:
            passed = current.frame[name]
            if name in current.mutated:
                passed = tuple(UNKNOWN if isinstance(value, list | dict | set) else value for value in passed)
            if all(binding.kind == "parameter" for binding in current.bindings.get(name, ())):
                return passed
            return (*passed, *self._named(name, scope))
        return self._named(name, scope)

    def _named(self, name: str, scope: Scope) -> tuple:
        """What the bindings of a name give it, or what it is without any."""
        home, bindings = self.lookup(name, scope)
        if home is None:
            builtin = self._builtin(name, scope)
            patched = self._stored(name, External("builtins")) if name in self._stores else ()
            return _unique((builtin, *patched))
        if scope.frame is not None and home.node is scope.node:
            return tuple(self._joined(name, bindings, scope))
        key = (home, name)
        found = self._names.get(key)
        if found is None:
            self._names[key] = ONLY_UNKNOWN  # while it is being found: a name that depends on itself
            found = self._names[key] = _unique(self._joined(name, bindings, home))
        return found

    def _joined(self, name: str, bindings: list[Binding], home: Scope) -> Iterator:
        """What all bindings of a name that can run give it."""
        for binding in bindings:
            if binding.kind != "parameter" and self._local_reach(binding.statement, home) is False:
                continue
            for value in self._bound(binding, name, home):
                changed = isinstance(value, list | dict | set) and self._is_changed(name, home)
                yield UNKNOWN if changed else value
        if type(home.node) is ast.Module:
            yield from self._writes.in_module(home.module, name)
            for module in self._executed_in.get(home.module, ()):
                if name in module.scope.bindings:
                    yield from self.values(_name_node(name), module.scope)

    def _is_changed(self, name: str, home: Scope) -> bool:
        """Whether a container that a name stands for is changed in place, under that name or another."""
        pending = [(home, name)]
        seen = set(pending)
        while pending:
            scope, one = pending.pop()
            if one in scope.mutated:
                return True
            for other in self._other_names(one, scope):
                if other in self._mutated:  # an attribute
                    return True
                if not isinstance(other, str) and other not in seen:
                    seen.add(other)
                    pending.append(other)
            if len(seen) > MAX_OTHER_NAMES:
                return True
        return False

    def _other_names(self, name: str, home: Scope) -> Iterator[tuple[Scope, str] | str]:
        """Names with their scopes, and attributes, that what a name stands for has too: it is assigned to them, or
        passed for a parameter."""
        for target, scope in self._aliases.get(name, ()):
            if self.lookup(name, scope)[0] is not home:
                continue
            if isinstance(target, ast.Attribute):
                yield target.attr
            elif isinstance(target, ast.Name) and (other := self.lookup(target, scope)[0]) is not None:
                yield other, target.id
        for call, scope in self._handed.get(name, ()):
            if self.lookup(name, scope)[0] is not home:
                continue
            for function in self.callees(call, scope):
                for parameter in function.parameters:
                    expression, default = self.argument(call, function, parameter) or (None, False)
                    if getattr(expression, "id", "") == name and not default:
                        yield function.scope, parameter

    def lookup(self, name: ast.Name | str, scope: Scope) -> tuple[Scope | None, list[Binding]]:
        """The scope that holds a name, and every binding of it there (with those through `global` elsewhere)."""
        name = name if type(name) is str else name.id
        current: Scope | None = scope
        while current is not None:
            found = current.bindings.get(name)
            hidden = found is None or name in current.outer or (current is not scope and current.class_ is not None)
            if not hidden:
                return current, found
            current = current.parent
        for binding in scope.module.scope.bindings.get("*", ()):
            module = self._module(binding.target)
            if module is not None and module is not scope.module and name in module.scope.bindings:
                return module.scope, module.scope.bindings[name]
        return None, []

    def _builtin(self, name: str, scope: Scope) -> str | External:
        if name == "__name__":
            return "__main__" if scope.module.runs_as_main else scope.module.name
        return scope.module.source.file if name == "__file__" else External(f"builtins.{name}")

    def _bound(self, binding: Binding, name: str, home: Scope) -> Iterable:
        kind = binding.kind
        if kind == "value":
            values = self.values(binding.value, home)
            return self._unpacked(values, binding, home) if binding.path else values
        if kind == "parameter":
            return self._parameter(home.function, name)
        if kind in ("function", "class"):
            return (binding.target,)
        if kind == "import":
            return (self._imported(binding.target),)
        return self._iterated(binding.value, home) if kind == "element" else ONLY_UNKNOWN

    def _iterated(self, node: ast.expr, home: Scope) -> Iterator:
        for value in self.values(node, home):
            if isinstance(value, list | tuple | set | range) and len(value) <= MAX_VALUES:
                yield from value
            else:
                yield UNKNOWN

    def _unpacked(self, values: tuple, binding: Binding, home: Scope) -> Iterator:
        node = binding.value
        for depth, index in enumerate(binding.path):
            if not isinstance(node, ast.Tuple | ast.List) or index >= len(node.elts):
                for value in values:
                    for step in binding.path[depth:]:
                        value = value[step] if isinstance(value, tuple | list) else UNKNOWN
                    yield value
                return
            node = node.elts[index]
            values = self.values(node, home)
        yield from values

    def _module(self, dotted: str) -> Module | None:
        """The module of the program that an import names, if it is one."""
        parts = dotted.lstrip(".").split(".")
        for start in range(len(parts)):
            name = ".".join(parts[start:])
            if name in self.modules:
                return self.modules[name]
        matches = [module for name, module in self.modules.items() if name.endswith("." + dotted.lstrip("."))]
        return matches[0] if len(matches) == 1 else None

    def _imported(self, dotted: str) -> object:
        module = self._module(dotted)
        if module is not None:
            return module
        package, _, name = dotted.rpartition(".")
        module = self._module(package) if package else None
        if module is not None:
            values = self._attribute_of_module(module, name)
            return values[0] if len(values) == 1 else UNKNOWN
        return External(dotted)

    def _attribute_of_module(self, module: Module, name: str) -> tuple:
        if name in module.scope.bindings:
            return self.values(_name_node(name), module.scope)
        return tuple(self._writes.in_module(module, name)) or ONLY_UNKNOWN

    def _parameter(self, function: Function | None, name: str) -> tuple:
        """What the call sites pass for a parameter, and its default."""
        if function is None:
            return (UNKNOWN,)
        key = (function, name)
        if key in self._parameters:
            return self._parameters[key]
        self._parameters[key] = (UNKNOWN,)  # while it is being found: recursion
        self._parameters[key] = found = _unique(self._passed(function, name))[: MAX_VALUES + 1]
        if len(found) > MAX_VALUES:
            self._parameters[key] = found = (UNKNOWN,)
        return found

    def _passed(self, function: Function, name: str) -> Iterator:
        node, class_ = function.node, function.class_
        own = function.short_name
        if class_ is not None and name == function.parameters[0] and not self._decorated(function, "staticmethod"):
            of_class = self._decorated(function, "classmethod")
            yield class_ if of_class else Instance(class_, _SELF_CALL, class_.scope)
            return
        called = class_.node.name if class_ is not None and own == "__init__" else own
        if (
            isinstance(node, ast.Lambda)
            or self._mentions.get(called, 0)
            or (own.startswith("__") and own != "__init__")
        ):
            yield UNKNOWN
            if isinstance(node, ast.Lambda):
                return
        if class_ is not None and own == "forward":
            yield UNKNOWN
            return
        seen = False
        for call, statement, scope in self._calls.get(called, ()):
            if self._local_reach(statement, scope) is False:
                continue
            values = self.values(call.func, scope)
            if not any(self.function_of(value) is function for value in values) and UNKNOWN not in values:
                continue
            seen = True
            argument = self.argument(call, function, name)
            if argument is None:
                yield UNKNOWN
            else:
                expression, default = argument
                yield from self.values(expression, function.scope.parent if default else scope)
        if not seen:
            yield UNKNOWN

    def passed(self, function: Function, name: str) -> list[tuple[ast.expr, Scope]]:
        """The expressions that call sites which can run pass for a parameter, and its default where one is used."""
        found: list[tuple[ast.expr, Scope]] = []
        class_ = function.class_
        called = class_.node.name if class_ is not None and function.short_name == "__init__" else function.short_name
        for call, statement, scope in self._calls.get(called, ()):
            if self._local_reach(statement, scope) is False:
                continue
            if any(self.function_of(value) is function for value in self.values(call.func, scope)):
                argument = self.argument(call, function, name)
                if argument is not None:
                    found.append((argument[0], function.scope.parent if argument[1] else scope))
        return found

    def argument(self, call: ast.Call, function: Function, name: str) -> tuple[ast.expr, bool] | None:
        """The expression that a call passes for a parameter, or its default and True; None where neither is known
        (starred arguments)."""
        if any(isinstance(one, ast.Starred) for one in call.args):
            return None
        arguments = function.node.args
        positional = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
        bound = function.class_ is not None and not self._decorated(function, "staticmethod")
        for keyword in call.keywords:
            if keyword.arg == name:
                return keyword.value, False
        if name in positional:
            index = positional.index(name) - (1 if bound and not self._called_on_class(call, function) else 0)
            if 0 <= index < len(call.args):
                return call.args[index], False
        if any(keyword.arg is None for keyword in call.keywords):
            return None
        default = default_of(function, name)
        return (default, True) if default is not None else None

    def _decorated(self, function: Function, name: str) -> bool:
        return any(isinstance(one, ast.Name) and one.id == name for one in getattr(function.node, "decorator_list", ()))

    def _called_on_class(self, call: ast.Call, function: Function) -> bool:
        """Whether a call passes what is `self` in the function."""
        if not isinstance(call.func, ast.Attribute) or function.short_name == "__init__":
            return False
        if self._decorated(function, "classmethod"):
            return False
        return isinstance(call.func.value, ast.Name) and call.func.value.id == function.class_.node.name

    def _fold_Attribute(self, node: ast.Attribute, scope: Scope) -> tuple:
        found: tuple = ()
        for value in self.values(node.value, scope):
            if value is not None:  # which has none: where this is run, it is another value
                found += self.attribute(value, node.attr)
        return found

    def attribute(self, value: object, name: str) -> tuple:
        """The values that an attribute of a value may have."""
        if value is UNKNOWN:
            return ONLY_UNKNOWN
        if isinstance(value, External):
            own = External(f"{value.name}.{name}")
            return (own, *self._stored(name, value)) if name in self._stores else (own,)
        if isinstance(value, Module):
            return self._attribute_of_module(value, name)
        if isinstance(value, Class | Instance):
            found = _unique(self._member(value, name))
            if name in self._mutated:
                return _unique(UNKNOWN if isinstance(one, list | dict | set) else one for one in found)
            return found
        if isinstance(value, Result):
            return self._result_attribute(value, name)
        if isinstance(value, Function | BoundMethod) and not name.startswith("__"):
            return tuple(self.values(stored, scope)[0] for _, stored, scope in self._stores.get(name, ()) if stored)
        if isinstance(value, str) and name in ("parent", "name", "stem"):  # of a pathlib.Path
            return ({"parent": posixpath.dirname, "name": posixpath.basename}.get(name, lambda path: UNKNOWN)(value),)
        return (UNKNOWN,)

    def _stored(self, name: str, value: object) -> Iterator:
        """What an attribute of a value that is no object of the program's is given by the program."""
        for receiver, stored, scope in self._stores.get(name, ()):
            if value in self.values(receiver, scope):
                yield from self.values(stored, scope) if stored is not None else ONLY_UNKNOWN
        yield from self._writes.on(name, lambda one: one == value)

    def _member(self, value: Class | Instance, name: str) -> Iterator:
        class_ = value if isinstance(value, Class) else value.class_
        found = False
        if isinstance(value, Instance):
            if self.method(class_, "__getattribute__") is not None:
                yield UNKNOWN
            if self.method(class_, "__init__") is None:  # dataclasses
                for one in self._constructed(value, name):
                    found = True
                    yield one
        for one in self.bases(class_):
            for stored, scope in one.attributes.get(name, ()):
                found = True
                yield from self.values(stored, scope) if stored is not None else (UNKNOWN,)
            bindings = one.scope.bindings.get(name)
            if bindings and not found:
                found = True
                for binding in bindings:
                    if self._local_reach(binding.statement, one.scope) is False:
                        continue
                    for bound in self._bound(binding, name, one.scope):
                        if isinstance(bound, Result) and bound.callee.name == "dataclasses.field":
                            yield from self._field(bound)
                        elif isinstance(bound, Function) and isinstance(value, Instance):
                            yield from self._method_value(bound, value)
                        else:
                            yield bound
            if found:
                break
        for receiver, stored, scope in self._stores.get(name, ()):
            if any(self._may_be(one, class_) for one in self.values(receiver, scope)):
                found = True
                yield from self.values(stored, scope) if stored is not None else (UNKNOWN,)
        for one in self._writes.on(name, lambda one: self._may_be(one, class_), settings=True):
            found = True
            yield one
        if not found:
            if isinstance(value, Instance) and name in SAME_MODULE:
                yield value  # the method of torch.nn.Module; a call of it gives the module back
            else:
                yield UNKNOWN

    def _method_value(self, function: Function, instance: Instance) -> Iterator:
        names = (
            {one.id for one in function.node.decorator_list if isinstance(one, ast.Name)} if function.class_ else set()
        )
        if "property" in names:
            yield from self._returned(function, {function.parameters[0]: (instance,)} if function.parameters else {})
        elif "staticmethod" in names or function.class_ is None:
            yield function
        else:
            yield BoundMethod(function, instance)

    def _constructed(self, value: Instance, name: str) -> Iterator:
        """What the call that made an object passes for one of the fields of its class, which has no __init__."""
        arguments = value.call.args
        yield from self._by_keyword(value.call, value.scope, name)
        if not arguments:
            return
        fields = [
            one.target.id
            for class_ in reversed(self.bases(value.class_))
            for one in class_.node.body
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
        ]
        place = fields.index(name) if name in fields else len(arguments)
        if any(isinstance(one, ast.Starred) for one in arguments[: place + 1]):
            yield UNKNOWN
        elif place < len(arguments):
            yield from self.values(arguments[place], value.scope)

    def _by_keyword(self, call: ast.Call, scope: Scope, name: str) -> Iterator:
        """What a call passes by a name, also in a mapping: f(name=value), f(**{"name": value})."""
        for keyword in call.keywords:
            if keyword.arg == name:
                yield from self.values(keyword.value, scope)
            elif keyword.arg is None:
                for mapping in self.values(keyword.value, scope):
                    if not isinstance(mapping, dict):
                        yield UNKNOWN
                    elif name in mapping:
                        yield mapping[name]

    def _may_be(self, value: object, class_: Class) -> bool:
        """Whether a value may be that class, or an object of it."""
        one = value.class_ if isinstance(value, Instance) else value
        return one is UNKNOWN or (isinstance(one, Class) and (one is class_ or class_ in self.bases(one)))

    def _field(self, value: Result) -> Iterator:
        for keyword in value.call.keywords:
            if keyword.arg == "default":
                yield from self.values(keyword.value, value.scope)
            if keyword.arg == "default_factory":
                for factory in self.values(keyword.value, value.scope):
                    yield from self._called(factory, _SELF_CALL, value.scope)

    def _result_attribute(self, value: Result, name: str) -> tuple:
        if value.callee.name.startswith("argparse.ArgumentParser") and value.callee.name.endswith(
            ("parse_args", "parse_known_args")
        ):
            return _unique(self._argument_values(name))
        found: tuple = ()
        if value.callee.name == "types.SimpleNamespace":
            found = tuple(self._by_keyword(value.call, value.scope, name))
        elif not value.callee.name.startswith("builtins."):
            found = (External(f"{value.callee.name}().{name}"),)
        return (*found, *self._stored(name, value)) or ONLY_UNKNOWN

    def _argument_values(self, name: str) -> Iterator:
        """Of a flag: from the documented command, or else its default."""
        for call, _, scope in self._calls.get("add_argument", ()):
            flags = [self.constant(one, scope) for one in call.args]
            options = {keyword.arg: keyword.value for keyword in call.keywords}
            names = [flag.lstrip("-").replace("-", "_") for flag in flags if isinstance(flag, str)]
            longest = next((flag.lstrip("-").replace("-", "_") for flag in flags if str(flag).startswith("--")), None)
            destination = (
                self.constant(options["dest"], scope) if "dest" in options else longest or (names or [None])[0]
            )
            if destination != name:
                continue
            action = self.constant(options["action"], scope) if "action" in options else "store"
            for arguments in self._argument_lists:
                given = self._given(flags, action, arguments)
                if given is not None:
                    kinds = self.values(options["type"], scope) if "type" in options else (External("builtins.str"),)
                    for kind in kinds:
                        convert = PURE.get(kind.name) if isinstance(kind, External) else None
                        yield given if not isinstance(given, str) else convert(given) if convert else UNKNOWN
                elif "default" in options:
                    yield from self.values(options["default"], scope)
                else:
                    yield {"store_true": False, "store_false": True}.get(action)
        for call, _, scope in self._calls.get("set_defaults", ()):
            yield from self._by_keyword(call, scope, name)
        for receiver, stored, scope in self._stores.get(name, ()):
            if any(isinstance(value, Result) for value in self.values(receiver, scope)):
                yield from self.values(stored, scope) if stored is not None else (UNKNOWN,)
        yield from self._writes.on(name, lambda one: isinstance(one, Result), settings=True)

    @cached_property
    def _argument_lists(self) -> list[tuple[str, ...]]:
        """What a parser may be given: the arguments of the documented command, what the program adds to them, and lists
        of its own."""
        return self._writes.arguments(self.arguments)

    def _given(self, flags: list, action: object, arguments: Sequence[str]) -> object | None:
        for position, argument in enumerate(arguments):
            flag, equals, value = argument.partition("=")
            if flag in flags:
                if action in ("store_true", "store_false"):
                    return action == "store_true"
                if equals:
                    return value
                return arguments[position + 1] if position + 1 < len(arguments) else None
        return None

    def _variable(self, name: ast.expr, node: ast.AST, scope: Scope) -> tuple:
        found = self.constant(name, scope)
        return self.variable(found, node, scope) if isinstance(found, str) else ONLY_UNKNOWN

    def _fold_Call(self, node: ast.Call, scope: Scope) -> Iterable:
        callees = self.values(node.func, scope)
        of_text = type(node.func) is ast.Attribute and node.func.attr in STRING_METHODS
        if not of_text and callees == ONLY_UNKNOWN:
            return ONLY_UNKNOWN
        return self._results(callees, node, scope, of_text)

    def _results(self, callees: tuple, node: ast.Call, scope: Scope, of_text: bool) -> Iterator:
        for callee in callees:
            yield from self._called(callee, node, scope)
        if of_text:
            yield from self._text_method(node, scope)

    def _text_method(self, node: ast.Call, scope: Scope) -> Iterator:
        for receiver in self.values(node.func.value, scope):
            if isinstance(receiver, str) and node.func.attr in PATH_METHODS:
                yield receiver
                continue
            if not isinstance(receiver, str | bytes | dict | list | tuple) or node.keywords:
                continue
            for arguments in self._product(node.args, scope):
                if not all(_plain(value) for value in arguments):
                    yield UNKNOWN
                    continue
                result = getattr(receiver, node.func.attr)(*arguments)
                yield list(result) if not _plain(result) else _limited(result)

    def _called(self, callee: object, node: ast.Call, scope: Scope) -> Iterator:
        if isinstance(callee, Class):
            yield Instance(callee, node, scope)
        elif isinstance(callee, Instance) and isinstance(node.func, ast.Attribute) and node.func.attr in SAME_MODULE:
            yield callee
        elif isinstance(callee, Function | BoundMethod):
            yield from self._inlined(callee, node, scope)
        elif isinstance(callee, External):
            yield from self._called_external(callee, node, scope)
        elif isinstance(callee, Result) and callee.callee.name == "operator.attrgetter" and node.args:
            path = self.constant(callee.call.args[0], callee.scope) if callee.call.args else UNKNOWN
            found = self.values(node.args[0], scope)
            for one in path.split(".") if isinstance(path, str) else ():
                found = tuple(value for held in found for value in self.attribute(held, one))
            yield from found if isinstance(path, str) else ONLY_UNKNOWN
        elif not (
            callee is UNKNOWN
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in STRING_METHODS
            and all(
                isinstance(value, str | bytes | dict | list | tuple) for value in self.values(node.func.value, scope)
            )
        ):
            yield UNKNOWN

    def _called_external(self, callee: External, node: ast.Call, scope: Scope) -> Iterator:
        name, arguments = callee.name, node.args
        if name in ("os.environ.get", "os.getenv", "os.environ.setdefault", "os.environ.pop") and arguments:
            keyword = next((one.value for one in node.keywords if one.arg == "default"), None)
            default = arguments[1] if len(arguments) > 1 else keyword
            for found in self._variable(arguments[0], node, scope):
                yield from self.values(default, scope) if found is None and default is not None else (found,)
        elif name in ("builtins.getattr", "builtins.hasattr") and len(arguments) > 1:
            yield from self._getattr(name, arguments, scope)
        elif name == "builtins.__import__" and arguments:
            package = self.constant(arguments[0], scope)
            yield self._imported(package.partition(".")[0]) if isinstance(package, str) else UNKNOWN
        elif name == "shutil.which" and arguments:
            yield from (*self.values(arguments[0], scope), None)
        elif name in MODULE_LOADERS:
            yield from self.loaded_modules(name, node, scope) or (Result(callee, node, scope),)
        elif name == "builtins.range":
            for values in self._product(arguments, scope):
                yield range(*values) if all(_plain(value) for value in values) else UNKNOWN
        elif name in ("builtins.globals", "builtins.vars", "builtins.locals") and not arguments:
            yield UNKNOWN
        elif name in PURE and not any(isinstance(one, ast.Starred) for one in arguments):
            keywords = [keyword.value for keyword in node.keywords]
            for values in self._product((*arguments, *keywords), scope):
                if all(_plain(value) for value in values) and all(keyword.arg for keyword in node.keywords):
                    given = dict(zip((one.arg for one in node.keywords), values[len(arguments) :], strict=True))
                    yield _limited(PURE[name](*values[: len(arguments)], **given))
                else:
                    yield UNKNOWN
        elif (name in WRAPPERS or name.endswith(("DistributedDataParallel", "FullyShardedDataParallel"))) and arguments:
            yield from self.values(arguments[0], scope)
        elif name in WRAPPERS and not arguments:
            yield External("builtins.staticmethod")  # torch.no_grad(), torch.compile(dynamic=False): a decorator
        elif name.startswith("builtins."):
            yield UNKNOWN
        else:
            yield Result(callee, node, scope)

    def _getattr(self, name: str, arguments: list[ast.expr], scope: Scope) -> Iterator:
        attribute = self.constant(arguments[1], scope)
        for value in self.values(arguments[0], scope):
            found = self.attribute(value, attribute) if isinstance(attribute, str) else (UNKNOWN,)
            if name == "builtins.hasattr":
                yield True if found != (UNKNOWN,) and isinstance(value, Class | Instance | Module) else UNKNOWN
            elif found == (UNKNOWN,) and len(arguments) > 2 and isinstance(value, Class | Instance | Module):
                yield from self.values(arguments[2], scope)
                yield UNKNOWN
            else:
                yield from found

    def _inlined(self, callee: Function | BoundMethod, node: ast.Call, scope: Scope) -> Iterator:
        function = callee.function if isinstance(callee, BoundMethod) else callee
        frame: dict[str, tuple] = {}
        of_class = function.class_ is not None and self._decorated(function, "classmethod")
        for position, name in enumerate(function.parameters):
            if position == 0 and (of_class or isinstance(callee, BoundMethod)):
                frame[name] = (function.class_ if of_class else callee.instance,)
                continue
            argument = self.argument(node, function, name)
            if argument is None:
                frame[name] = (UNKNOWN,)
            else:
                frame[name] = self.values(argument[0], function.scope.parent if argument[1] else scope)
        yield from self._returned(function, frame)

    def _returned(self, function: Function, frame: dict[str, tuple]) -> Iterator:
        if self._inlining >= MAX_INLINING_DEPTH:
            yield UNKNOWN
            return
        own = function.scope
        inner = Scope(own.node, own.module, own.parent, own.name, own.bindings, own.outer, own.mutated, frame, function)
        if isinstance(function.node, ast.Lambda):
            self._inlining += 1
            try:
                yield from self.values(function.node.body, inner)
            finally:
                self._inlining -= 1
            return
        if not self._is_folded(function):
            yield UNKNOWN
            return
        self._inlining += 1
        try:
            for one in self.returns(function):
                if self._local_reach(one, inner) is not False:
                    yield from self.values(one.value, inner) if one.value is not None else (None,)
            if not self._ends_block(function.node.body, inner):
                yield None
        finally:
            self._inlining -= 1

    def returns(self, function: Function) -> list[ast.Return]:
        """The return statements of a function; a lambda has none."""
        found = self._return_statements.get(function)
        if found is None:
            found = self._return_statements[function] = []
            stack: list[ast.AST] = list(reversed(function.scope.body))
            while stack:
                one = stack.pop()
                if isinstance(one, ast.Return):
                    found.append(one)
                elif not isinstance(one, SCOPES):
                    for name in ("cases", "finalbody", "orelse", "handlers", "body"):
                        stack.extend(reversed(getattr(one, name, ())))
        return found

    def _is_folded(self, function: Function) -> bool:
        """Whether a function is small and simple enough to be folded where it is called: no generator or coroutine."""
        if function not in self._foldable:
            small = len(function.scope.body) <= MAX_FOLDED_STATEMENTS
            generates = function.scope in self._generators or isinstance(function.node, ast.AsyncFunctionDef)
            self._foldable[function] = small and not generates
        return self._foldable[function]

    # -- reachability ----------------------------------------------------------------------------------------------

    def truth(self, node: ast.expr, scope: Scope) -> bool | Unknown:
        """Whether a condition holds."""
        if isinstance(node, ast.BoolOp):  # `unknown and False` is false, whatever its values are
            stop = isinstance(node.op, ast.Or)
            truths = [self.truth(one, scope) for one in node.values]
            if stop in [one for one in truths if one is not UNKNOWN]:
                return stop
            return UNKNOWN if any(one is UNKNOWN for one in truths) else not stop
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.truth(node.operand, scope)
            return UNKNOWN if inner is UNKNOWN else not inner
        truths = {self._is_true(value) for value in self.values(node, scope)}
        return truths.pop() if len(truths) == 1 else UNKNOWN

    def _is_true(self, value: object) -> bool | Unknown:
        if isinstance(value, Instance) and any(self.method(value.class_, name) for name in ("__bool__", "__len__")):
            return UNKNOWN
        return _truth(value)

    def _local_reach(self, statement: ast.AST, scope: Scope) -> bool | Unknown:
        """Whether a statement runs when the body of its function does."""
        key = (statement, scope)
        known = self._local.get(key)
        if known is not None:
            return known
        place = self._owner.get(statement)
        if place is None:
            return True
        self._local[key] = UNKNOWN  # while it is being found
        owner, block, index, home = place
        if scope.frame is None:
            scope = home
        if self._ends_before(block, index, scope):
            found: bool | Unknown = False
        elif owner is scope.node or type(owner) in OWN_BODY:
            found = True
            if type(owner) is ast.ClassDef:
                found = self._local_reach(owner, scope)
        else:
            found = _both(self._enters(owner, block, scope), self._local_reach(owner, scope))
        self._local[key] = found
        return found

    def _enters(self, owner: ast.AST, block: list[ast.stmt], scope: Scope) -> bool | Unknown:
        """Whether a compound statement runs one of its blocks when it runs."""
        if isinstance(owner, ast.If | ast.While):
            truth = self.truth(owner.test, scope)
            if block is owner.body:
                return truth
            if isinstance(owner, ast.While):
                return False if truth is True else UNKNOWN
            return truth if truth is UNKNOWN else not truth
        if isinstance(owner, ast.For | ast.AsyncFor) and block is owner.body:
            values = self.values(owner.iter, scope)
            lengths = {
                len(value) > 0 if isinstance(value, list | tuple | range | dict | str | set) else UNKNOWN
                for value in values
            }
            known = lengths.pop() if len(lengths) == 1 else UNKNOWN
            return known if known is False else True
        if isinstance(owner, ast.ExceptHandler | ast.Match) or getattr(owner, "orelse", None) is block:
            return UNKNOWN
        if type(owner).__name__ == "match_case":
            return UNKNOWN
        return True

    def _ends_before(self, block: list[ast.stmt], index: int, scope: Scope) -> bool:
        """Whether one of the statements of a block that come before another is the last to run. Only these are looked
        at: conditions further on may be made of what this is asked for."""
        found = self._ends.get((id(block), scope))
        if found is None:
            found = self._ends[id(block), scope] = _Looked()
        while found.count < min(index, found.end):
            at = found.count
            found.count += 1  # before it is looked at: recursion takes it to go on
            if type(block[at]) in MAY_END and self._ends_flow(block[at], scope):
                found.end = min(found.end, at)
        return found.end < index

    def _ends_block(self, block: list[ast.stmt], scope: Scope) -> bool:
        return self._ends_before(block, len(block), scope)

    def _ends_flow(self, statement: ast.stmt, scope: Scope) -> bool:
        if isinstance(statement, ast.Return | ast.Raise | ast.Break | ast.Continue):
            return True
        if isinstance(statement, ast.Expr):
            call = statement.value
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
                return False
            last = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
            return last in ("exit", "_exit", "quit", "abort") and self.external(call.func, scope) in EXITS
        if isinstance(statement, ast.If):
            if not self._has_end(statement):
                return False
            truth = self.truth(statement.test, scope)
            if truth is True and not statement.orelse and isinstance(statement.body[-1], ast.Raise):
                return False  # what is documented ran: a value is not as it is understood here
            then = truth is False or self._ends_block(statement.body, scope)
            other = truth is True or self._ends_block(statement.orelse, scope)
            return then and other
        if isinstance(statement, ast.With | ast.AsyncWith):
            return self._ends_block(statement.body, scope) and not _may_suppress(statement)
        if isinstance(statement, ast.Try):
            if self._ends_block(statement.finalbody, scope):
                return True
            body = self._ends_block(statement.body, scope) or self._ends_block(statement.orelse, scope)
            return body and all(self._ends_block(handler.body, scope) for handler in statement.handlers)
        if isinstance(statement, ast.While):
            return self.truth(statement.test, scope) is True and not _has_break(statement.body)
        return False

    def _has_end(self, statement: ast.If) -> bool:
        """Whether any of its blocks ends: conditions need no folding otherwise."""
        stack = [*statement.body, *statement.orelse]
        while stack:
            one = stack.pop()
            if isinstance(one, ast.Return | ast.Raise | ast.Break | ast.Continue | ast.Expr | ast.While):
                return True
            for name in ("body", "orelse", "finalbody"):
                stack.extend(getattr(one, name, ()) if not isinstance(one, SCOPES) else ())
            for handler in getattr(one, "handlers", ()):
                stack.extend(handler.body)
        return False

    def _live_block(
        self, block: list[ast.stmt], scope: Scope, sure: bool | Unknown, whole: bool, found: list[tuple]
    ) -> list[tuple]:
        """Adds to `found`, and returns it."""
        for statement in block:
            state = self._local_reach(statement, scope)
            if state is False:
                continue
            if sure is UNKNOWN:
                state = UNKNOWN
            kind = type(statement)
            if whole:
                found.append((statement, statement, state))
            elif kind in KEPT:
                found.append(([statement], statement, state))
            if kind in SCOPES:
                outside = [*statement.decorator_list]
                if kind is ast.ClassDef:
                    outside += [*statement.bases, *(keyword.value for keyword in statement.keywords)]
                else:
                    outside += [*statement.args.defaults, *(one for one in statement.args.kw_defaults if one)]
                for head in outside:
                    self._live_expression(head, statement, scope, state, whole, found)
                if kind is ast.ClassDef:
                    self._live_block(statement.body, self.scope_of[statement], state, whole, found)
                continue
            for child in heads(statement):
                if type(child) is ast.withitem:
                    for inner in children(child):
                        self._live_expression(inner, statement, scope, state, whole, found)
                else:
                    self._live_expression(child, statement, scope, state, whole, found)
            if kind in COMPOUND:
                for name in ("body", "handlers", "orelse", "finalbody", "cases"):
                    inner = getattr(statement, name, None)
                    if name in ("handlers", "cases"):
                        for one in inner or ():
                            self._live_block(one.body, scope, sure, whole, found)
                    elif isinstance(inner, list):
                        self._live_block(inner, scope, sure, whole, found)
        return found

    def _live_expression(
        self,
        root: ast.AST,
        statement: ast.stmt,
        scope: Scope,
        sure: bool | Unknown,
        whole: bool,
        found: list[tuple],
    ) -> None:
        """Adds the nodes of an expression that can run."""
        flat = None if whole else self._flat.get(root)
        if flat is not None:
            if flat:
                found.append((flat, statement, sure))
            return
        stack = [(root, sure)]
        while stack:
            node, state = stack.pop()
            kind = type(node)
            if whole:
                found.append((node, statement, state))
            elif kind in KEPT:
                found.append(([node], statement, state))
            if kind is ast.Lambda:
                continue
            if kind is ast.IfExp:
                truth = self.truth(node.test, scope)
                branch = state if truth is not UNKNOWN else UNKNOWN
                if truth is not True:
                    stack.append((node.orelse, branch))
                if truth is not False:
                    stack.append((node.body, branch))
                stack.append((node.test, state))
            elif kind is ast.BoolOp:
                stop, certain, parts = isinstance(node.op, ast.Or), state, []
                for operand in node.values:
                    parts.append((operand, certain))
                    truth = self.truth(operand, scope)
                    if truth is stop:
                        break
                    certain = certain if truth is not UNKNOWN else UNKNOWN
                stack.extend(reversed(parts))
            else:
                stack += [(child, state) for child in reversed(children(node))]

    def _explore(self) -> None:
        """Finds what the entry point can call: whatever is mentioned in code that can run may be called. A method needs
        its class and its name to be mentioned."""
        self._classes_reached: dict[Class, bool | Unknown] = {}
        self._names_reached: dict[str, bool | Unknown] = {}
        certain: list[object] = [module for module in self.modules.values() if module.runs_as_main]
        possible: list[object] = []
        while certain or possible:
            sure: bool | Unknown = True if certain else UNKNOWN
            item = (certain or possible).pop()
            known = self.reached_modules if isinstance(item, Module) else self.reached
            if isinstance(item, Class):
                known = self._classes_reached
            if known.get(item) is True or (item in known and sure is UNKNOWN):
                continue
            known[item] = sure
            if isinstance(item, Class):
                found = self._of_class(item, sure)
            else:
                found = []
                seen: set[str] = set()  # names that certainly run here
                several = len(self.modules) > 1
                for nodes, _, state in self._live_nodes(item.scope):
                    if sure is UNKNOWN:
                        state = UNKNOWN
                    for node in nodes:
                        kind = type(node)
                        if kind is ast.Name:
                            if node.id not in self._linked or node.id in seen:
                                continue
                        elif kind is ast.Attribute:
                            if not several and self._names_reached.get(node.attr) is True:
                                continue
                        elif kind not in MENTIONS:  # but only listed
                            continue
                        found += self._mentioned(node, item.scope, state)
                        if kind is ast.Name and state is True and node not in self._comprehension_names:
                            seen.add(node.id)
            certain += [one for one, state in found if state is True]
            possible += [one for one, state in found if state is not True]

    def _of_class(self, class_: Class, sure: bool | Unknown) -> list[tuple[object, bool | Unknown]]:
        found: list[tuple[object, bool | Unknown]] = [(base, sure) for base in self.bases(class_)[1:]]
        foreign = self.foreign_bases(class_) - {"torch.nn.Module", "builtins.object", "mlx.nn.Module"}
        for name, method in class_.methods.items():
            if (name.startswith("__") and name.endswith("__")) or name == "forward":
                found.append((method, sure))
            elif foreign or name in self._names_reached:
                found.append((method, sure if foreign else _both(sure, self._names_reached[name])))
        return found

    def _mentioned(self, node: ast.AST, scope: Scope, sure: bool | Unknown) -> list[tuple[object, bool | Unknown]]:
        found: list[tuple[object, bool | Unknown]] = []
        names: list[str] = []
        kind = type(node)
        if kind is ast.Name:
            if type(node.ctx) is not ast.Load or node in self._comprehension_names:
                return found
            for binding in self.lookup(node, scope)[1]:
                if binding.kind in ("function", "class"):
                    found.append((binding.target, sure))
                elif binding.kind == "import":
                    value = self._imported(binding.target)
                    if isinstance(value, Module | Function | Class):
                        found.append((value, sure))
        elif kind is ast.Attribute:
            names.append(node.attr)
            if len(self.modules) > 1:
                found += [(target, sure) for target in self._of_module(node, scope)]
        elif kind is ast.Call:
            if len(node.args) > 1 and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                names += [value for value in self.constants(node.args[1], scope) if isinstance(value, str)]
                found += [(value, sure) for value in self.values(node, scope) if isinstance(value, Function | Class)]
            elif isinstance(node.func, ast.Name) and node.func.id in ("globals", "locals", "vars") and not node.args:
                # whatever is in there may be called
                own = scope.module.scope.bindings.values()
                found += [(one.target, UNKNOWN) for many in own for one in many if one.kind in ("function", "class")]
            if len(self.modules) > 1:
                found += [(module, sure) for module in self._executed(node, scope)]
        elif isinstance(node, ast.Lambda):
            found.append((self.scope_of[node].function, sure))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for dotted in imported_names(node):
                package = dotted
                while package:
                    module = self._module(package) if package != "*" else None
                    if module is not None and module is not scope.module:
                        found.append((module, sure))
                        break
                    package = package.rpartition(".")[0]
        elif isinstance(node, FUNCTIONS):
            function = self.scope_of[node].function
            if function.class_ is None and not all(self._passive(one, scope) for one in node.decorator_list):
                found.append((function, UNKNOWN))
        for name in names:
            if self._names_reached.get(name) is True or (name in self._names_reached and sure is UNKNOWN):
                continue
            self._names_reached[name] = sure
            for function in self._methods.get(name, ()):
                if function.class_ in self._classes_reached:
                    found.append((function, sure))
        return found

    def _of_module(self, node: ast.Attribute, scope: Scope) -> list[Function | Class | Module]:
        """What an attribute of a module of the program is."""
        root = node.value
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name):
            return []
        if not any(binding.kind == "import" for binding in self.lookup(root, scope)[1]):
            return []
        return [value for value in self.values(node, scope) if isinstance(value, Function | Class | Module)]

    def _passive(self, decorator: ast.expr, scope: Scope) -> bool:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = self.external(target, scope)
        return name is None or name in PASSIVE_DECORATORS or name.startswith("builtins.")

    def loaded_modules(self, name: str, call: ast.Call, scope: Scope) -> list[Module]:
        """The modules of the program that a call of one of `MODULE_LOADERS` may stand for: what is found for a path or
        a name, and what is made of that."""
        place, parameter = MODULE_LOADERS[name]
        named = next((keyword.value for keyword in call.keywords if keyword.arg == parameter), None)
        argument = call.args[place] if len(call.args) > place else named
        values = self.values(argument, scope) if argument is not None else ()
        texts = [value for value in values if isinstance(value, str)]
        names = {posixpath.basename(text) for text in texts} | {f"{text}.py" for text in texts}
        found = [value for value in values if isinstance(value, Module)]
        for module in self.modules.values() if names else ():
            if posixpath.basename(module.source.file) in names and module is not scope.module:
                found.append(module)
        return found

    def _executed(self, call: ast.Call, scope: Scope) -> list[Module]:
        """The modules of the program whose file a call runs: exec of an opened file, runpy, another interpreter."""
        root = call.func
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name):
            return []
        bindings = self.lookup(root, scope)[1]
        if root is not call.func and not any(binding.kind == "import" for binding in bindings):
            return []
        name = self.external(call.func, scope)
        if name is None or not name.startswith((*RUNNERS, "importlib.", "builtins.__import__")):
            return []
        if name in MODULE_LOADERS:
            return self.loaded_modules(name, call, scope)
        texts = []
        for node in ast.walk(call):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.Name | ast.Call) and node is not call:
                texts += [value for value in self.constants(node, scope) if isinstance(value, str)]
                for value in self.constants(node, scope):
                    if isinstance(value, list | tuple):
                        texts += [one for one in value if isinstance(one, str)]
        words = {word for text in texts for word in text.split()}
        found = []
        for module in self.modules.values():
            base = posixpath.basename(module.source.file)
            imports = name.startswith(("importlib.", "builtins.__import__")) and base.removesuffix(".py") in words
            if module is not scope.module and (imports or any(posixpath.basename(word) == base for word in words)):
                module.runs_as_main = not imports
                found.append(module)
        return found


class _Indexer:
    """Fills a program's tables with one module."""

    def __init__(self, program: Program, module: Module) -> None:
        self.program = program
        self.module = module

    def index(self) -> None:
        scope = Scope(self.module.tree, self.module, None, self.module.name)
        self.module.scope = scope
        self.program.scope_of[self.module.tree] = scope
        self.block(self.module.tree.body, scope, self.module.tree)

    def block(self, statements: list[ast.stmt], scope: Scope, owner: ast.AST) -> None:
        for index, statement in enumerate(statements):
            self.program._owner[statement] = (owner, statements, index, scope)
            self.statement(statement, scope)

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        kind = type(node)
        if kind in FUNCTIONS:
            self.function(node, scope, node)
            return
        if kind is ast.ClassDef:
            self.class_(node, scope)
            return
        if kind is ast.Assign:
            if type(node.value) is ast.Name:
                self.program._aliases.setdefault(node.value.id, []).extend((one, scope) for one in node.targets)
            for target in node.targets:
                self.target(target, node.value, (), scope, node)
        elif kind is ast.AnnAssign:
            if node.value is not None:
                self.target(node.target, node.value, (), scope, node)
        elif kind is ast.AugAssign:
            if isinstance(node.target, ast.Name):
                self.bind(node.target.id, Binding("augmented", node, scope, node.value), scope)
            else:
                self.target(node.target, None, (), scope, node)
            argv = isinstance(node.op, ast.Add) and getattr(node.target, "attr", "") == "argv"
            if argv or isinstance(node.op, ast.BitOr):
                self.program._augmented.append((node, scope))
        elif kind is ast.For or kind is ast.AsyncFor:
            self.loop_target(node.target, node.iter, scope, node)
        elif kind is ast.With or kind is ast.AsyncWith:
            for item in node.items:
                if item.optional_vars is not None:
                    self.target(item.optional_vars, item.context_expr, (), scope, node)
        elif kind is ast.Import or kind is ast.ImportFrom:
            self.imports(node, scope)
            return
        elif kind is ast.Global or kind is ast.Nonlocal:
            self.outer(node, scope)
            return
        elif kind is ast.Delete:
            for target in node.targets:
                self.target(target, None, (), scope, node)
        for head in heads(node):
            self.expression(head.context_expr if type(head) is ast.withitem else head, scope, node)
        if kind in COMPOUND:
            self.blocks(node, scope)

    def blocks(self, node: ast.stmt, scope: Scope) -> None:
        """The blocks of a compound statement."""
        for handler in getattr(node, "handlers", ()):
            self.program._owner[handler] = self.program._owner[node]
            if handler.name:
                self.bind(handler.name, Binding("unknown", node, scope), scope)
            self.block(handler.body, scope, handler)
        for case in getattr(node, "cases", ()):
            for one in ast.walk(case.pattern):
                for name in (getattr(one, "name", None), getattr(one, "rest", None)):
                    if name:
                        self.bind(name, Binding("unknown", node, scope), scope)
            self.program._owner[case] = self.program._owner[node]
            self.block(case.body, scope, case)
        for name in ("body", "orelse", "finalbody"):
            self.block(getattr(node, name, ()), scope, node)

    def bind(self, name: str, binding: Binding, scope: Scope) -> None:
        if binding.kind in ("function", "class", "import"):
            self.program._linked.add(name)
        if name in scope.outer:
            home = scope.parent
            while home is not None and (isinstance(home.node, ast.ClassDef) or name not in home.bindings):
                home = home.parent
            scope = home or self.module.scope
            if binding.kind != "value" or not isinstance(binding.value, ast.Constant):
                binding = Binding("augmented", binding.statement, binding.scope, binding.value)
        scope.bindings.setdefault(name, []).append(binding)

    def target(
        self, target: ast.expr, value: ast.expr | None, path: tuple[int, ...], scope: Scope, statement: ast.AST
    ) -> None:
        if isinstance(target, ast.Name):
            kind = "unknown" if value is None else "value"
            self.bind(target.id, Binding(kind, statement, scope, value, path), scope)
        elif isinstance(target, ast.Tuple | ast.List):
            starred = any(isinstance(one, ast.Starred) for one in target.elts)
            for index, one in enumerate(target.elts):
                inner = one.value if isinstance(one, ast.Starred) else one
                self.target(inner, None if starred else value, (*path, index), scope, statement)
        elif isinstance(target, ast.Attribute):
            stored = value if not path else None
            self_name = scope.function.parameters[:1] if scope.function and scope.function.class_ else ()
            if isinstance(target.value, ast.Name) and (target.value.id,) == tuple(self_name):
                scope.function.class_.attributes.setdefault(target.attr, []).append((stored, scope))
            else:
                self.program._stores.setdefault(target.attr, []).append((target.value, stored, scope))
        elif isinstance(target, ast.Subscript):
            self.program._items.append((target.value, target.slice, value if not path else None, scope, statement))
            if isinstance(target.value, ast.Name):
                self.mutate(target.value.id, scope)
            elif isinstance(target.value, ast.Attribute):
                self.program._mutated.add(target.value.attr)

    def mutate(self, name: str, scope: Scope) -> None:
        current: Scope | None = scope
        while current is not None and (name not in current.bindings or isinstance(current.node, ast.ClassDef)):
            if current.parent is None:
                break
            current = current.parent
        current.mutated.add(name)
        scope.mutated.add(name)

    def loop_target(self, target: ast.expr, iterated: ast.expr, scope: Scope, statement: ast.AST) -> None:
        if isinstance(target, ast.Name):
            self.bind(target.id, Binding("element", statement, scope, iterated), scope)
        else:
            self.target(target, None, (), scope, statement)

    def imports(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                dotted = alias.name if alias.asname else alias.name.partition(".")[0]
                self.bind(name, Binding("import", node, scope, target=dotted), scope)
            return
        package = "." * 0 + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                scope.bindings.setdefault("*", []).append(Binding("import", node, scope, target=package))
            else:
                dotted = f"{package}.{alias.name}" if package else alias.name
                self.bind(alias.asname or alias.name, Binding("import", node, scope, target=dotted), scope)

    def outer(self, node: ast.Global | ast.Nonlocal, scope: Scope) -> None:
        scope.outer.update(node.names)
        if isinstance(node, ast.Global):
            for name in node.names:
                self.module.scope.bindings.setdefault(name, [])

    def function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope, statement: ast.AST
    ) -> None:
        own = getattr(node, "name", f"<lambda:{node.lineno}:{node.col_offset}>")
        name = f"{scope.name}.{own}"
        if name in self.program.functions:
            name = f"{name}@{node.lineno}"
        arguments = node.args
        parameters = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
        parameters += [arguments.vararg.arg] if arguments.vararg else []
        parameters += [one.arg for one in arguments.kwonlyargs]
        parameters += [arguments.kwarg.arg] if arguments.kwarg else []
        inner = Scope(node, self.module, scope, name)
        class_ = scope.class_ if isinstance(scope.node, ast.ClassDef) and not isinstance(node, ast.Lambda) else None
        function = Function(name, node, self.module, tuple(parameters), inner, class_)
        inner.function = function
        for one in parameters:
            starred = {getattr(arguments.vararg, "arg", None), getattr(arguments.kwarg, "arg", None)}
            kind = "unknown" if one in starred else "parameter"
            inner.bindings[one] = [Binding(kind, node, inner)]
        self.program.functions[name] = function
        self.program.scope_of[node] = inner
        if class_ is not None:
            class_.methods[own] = function
            self.program._methods.setdefault(own, []).append(function)
        if isinstance(node, ast.Lambda):
            self.expression(node.body, inner, node)
            return
        self.bind(own, Binding("function", node, scope, target=function), scope)
        for one in (*node.decorator_list, *arguments.defaults, *(one for one in arguments.kw_defaults if one)):
            self.expression(one, scope, statement)
        for one in node.body:
            if isinstance(one, ast.Global | ast.Nonlocal):
                inner.outer.update(one.names)
        self.block(node.body, inner, node)

    def class_(self, node: ast.ClassDef, scope: Scope) -> None:
        name = f"{scope.name}.{node.name}"
        if name in self.program.classes:
            name = f"{name}@{node.lineno}"
        inner = Scope(node, self.module, scope, name)
        class_ = Class(name, node, self.module, inner)
        inner.class_ = class_
        self.program.classes[name] = class_
        self.program.scope_of[node] = inner
        self.bind(node.name, Binding("class", node, scope, target=class_), scope)
        for one in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self.expression(one, scope, node)
        self.block(node.body, inner, node)

    def expression(self, root: ast.expr, scope: Scope, statement: ast.AST) -> None:
        stack: list[ast.AST] = [root]
        flat: list[ast.AST] = []
        conditional = False
        mentions, calls, given = self.program._mentions, self.program._calls, self.program._handed
        name, constant, attribute, call, load = ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Load
        while stack:
            node = stack.pop()
            kind = type(node)
            if kind is constant:
                continue
            if kind is name:
                if type(node.ctx) is load:
                    flat.append(node)
                    mentions[node.id] = mentions.get(node.id, 0) + 1
                continue
            if kind is attribute:
                flat.append(node)
                if type(node.ctx) is load:
                    mentions[node.attr] = mentions.get(node.attr, 0) + 1
                stack.append(node.value)
                continue
            if kind is call:
                flat.append(node)
                stack += node.keywords[::-1]
                stack += node.args[::-1]
                for one in node.args:
                    if type(one) is name:
                        given.setdefault(one.id, []).append((node, scope))
                for one in node.keywords:
                    if type(one.value) is name:
                        given.setdefault(one.value.id, []).append((node, scope))
                callee = node.func
                if type(callee) is name:  # what is called is not mentioned by that
                    flat.append(callee)
                    calls.setdefault(callee.id, []).append((node, statement, scope))
                elif type(callee) is attribute:
                    flat.append(callee)
                    stack.append(callee.value)
                    calls.setdefault(callee.attr, []).append((node, statement, scope))
                    if callee.attr in MUTATORS:
                        if type(callee.value) is name:
                            self.mutate(callee.value.id, scope)
                        elif type(callee.value) is attribute:
                            self.program._mutated.add(callee.value.attr)
                else:
                    stack.append(callee)
                continue
            if kind in KEPT:
                flat.append(node)
                if kind is ast.Lambda:
                    conditional = True
                    self.function(node, scope, statement)
                    stack.extend(one for one in (*node.args.defaults, *node.args.kw_defaults) if one)
                    continue
            elif kind is ast.IfExp or kind is ast.BoolOp:
                conditional = True
            elif kind is ast.NamedExpr:
                self.target(node.target, node.value, (), scope, statement)
            elif kind is ast.Yield or kind is ast.YieldFrom:
                self.program._generators.add(scope)
            elif kind in COMPREHENSIONS:
                self.comprehension(node)
            elif kind is ast.Dict and None in node.keys:
                self.program.spread.append((node, scope, statement))
            below = children(node)
            stack += below[::-1] if len(below) > 1 else below
        if not conditional:
            self.program._flat[root] = flat

    def comprehension(self, node: ast.AST) -> None:
        names = {
            one.id: generator
            for generator in node.generators
            for one in ast.walk(generator.target)
            if isinstance(one, ast.Name)
        }
        first = set(ast.walk(node.generators[0].iter))  # evaluated outside
        for one in ast.walk(node):
            if isinstance(one, ast.Name) and one.id in names and one not in first:
                self.program._comprehension_names[one] = names[one.id]


# By the type of an expression: how it is folded.
FOLDS = {
    getattr(ast, name.removeprefix("_fold_")): function
    for name, function in vars(Program).items()
    if name.startswith("_fold_") and hasattr(ast, name.removeprefix("_fold_"))
}
_SELF_CALL = ast.Call(func=ast.Name(id="self", ctx=ast.Load()), args=[], keywords=[])


@lru_cache(maxsize=4096)
def _name_node(name: str) -> ast.Name:
    return ast.Name(id=name, ctx=ast.Load())


def module_name(source: Source) -> str:
    """The dotted name under which a source's file would be imported from the folder that is checked, its layers behind
    exclamation marks."""
    path = source.path.removesuffix(".py").strip("/").replace("/", ".")
    return "!".join((path.removesuffix(".__init__") or "module", *source.layers))


def _defines(module: Module) -> bool:
    """Whether functions or classes are defined at a module's top."""
    return any(isinstance(one, (*FUNCTIONS, ast.ClassDef)) for one in module.tree.body)


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The dotted names that an import statement binds."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    package = f"{node.module}." if node.module else ""
    return [f"{package}{alias.name}".removesuffix(".*") for alias in node.names]


def default_of(function: Function, name: str) -> ast.expr | None:
    """The default of a parameter, to be folded in the scope around the function."""
    arguments = function.node.args
    positional = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    if name in positional:
        index = positional.index(name) - len(positional) + len(arguments.defaults)
        return arguments.defaults[index] if index >= 0 else None
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if one.arg == name:
            return default
    return None


def _plain(value: object) -> bool:
    return type(value) in PLAIN_TYPES


def _truth(value: object) -> bool | Unknown:
    if _plain(value):
        return bool(value)
    return UNKNOWN if value is UNKNOWN or isinstance(value, Result | External) else True


def _may_be_none(value: object) -> bool:
    """Whether it came from a look-up that gives None for what is not there."""
    return isinstance(value, Result) and value.callee.name.rpartition(".")[2] in NONE_IF_MISSING


def _both(first: bool | Unknown, second: bool | Unknown) -> bool | Unknown:
    if first is False or second is False:
        return False
    return UNKNOWN if first is UNKNOWN or second is UNKNOWN else True


def _unique(values) -> tuple:
    """Without repetitions, in order."""
    values = tuple(values)
    if len(values) < 2:
        return values
    found: dict[object, object] = {}
    for value in values:
        key = (type(value), repr(value)) if type(value) in PLAIN_TYPES else value
        found.setdefault(key, value)
        if len(found) > 4 * MAX_VALUES:
            return (UNKNOWN,)
    return tuple(found.values())


def _limited(value: object) -> object:
    if isinstance(value, str | bytes | list | tuple | dict | set) and len(value) > MAX_CONSTANT_LENGTH:
        return UNKNOWN
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        return UNKNOWN
    return value


def _bounded(op: ast.operator, left: object, right: object) -> object:
    """A binary operation, unless its result would be huge."""
    if isinstance(op, ast.Pow | ast.LShift) and isinstance(right, int | float) and abs(right) > MAX_INTEGER_BITS:
        return UNKNOWN
    if isinstance(op, ast.Mult):
        for count, sized in ((left, right), (right, left)):
            repeated = isinstance(sized, str | bytes | list | tuple) and isinstance(count, int)
            if repeated and count * max(len(sized), 1) > MAX_CONSTANT_LENGTH:
                return UNKNOWN
    if isinstance(op, ast.Mod) and isinstance(left, str | bytes):
        return UNKNOWN
    function = BINARY.get(type(op))
    return _limited(function(left, right)) if function else UNKNOWN


def _may_suppress(statement: ast.With | ast.AsyncWith) -> bool:
    """Whether a `with` may swallow the exception that ended it: contextlib.suppress."""
    for item in statement.items:
        for node in ast.walk(item.context_expr):
            if "suppress" in (getattr(node, "attr", None), getattr(node, "id", None)):
                return True
    return False


def _has_break(block: list[ast.stmt]) -> bool:
    """Whether a loop's body leaves that loop by break."""
    for statement in block:
        if isinstance(statement, ast.Break):
            return True
        if isinstance(statement, SCOPES):
            continue
        inside_loop = isinstance(statement, ast.For | ast.AsyncFor | ast.While)
        for name in ("body", "orelse", "finalbody"):
            if name == "body" and inside_loop:
                continue
            if _has_break(getattr(statement, name, [])):
                return True
        for handler in getattr(statement, "handlers", ()):
            if _has_break(handler.body):
                return True
        for case in getattr(statement, "cases", ()):
            if _has_break(case.body):
                return True
    return False
