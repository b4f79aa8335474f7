"""The documents of the val split as they were before they became tokens: one JSON object with a "text" on each line, in
the order of the tokens, like the contest's own export.

With them a score does not depend on the tokenizer: what the tokens decode to must be this very text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.data.shards import write_atomically
from harness.errors import InputError


def write_documents(path: Path, texts: Iterable[str]) -> None:
    """Write the documents, whole or not at all."""
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    write_atomically(path, "".join(lines).encode())


def read_documents(path: Path) -> Iterator[str]:
    """The documents, one at a time. Raises InputError that names the line that is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError, TypeError, RecursionError):
                text = None
            if not isinstance(text, str):
                raise InputError(f"{path}: line {number} is no JSON object with a text")
            yield text
