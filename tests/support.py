"""What the tests share: a toy data directory, submissions from folders, and one way to run them under the referee."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
from rich.console import Console

from harness import doctor
from harness.data.documents import write_documents
from harness.data.manifest import Manifest, PlainFile, ShardFile, Text, TextStatistics
from harness.data.shards import BOS, read_shard, write_shard
from harness.evidence.record import Record
from harness.progress import ConsoleObserver
from harness.referee import RunRequest, run_record
from harness.rules import LoadedRules
from harness.sandbox.bubblewrap import BubblewrapSandbox
from harness.supervisor import Observer

TESTS = Path(__file__).parent
WORDS = (
    "the",
    "model",
    "token",
    "window",
    "score",
    "clock",
    "gate",
    "record",
    "open",
    "of",
    "and",
    "in",
    "never",
    "every",
)


def toy_documents(count: int, seed: int) -> list[str]:
    """Sentences of made-up English; enough structure for a tokenizer, and a little that is not ASCII."""
    generator = np.random.default_rng(seed)
    documents = []
    for number in range(count):
        words = [WORDS[int(index)] for index in generator.integers(0, len(WORDS), int(generator.integers(5, 60)))]
        documents.append(" ".join(words).capitalize() + (" – naïve 世界" if number % 7 == 0 else "."))
    return documents


def make_toy_data(directory: Path, *, vocab_size: int = 320) -> Path:
    """A data directory in the contest's format: two train shards, one val shard, a tokenizer with byte fallback, a
    manifest.
    """
    directory.mkdir()
    train, val = toy_documents(900, 0), toy_documents(60, 1)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(train),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    shards = {"toy_train_000000.bin": train[:450], "toy_train_000001.bin": train[450:], "toy_val_000000.bin": val}
    for name, documents in shards.items():
        tokens = np.concatenate([[tokenizer.bos_id(), *tokenizer.encode(document)] for document in documents])
        write_shard(directory / name, tokens.astype(np.uint16))
    write_documents(directory / "toy_val_documents.jsonl", val)
    entries = {name: ShardFile.of(directory / name) for name in shards}
    Manifest(
        version=1,
        name="toy",
        vocab_size=vocab_size,
        tokenizer=PlainFile.of(directory / "tokenizer.model"),
        train=tuple(entry for name, entry in entries.items() if "train" in name),
        val=(entries["toy_val_000000.bin"],),
        val_documents=PlainFile.of(directory / "toy_val_documents.jsonl"),
        text=TextStatistics(val=Text(documents=len(val), bytes=sum(len(document.encode()) for document in val))),
        provenance={"made_by": "tests/conftest.py"},
    ).write(directory)
    return directory


def give_val_to_train(data: Path, every: int = 1) -> None:
    """Put val documents into the last train shard of a toy data directory, all but one of `every`, and say so in its
    manifest.
    """
    manifest = Manifest.load(data)
    train, val = manifest.train[-1].file, read_shard(data / manifest.val[0].file)
    documents = np.split(val, np.flatnonzero(val == BOS)[1:])
    given = [document for number, document in enumerate(documents) if every == 1 or number % every]
    write_shard(data / train, np.concatenate([read_shard(data / train), *given]))
    changed = manifest.model_copy(update={"train": (*manifest.train[:-1], ShardFile.of(data / train))})
    changed.write(data)


def assemble(folder: Path, destination: Path) -> Path:
    """A submission made of tests/honest/minimal with the files of `folder` laid over it."""
    shutil.copytree(
        TESTS / "honest" / "minimal", destination, ignore=shutil.ignore_patterns("expect.toml", "__pycache__")
    )
    shutil.copytree(
        folder, destination, dirs_exist_ok=True, ignore=shutil.ignore_patterns("expect.toml", "__pycache__")
    )
    return destination


@contextmanager
def exchanging(*pairs: tuple[Path, Path]) -> Iterator[None]:
    """A process that exchanges the names of each pair as fast as it can, with no instant at which one is missing."""
    program = """
import ctypes, os, sys
names = [os.fsencode(name) for name in sys.argv[1:]]
rename = ctypes.CDLL(None).renameat2
print(flush=True)
while True:
    for one, other in zip(names[::2], names[1::2]):
        if rename(-100, one, -100, other, 2):  # RENAME_EXCHANGE
            sys.exit("renameat2")
"""
    arguments = [str(path) for pair in pairs for path in pair]
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", program, *arguments], stdout=subprocess.PIPE)
    with process:
        process.stdout.readline()
        try:
            yield
            assert process.poll() is None, "nothing was exchanged"
        finally:
            process.kill()


@dataclass(frozen=True)
class Referee:
    """Runs submissions under toy rules, as the command line would."""

    rules: LoadedRules
    data: Path
    out: Path
    machine: list[doctor.Check]

    def run(self, submission: Path, observer: Observer | None = None, **changes) -> tuple[Record, Path]:
        observer = observer or ConsoleObserver(Console(file=io.StringIO()))
        request = {
            "rules": self.rules,
            "submission": submission,
            "data": self.data,
            "seeds": self.rules.rules.seeds.default,
            "out": self.out,
            "sandbox": BubblewrapSandbox(),
            "monitored": os.geteuid() == 0,
            "missing_witnesses": doctor.require(self.machine),
            "environment": {},
        }
        return run_record(RunRequest(**{**request, **changes}), observer)


class Disk:
    """A small ext4 file system in an image on a loop device, mounted on `folder`. Needs root; for a `with` block."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with image.open("wb") as file:
            file.truncate(16 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        made = subprocess.run(["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True)
        self.device = made.stdout.strip()

    def __enter__(self) -> Disk:
        self.mount()
        return self

    def __exit__(self, *exception) -> None:
        subprocess.run(["umount", "--quiet", "--lazy", str(self.folder)], check=False)
        subprocess.run(["losetup", "--detach", self.device], check=True)

    def mount(self) -> None:
        subprocess.run(["mount", self.device, str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)

    def mount_anew(self) -> None:
        """Unmount and mount again: the same files under the same names, device and inode numbers.

        Waits for sandboxes of other tests, which hold a copy of the mount if they were started while it was there."""
        self.unmount()
        deadline = time.monotonic() + 60
        while True:
            try:
                os.close(os.open(self.device, os.O_RDONLY | os.O_EXCL))
            except OSError:
                assert time.monotonic() < deadline, f"{self.device} is still mounted somewhere"
                time.sleep(0.05)
            else:
                break
        self.mount()
