"""Bytes to text to a syntax tree, for text that nobody vouches for. Nothing is compiled or executed.

CPython's parser bounds its own recursion and answers with an exception; what this module adds are bounds on size and
on the depth of the tree, so that whoever walks the tree may recurse."""

from __future__ import annotations

import ast
import codecs
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.compliance.memory import keep

MAX_SOURCE_BYTES = 4_000_000  # the contest's largest script has 160,000
MAX_DEPTH = 150  # of the syntax tree; the contest's deepest script has 20
ENCODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263
ENCODINGS = re.compile(r"utf-?8(-sig)?|ascii|latin-?1|iso-?8859-?\d+|cp125\d|koi8-[ru]")
STRING = re.compile(r"""(?:\b[rRbBuU]{1,2})?('''|\"""|'|")""")
# Fields that hold text, numbers, operators or contexts.
NO_NODES = frozenset(
    {
        "ctx",
        "op",
        "ops",
        "id",
        "attr",
        "arg",
        "name",
        "names",
        "level",
        "module",
        "rest",
        "kwd_attrs",
        "asname",
        "kind",
        "type_comment",
        "conversion",
        "simple",
        "is_async",
        "tag",
        "type_ignores",
        "str",
    }
)
COMMENT_OR_STRING = re.compile(r"""#[^\n]*|(?<![\w])[A-Za-z]{0,2}('''|\"""|'|")""")


def children(node: ast.AST) -> Sequence[ast.AST]:
    """What `ast.iter_child_nodes` gives, less operators and the contexts of names; much faster."""
    return CHILDREN[type(node)](node)


def heads(statement: ast.stmt) -> Sequence[ast.AST]:
    """The expressions and `with` items of a statement, without the blocks of statements that it holds."""
    return HEADS[type(statement)](statement)


def _all_of(fields: tuple[str, ...]) -> Callable[[ast.AST], list[ast.AST]]:
    """The children in some fields, each of which may be one node, a list of nodes and None, or None."""

    def found(node: ast.AST) -> list[ast.AST]:
        nodes: list[ast.AST] = []
        for field in fields:
            value = getattr(node, field, None)
            if type(value) is list:
                nodes += [one for one in value if one is not None] if None in value else value
            elif value is not None:
                nodes.append(value)
        return nodes

    return found


def _one_of(field: str) -> Callable[[ast.AST], tuple[ast.AST, ...]]:
    """The child in a field that holds one node or None."""

    def found(node: ast.AST) -> tuple[ast.AST, ...]:
        value = getattr(node, field)
        return () if value is None else (value,)

    return found


def _fields_of_nodes(kind: type[ast.AST]) -> tuple[str, ...]:
    if issubclass(kind, ast.Constant | ast.MatchSingleton):
        return ()
    if kind in (ast.Import, ast.ImportFrom):
        return ("names",)
    return tuple(field for field in kind._fields if field not in NO_NODES)


def _kinds(base: type[ast.AST]) -> Iterator[type[ast.AST]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


# By the type of a node. The usual ones are written out: this is where most time would go.
CHILDREN: dict[type[ast.AST], Callable[[Any], Sequence[ast.AST]]] = {
    kind: _all_of(_fields_of_nodes(kind)) for kind in _kinds(ast.AST)
} | {
    ast.Name: lambda node: (),
    ast.Constant: lambda node: (),
    ast.Attribute: lambda node: (node.value,),
    ast.Call: lambda node: (node.func, *node.args, *node.keywords),
    ast.keyword: lambda node: (node.value,),
    ast.BinOp: lambda node: (node.left, node.right),
    ast.Subscript: lambda node: (node.value, node.slice),
    ast.Compare: lambda node: (node.left, *node.comparators),
    ast.Tuple: lambda node: node.elts,
    ast.Assign: lambda node: (*node.targets, node.value),
    ast.Expr: lambda node: (node.value,),
    ast.Return: _one_of("value"),
    ast.AugAssign: lambda node: (node.target, node.value),
    ast.If: lambda node: (node.test, *node.body, *node.orelse),
    ast.For: lambda node: (node.target, node.iter, *node.body, *node.orelse),
    ast.UnaryOp: lambda node: (node.operand,),
    ast.BoolOp: lambda node: node.values,
    ast.IfExp: lambda node: (node.test, node.body, node.orelse),
    ast.List: lambda node: node.elts,
    ast.Starred: lambda node: (node.value,),
    ast.JoinedStr: lambda node: node.values,
    ast.FormattedValue: lambda node: (node.value,) if node.format_spec is None else (node.value, node.format_spec),
    ast.comprehension: lambda node: (node.target, node.iter, *node.ifs),
    ast.GeneratorExp: lambda node: (node.elt, *node.generators),
    ast.ListComp: lambda node: (node.elt, *node.generators),
    ast.arg: _one_of("annotation"),
}
BLOCKS = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})
HEADS: dict[type[ast.AST], Callable[[Any], Sequence[ast.AST]]] = {
    kind: CHILDREN[kind]
    if not BLOCKS.intersection(kind._fields)
    else _all_of(tuple(field for field in _fields_of_nodes(kind) if field not in BLOCKS))
    for kind in _kinds(ast.stmt)
} | {
    ast.If: lambda node: (node.test,),
    ast.For: lambda node: (node.target, node.iter),
    ast.While: lambda node: (node.test,),
    ast.With: lambda node: node.items,
    ast.Try: lambda node: (),
}


class Unreadable(Exception):
    """Why something is no Python that can be analysed. line: where, from 1."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.line = line


def decode(data: bytes) -> str:
    """Python source as text, in the encoding that Python would use; a byte order mark is dropped, line ends become
    "\\n". Raises Unreadable."""
    if len(data) > MAX_SOURCE_BYTES:
        raise Unreadable(f"has {len(data):,} bytes; at most {MAX_SOURCE_BYTES:,} are analysed")
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if data.startswith(mark):
            raise Unreadable(f"is {name}, which Python does not read")
    data = data.removeprefix(codecs.BOM_UTF8)
    encoding = "utf-8"
    for line in data.split(b"\n", 2)[:2]:
        if match := ENCODING.match(line):
            encoding = match[1].decode("ascii", "replace").lower().replace("_", "-")
            break
        if line.strip() and not line.lstrip().startswith(b"#"):
            break
    if not ENCODINGS.fullmatch(encoding):
        raise Unreadable(f"declares the encoding {encoding[:40]!r}, which hides what Python reads")
    if b"\0" in data:
        raise Unreadable("holds a null byte", data[: data.index(b"\0")].count(b"\n") + 1)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Unreadable(f"is not {encoding}: byte {data[error.start]:#04x} in line {line}", line) from None
    except LookupError:
        raise Unreadable(f"declares the unknown encoding {encoding[:40]!r}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Parsed:
    """text: with quotes changed where only a newer Python allows them (PEP 701); lines stay what they were. names: all
    names in the tree, what it imports, and attributes, these with a dot before."""

    text: str
    tree: ast.Module
    names: frozenset[str]


@keep(at_most=8)  # whoever comes next wants the same tree; it must not be changed
def parse(text: str) -> Parsed:
    """Python source as a tree. Raises Unreadable."""
    try:
        return _parse(text)
    except Unreadable as error:
        try:
            return _parse(older_f_strings(text))
        except (Unreadable, RecursionError):
            raise error from None


def _parse(text: str) -> Parsed:
    if len(text) > MAX_SOURCE_BYTES:
        raise Unreadable(f"has {len(text):,} characters; at most {MAX_SOURCE_BYTES:,} are analysed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except SyntaxError as error:
        line = error.lineno or 1
        raise Unreadable(f"is not Python: {str(error.msg)[:120]} (line {line})", line) from None
    except (RecursionError, MemoryError):
        raise Unreadable(f"is nested more than {MAX_DEPTH} deep") from None
    except (ValueError, OverflowError) as error:
        raise Unreadable(f"is not Python: {str(error)[:120]}") from None
    names: set[str] = set()
    attributes: set[str] = set()
    level: list[ast.AST] = [tree]
    name, constant, attribute, call = ast.Name, ast.Constant, ast.Attribute, ast.Call  # three of four nodes
    for _ in range(MAX_DEPTH):
        below: list[ast.AST] = []
        for node in level:
            kind = type(node)
            if kind is name:
                names.add(node.id)
            elif kind is constant:
                continue
            elif kind is attribute:
                attributes.add(node.attr)
                below.append(node.value)
            elif kind is call:
                below.append(node.func)
                below += node.args
                below += node.keywords
            elif kind is ast.alias:
                names.update(node.name.split("."))
            else:
                below += CHILDREN[kind](node)
        if not below:
            return Parsed(text, tree, frozenset(names.union(["." + one for one in attributes])))
        level = below
    raise Unreadable(f"is nested more than {MAX_DEPTH} deep", getattr(level[0], "lineno", 1))


def older_f_strings(text: str) -> str:
    """The same text with the f-strings that use their own quotes inside their braces (Python 3.12) between other
    quotes, where some are free."""
    parts, position = [], 0
    while match := COMMENT_OR_STRING.search(text, position):
        parts.append(text[position : match.start()])
        if not match[1]:
            parts.append(match[0])
            position = match.end()
            continue
        prefix = match[0][: -len(match[1])]
        body, end, nested = _string(text, match.end(), match[1], "f" in prefix.lower())
        string = text[match.start() : end]
        if nested:
            for quote in ("'''", '"""'):
                if quote not in body and not body.endswith(quote[0]) and match[1] != quote:
                    string = prefix + quote + body + quote
                    break
        parts.append(string)
        position = end
    parts.append(text[position:])
    return "".join(parts)


def _string(text: str, start: int, quote: str, formatted: bool) -> tuple[str, int, bool]:
    """Body of the string that begins at `start`, where it ends with its quote, and whether its braces hold what Python
    3.11 refuses there; an unterminated string does not."""
    position, nested = start, False
    while position < len(text):
        if text.startswith(quote, position):
            return text[start:position], position + len(quote), nested
        character = text[position]
        if character == "\\":
            position += 2
        elif character == "\n" and len(quote) == 1:
            return text[start:position], position, False
        elif formatted and character == "{":
            if text.startswith("{{", position):
                position += 2
                continue
            end = _braces(text, position + 1)
            nested = nested or quote in text[position:end] or "\\" in text[position:end]
            position = end
        else:
            position += 1
    return text[start:position], len(text), False


def _braces(text: str, position: int) -> int:
    """Where the replacement field that began before `position` ends. Strings in it are stepped over."""
    depth = 1
    while position < len(text) and depth:
        character = text[position]
        if match := STRING.match(text, position):
            # A nested f-string may hold braces of its own; its quotes are its own too, so its end is found in the
            # same way.
            _, position, _ = _string(text, match.end(), match[1], text[position - 1] in "fF")
            continue
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(character, 0)
        position += 1
    return position
