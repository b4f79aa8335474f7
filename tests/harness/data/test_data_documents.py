"""Original documents come back as they were written, and a line that is none is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data.documents import read_documents, write_documents
from harness.errors import InputError


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=("Cs",)))))
def test_documents_come_back(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "documents.jsonl"
    write_documents(path, texts)
    assert list(read_documents(path)) == texts


@pytest.mark.parametrize("line", [b"", b"text", b'"text"', b"{}", b'{"text": 1}', b"\xff", b"[" * 100_000])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"documents\.jsonl: line 2 is no JSON object with a text"):
        list(read_documents(path))
