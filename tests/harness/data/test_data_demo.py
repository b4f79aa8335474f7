"""The demo corpus is the same bytes for the same Python, and its tokens give back the text."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from harness.data import demo
from harness.data.manifest import Manifest, verify
from harness.data.overlap import measure
from harness.data.prose import Document, python_documents, stdlib_folder
from harness.data.shards import read_shard
from harness.data.split import overlap
from harness.errors import InputError

COMMON = ["the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not"]
SYLLABLES = [f"{first}{second}" for first in ("b", "d", "g", "l", "m", "n", "pr", "st") for second in "aeiou"]
RARE = [first + second for first in SYLLABLES for second in SYLLABLES]


def synthetic_documents(count: int = 150) -> list[Document]:
    """English-looking documents without near copies, with some characters that only byte fallback can encode."""
    source = random.Random(7)
    lines = lambda: (" ".join(source.choices(COMMON * 50 + RARE, k=24)) + " 1990 “naïve” λ 🐍." for _ in range(8))  # noqa: E731
    return [Document(name=f"module_{number}.py", text="\n".join(lines())) for number in range(count)]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def documents_of(tokens: np.ndarray) -> list[list[int]]:
    """Cut at BOS, which is left out."""
    starts = np.flatnonzero(tokens == demo.BOS)
    assert starts[0] == 0
    return [part[1:].tolist() for part in np.split(tokens, starts[1:])]


@pytest.fixture
def small_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python with little documentation, so that a build takes a moment only."""
    monkeypatch.setattr(demo, "python_documents", lambda stdlib: synthetic_documents())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real corpus of this Python."""
    directory = tmp_path_factory.mktemp("corpus") / "demo"
    demo.build_demo_corpus(directory)
    return directory


def check_corpus(directory: Path, documents: list[Document]) -> None:
    """The shards hold the split of these documents, each after a BOS, and decode to their very text."""
    manifest = Manifest.load(directory)
    verify(directory, manifest)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(directory / manifest.tokenizer.file))
    assert tokenizer.vocab_size() == manifest.vocab_size == 1024
    assert [tokenizer.pad_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.unk_id()] == [0, 1, 2, 3]
    assert sum(map(tokenizer.is_byte, range(1024))) == 256

    parts = demo.demo_split(documents)
    assert overlap(parts.train, parts.val) == 0
    for shards, expected, text in (
        (manifest.train, parts.train, manifest.text.train),
        (manifest.val, parts.val, manifest.text.val),
    ):
        tokens = np.concatenate([read_shard(directory / shard.file, vocab_size=1024) for shard in shards])
        decoded = [tokenizer.decode(document).encode() for document in documents_of(tokens)]
        assert decoded == [document.text.encode() for document in expected]
        assert (text.documents, text.bytes) == (len(decoded), sum(map(len, decoded)))
        assert demo.UNKNOWN not in tokens
        assert all(read_shard(directory / shard.file)[0] == demo.BOS for shard in shards), "whole documents in a shard"


@pytest.mark.usefixtures("small_python")
def test_a_small_corpus(tmp_path: Path) -> None:
    directory = tmp_path / "some" / "where"
    manifest = demo.build_demo_corpus(directory)
    assert manifest == Manifest.load(directory)
    assert [len(manifest.train), len(manifest.val)] == [2, 1]
    check_corpus(directory, synthetic_documents())
    assert os.listdir(directory.parent) == ["where"], "nothing is left beside it"


@pytest.mark.usefixtures("small_python")
def test_place_and_umask_change_nothing(tmp_path: Path) -> None:
    demo.build_demo_corpus(tmp_path / "one")
    before = os.umask(0o077)
    try:
        demo.build_demo_corpus(tmp_path / "two")
    finally:
        os.umask(before)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert stat.S_IMODE((tmp_path / "two").stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "two").iterdir()} == {0o644}


@pytest.mark.usefixtures("small_python")
def test_an_intact_corpus_is_left_alone_and_another_is_replaced(tmp_path: Path, monkeypatch) -> None:
    directory = tmp_path / "demo"
    demo.build_demo_corpus(directory)
    good, inode = contents(directory), directory.stat().st_ino

    demo.build_demo_corpus(directory)
    assert directory.stat().st_ino == inode

    val = directory / "demo_val_000000.bin"
    val.write_bytes(val.read_bytes()[:-2] + b"\1\0")
    messages: list[str] = []
    demo.build_demo_corpus(directory, messages.append)
    assert contents(directory) == good
    assert any("demo_val_000000.bin: sha256 is" in message for message in messages)

    monkeypatch.setattr(demo, "RECIPE", "another")
    assert demo.build_demo_corpus(directory).provenance["recipe"] == "another"
    assert os.listdir(tmp_path) == ["demo"]


@pytest.mark.usefixtures("small_python")
def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something that is not a demo corpus"):
        demo.build_demo_corpus(directory)
    (directory / "thesis.txt").unlink()
    demo.build_demo_corpus(directory)
    (directory / "thesis.txt").write_text("years of work")
    (directory / "tokenizer.model").unlink()
    with pytest.raises(InputError, match="holds something that is not a demo corpus"):
        demo.build_demo_corpus(directory)
    assert (directory / "thesis.txt").exists()
    with pytest.raises(InputError, match="cannot make the demo corpus there"):
        demo.build_demo_corpus(directory / "thesis.txt" / "demo")


@pytest.mark.usefixtures("small_python")
def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def full_disk(path: Path, tokens: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "write_shard", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        demo.build_demo_corpus(tmp_path / "demo")
    assert os.listdir(tmp_path) == []


def test_a_python_without_documentation_is_an_error_of_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(demo, "python_documents", lambda stdlib: synthetic_documents(1))
    with pytest.raises(InputError, match="too little documentation"):
        demo.build_demo_corpus(tmp_path / "demo")
    with pytest.raises(InputError, match="cannot make 1024 tokens from 1 documents"):
        demo.train_tokenizer(synthetic_documents(1))


@pytest.mark.slow
def test_the_corpus_of_this_python(corpus: Path) -> None:
    check_corpus(corpus, python_documents(stdlib_folder()))
    manifest = Manifest.load(corpus)
    assert manifest.text.train.bytes > 1_800_000
    assert 200_000 < manifest.text.val.bytes < 500_000


@pytest.mark.slow
def test_no_val_document_of_this_python_s_corpus_is_in_train(corpus: Path) -> None:
    """By tokens, which are shorter than the words that the split goes by."""
    manifest = Manifest.load(corpus)
    train, [val] = [corpus / shard.file for shard in manifest.train], manifest.val
    assert measure(train, read_shard(corpus / val.file)).in_train == 0


@pytest.mark.slow
def test_the_same_python_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    demo.build_demo_corpus(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(corpus)
