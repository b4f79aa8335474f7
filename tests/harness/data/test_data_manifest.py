"""A data directory is used only if it is, file by file, what its manifest says."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data.manifest import Manifest, PlainFile, ShardFile, Text, TextStatistics, sha256_of, verify
from harness.data.shards import write_shard
from harness.errors import InputError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A small, valid data directory."""
    (tmp_path / "tokenizer.model").write_bytes(b"not looked into")
    for number, name in enumerate(["train_0.bin", "train_1.bin", "val_0.bin"]):
        write_shard(tmp_path / name, [1, number, 7])
    Manifest(
        version=1,
        name="test",
        vocab_size=8,
        tokenizer=PlainFile.of(tmp_path / "tokenizer.model"),
        train=(ShardFile.of(tmp_path / "train_0.bin"), ShardFile.of(tmp_path / "train_1.bin")),
        val=(ShardFile.of(tmp_path / "val_0.bin"),),
        text=TextStatistics(val=Text(documents=1, bytes=6)),
        provenance={"made_by": "a test"},
    ).write(tmp_path)
    return tmp_path


def edit(directory: Path, change: Callable[[dict], object]) -> None:
    """Change the manifest as a person with an editor would."""
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_good_directory(directory: Path) -> None:
    manifest = Manifest.load(directory)
    assert [role for role, _ in manifest.entries()] == ["tokenizer", "train", "train", "val"]
    assert manifest.text.train is None
    assert manifest.sha256 == sha256_of(directory / "manifest.json")

    messages: list[str] = []
    facts = verify(directory, progress=messages.append)
    assert [fact.path.name for fact in facts] == ["tokenizer.model", "train_0.bin", "train_1.bin", "val_0.bin"]
    assert len(messages) == len(facts)
    for fact, (role, entry) in zip(facts, manifest.entries(), strict=True):
        status = os.stat(fact.path)
        assert (fact.role, fact.sha256, fact.size) == (role, entry.sha256, entry.bytes)
        assert (fact.device, fact.inode, fact.size) == (status.st_dev, status.st_ino, status.st_size)
        assert fact.sha256 == hashlib.sha256(fact.path.read_bytes()).hexdigest()


def test_the_hash_is_of_the_file_as_it_is_spelled(directory: Path) -> None:
    before = Manifest.load(directory)
    edit(directory, lambda content: None)  # the same content, other spaces
    after = Manifest.load(directory)
    assert after.model_dump() == before.model_dump()
    assert after.sha256 != before.sha256
    after.write(directory)
    assert Manifest.load(directory).sha256 == before.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "version: Input should be 1"),
        (lambda m: m.update(colour="blue"), "colour: Extra inputs are not permitted"),
        (lambda m: m.pop("val"), "val: Field required"),
        (lambda m: m.update(val=[]), "val: Tuple should have at least 1 item"),
        (lambda m: m.update(vocab_size="8"), "vocab_size: Input should be a valid integer"),
        (lambda m: m.update(vocab_size=65537), "vocab_size: Input should be less than or equal to 65536"),
        (lambda m: m["text"].pop("val"), "text.val: Field required"),
        (lambda m: m["train"][0].update(file="../train_0.bin"), "train.0.file: String should match pattern"),
        (lambda m: m["train"][0].update(file="/etc/passwd"), "train.0.file: String should match pattern"),
        (lambda m: m["train"][0].update(file=".."), "train.0.file: String should match pattern"),
        (lambda m: m["train"][0].update(file="a.bin\n"), "train.0.file: String should match pattern"),
        (lambda m: m["train"][0].update(sha256="ABC"), "train.0.sha256: String should match pattern"),
        (lambda m: m["train"][0].update(tokens=4), "train.0: train_0.bin: 4 tokens make 1032 bytes, not 1030"),
        (lambda m: m["train"][1].update(file="train_0.bin"), "train_0.bin: listed twice"),
        (lambda m: m["tokenizer"].update(file="manifest.json"), "manifest.json: listed twice, or the manifest itself"),
        (
            lambda m: m["val"][0].update(sha256=m["train"][1]["sha256"]),
            r"val_0.bin \(val\) is a copy of train_1.bin: same sha256",
        ),
        (lambda m: m["val"][0].update(file="val_9.bin"), "val_9.bin: No such file or directory"),
        (lambda m: m["tokenizer"].update(bytes=16), "tokenizer.model: has 15 bytes, the manifest says 16"),
    ],
)
def test_each_fault_of_the_manifest_is_named(change: Callable[[dict], object], message: str, directory: Path) -> None:
    edit(directory, change)
    with pytest.raises(InputError, match=message) as caught:
        Manifest.load(directory)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.model", "train_1.bin", "val_0.bin"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Path.unlink, "No such file or directory"),
        (replace_by_link, "is a symbolic link"),
        (replace_by_folder, "is not a regular file"),
        (replace_by_fifo, "is not a regular file"),
    ],
)
def test_each_fault_of_a_file_is_named(
    fault: Callable[[Path], object], message: str, name: str, directory: Path
) -> None:
    fault(directory / name)
    with pytest.raises(InputError, match=message) as caught:
        Manifest.load(directory)
    assert str(directory / name) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b" " * 1_000_001])
def test_what_is_no_manifest_is_refused(content: bytes, directory: Path) -> None:
    (directory / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match="manifest"):
        Manifest.load(directory)


def test_verify_finds_a_changed_byte(directory: Path) -> None:
    path = directory / "val_0.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    Manifest.load(directory)  # which does not read the data
    with pytest.raises(InputError, match=r"val_0.bin: sha256 is [0-9a-f]{64}, the manifest says"):
        verify(directory)


def test_verify_finds_a_changed_size(directory: Path) -> None:
    manifest = Manifest.load(directory)
    (directory / "val_0.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"val_0.bin: has 0 bytes, the manifest says 1030"):
        verify(directory, manifest)


def test_verify_looks_into_the_shards(directory: Path) -> None:
    """A hash that fits does not make a file a shard of this vocabulary."""
    edit(directory, lambda content: content.update(vocab_size=7))
    with pytest.raises(InputError, match=r"train_0.bin: token 7 at position 2 is outside the vocabulary of 7"):
        verify(directory)
    path = directory / "train_0.bin"
    path.write_bytes(b"\0" * path.stat().st_size)
    edit(directory, lambda content: content["train"][0].update(sha256=sha256_of(path)))
    with pytest.raises(InputError, match=r"train_0.bin: not a token shard"):
        verify(directory)
