"""English prose from the documentation inside a Python installation.

The sources are the standard library's files, read and never imported, and the docstrings of the modules that have no
source. One module, one help topic or one text file makes one document; one paragraph makes one line of it. Code,
tables, doctests and lists of names are left out: a paragraph stays only if it reads like English (`is_prose`).
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError

BUILTIN_DOCS_PROGRAM = Path(__file__).resolve().with_name("_builtin_docs.py")
TOPICS = "pydoc_data/topics.py"

# Not documentation of the library, or not present in every installation of the same Python.
SKIPPED_FOLDERS = frozenset({"__pycache__", "dist-packages", "site-packages", "test", "tests", "idle_test"})
SKIPPED_FILES = "_sysconfigdata"  # names that begin so: the machine that Python was built on

WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")

# A paragraph reads like English if enough of its words are among the commonest ones.
COMMON_WORDS = frozenset(
    WORD.findall(
        "a all an and any are as at be been before but by can do does for from has have how if in instead into is "
        "it its like may more must no not of on one only or other otherwise same should so some such than that "
        "the their then there these they this those to use used using value was we when where which will with you "
        "your"
    )
)
MINIMUM_WORDS = 5
MINIMUM_COMMON = 0.15  # of the words
MINIMUM_LETTERS = 0.80  # of the characters that are not spaces

UNWANTED_SIGNS = (
    ">>>",  # a doctest
    "\ufffd",  # what decoding could not read
    "\u2581",  # SentencePiece's own sign for a space: such a text could not be restored from its tokens
)

LIST_ITEM = re.compile(r"(?:[-*•+]|\(?\d{1,2}[.)]|[a-z][.)])\s+\S")
RULE = re.compile(r"[^\w\s]{3,}$")  # a line of punctuation: an underline or a separator


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text. `name` is unique in its corpus and does not depend on the machine; `text` ends without a newline."""

    name: str
    text: str

    @property
    def size(self) -> int:
        """UTF-8 bytes of the text."""
        return len(self.text.encode())


def stdlib_folder() -> Path:
    """The standard library of the base Python, also from inside a virtual environment."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(stdlib: Path) -> list[Path]:
    """The `.py` and `.txt` files of the standard library that carry documentation, sorted by relative path."""
    found = []
    for folder, subfolders, files in os.walk(stdlib):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS]
        wanted = (name for name in files if name.endswith((".py", ".txt")) and not name.startswith(SKIPPED_FILES))
        paths = (Path(folder, name) for name in wanted)
        found += [path for path in paths if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: path.relative_to(stdlib).as_posix())


def python_documents(stdlib: Path) -> list[Document]:
    """All documents of this Python, sorted by name.

    `stdlib` may be the library of another Python only as far as this one can parse it; the built-in modules are always
    this Python's. Raises InputError for a source file that is not Python, or if the built-in modules cannot be asked.
    """
    texts: dict[str, list[str]] = {f"builtin/{name}": docs for name, docs in builtin_docstrings().items()}
    for path in source_files(stdlib):
        name = path.relative_to(stdlib).as_posix()
        if path.suffix == ".txt":
            texts[name] = [path.read_text(encoding="utf-8", errors="replace")]
        elif name == TOPICS:
            texts |= {f"topic/{topic}": [text] for topic, text in help_topics(path).items()}
        else:
            texts[name] = python_texts(path)
    documents = (Document(name=name, text="\n".join(prose(parts))) for name, parts in sorted(texts.items()))
    return [document for document in documents if document.text]


def builtin_docstrings() -> dict[str, list[str]]:
    """Docstrings of the modules without source, by module name, from a separate and isolated interpreter."""
    command = [sys.executable, "-I", "-S", str(BUILTIN_DOCS_PROGRAM)]
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.defpath}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120, cwd="/")
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"cannot read the documentation of the built-in modules: {error}") from error
    return json.loads(done.stdout)


def help_topics(path: Path) -> dict[str, str]:
    """The texts behind `help("topics")`: the one dictionary that pydoc_data/topics.py assigns."""
    for node in parse(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            return ast.literal_eval(node.value)
    raise InputError(f"{path}: holds no dictionary of help topics; is this Python's own library?")


def python_texts(path: Path) -> list[str]:
    """Everything in a source file that may be prose: string constants and blocks of comment lines, in their order."""
    texts: list[tuple[int, int, str]] = []  # line, column, text
    inside_strings: set[int] = set()  # lines on which a "#" may be part of a string
    for node in string_nodes(parse(path)):
        inside_strings.update(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, ast.Constant):
            texts.append((node.lineno, node.col_offset, node.value))

    block: list[str] = []
    for number, line in enumerate([*read_source(path).split("\n"), ""], start=1):
        comment = line.strip()
        if comment.startswith("#") and number not in inside_strings:
            block.append(comment.lstrip("#"))
        elif block:
            texts.append((number - len(block), 0, "\n".join(block)))
            block = []
    return [text for _, _, text in sorted(texts)]


def string_nodes(tree: ast.AST) -> Iterator[ast.Constant | ast.JoinedStr]:
    """The string constants and f-strings of a tree, in no particular order; f-strings are not taken apart."""
    # ast.walk would do, but takes half of a build's time.
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            yield node
            continue
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                pending.append(value)
            elif isinstance(value, list):
                pending += [item for item in value if isinstance(item, ast.AST)]


def parse(path: Path) -> ast.Module:
    """The syntax tree of a source file. Raises InputError if it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files hold escapes that Python now warns about
        try:
            return ast.parse(read_source(path))
        except (SyntaxError, ValueError) as error:
            raise InputError(
                f"{path}: not valid Python {sys.version_info[0]}.{sys.version_info[1]}: {error}"
            ) from error


def read_source(path: Path) -> str:
    """The text of a source file, decoded as its coding line says."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as Python source: {error}") from error


def prose(texts: list[str]) -> list[str]:
    """The paragraphs of `texts` that read like English, each on one line, each different one once, in order."""
    found = (paragraph for text in texts for paragraph in paragraphs(text))
    return list(dict.fromkeys(filter(is_prose, found)))


def paragraphs(text: str) -> list[str]:
    """Split at blank lines, underlines, list items and changes to deeper indentation; join lines, collapse spaces."""
    found: list[list[str]] = [[]]
    indent = 0
    for line in inspect.cleandoc(text).splitlines():
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())  # columns
        blank = not stripped or RULE.fullmatch(stripped)
        deeper = found[-1] and depth >= indent + 4 and not LIST_ITEM.match(found[-1][0])  # an item may hang
        if blank or deeper or LIST_ITEM.match(stripped):
            found.append([])
        if not blank:
            found[-1].append(stripped)
            indent = depth
    return [" ".join(" ".join(lines).split()) for lines in found if lines]


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph reads like English: enough words, enough of them common ones, and few signs."""
    words = WORD.findall(paragraph)
    if len(words) < MINIMUM_WORDS or not paragraph.isprintable():
        return False
    if any(sign in paragraph for sign in UNWANTED_SIGNS) or paragraph.count("|") > 1:  # more than one: a table
        return False
    common = sum(word.lower() in COMMON_WORDS for word in words)
    letters = sum(map(str.isalpha, paragraph))
    visible = len(paragraph) - paragraph.count(" ")
    return common >= MINIMUM_COMMON * len(words) and letters >= MINIMUM_LETTERS * visible
