"""The demo corpus: real English text that needs no download, as shards with a tokenizer and a manifest.

The same Python gives the same bytes: nothing here depends on time, place, order of a set or number of cores.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sentencepiece

from harness.data.documents import write_documents
from harness.data.manifest import (
    MANIFEST_NAME,
    Manifest,
    PlainFile,
    Progress,
    ShardFile,
    Text,
    TextStatistics,
    verify,
)
from harness.data.prose import Document, python_documents, source_files, stdlib_folder
from harness.data.shards import BOS, write_atomically, write_shard
from harness.data.split import Split, overlap, split, without_repeats
from harness.errors import InputError, RefereeError

NAME = "demo"
RECIPE = "2"  # raise it with every change that changes the corpus
VOCAB_SIZE = 1024
TRAIN_SHARDS = 2
MINIMUM_DOCUMENT_BYTES = 500  # what is shorter is mostly boilerplate that differs in a name
VAL_SHARE = 0.12
LARGEST_SHARE = 0.08  # of val that one cluster may have

PAD, EOS, UNKNOWN = 0, 2, 3  # token ids, as in the contest's tokenizer; BOS is 1


def build_demo_corpus(directory: str | os.PathLike[str], progress: Progress | None = None) -> Manifest:
    """Make the demo corpus in `directory`, unless it is there already and intact.

    All files appear at once and complete. Builders of the same directory wait for one another. A demo corpus that is
    damaged or of another Python is replaced; raises InputError if anything else is there, or if this Python carries too
    little documentation.
    """
    say = progress or (lambda message: None)
    directory = Path(directory).absolute()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _alone(directory.parent):
            provenance = _provenance()
            manifest = _intact(directory, provenance, say) or _build(directory, provenance, say)
    except OSError as error:
        raise InputError(f"{directory}: cannot make the demo corpus there: {error}") from error
    train, val = (sum(shard.tokens for shard in shards) for shards in (manifest.train, manifest.val))
    say(f"{directory}: {train:,} train tokens, {val:,} val tokens")
    return manifest


def demo_split(documents: Sequence[Document]) -> Split:
    """Divide the documents as the demo corpus does.

    Raises InputError if a side is empty, RefereeError if a side holds text of the other.
    """
    useful = [document for document in without_repeats(documents) if document.size >= MINIMUM_DOCUMENT_BYTES]
    parts = split(useful, val_share=VAL_SHARE, largest_share=LARGEST_SHARE)
    if not parts.train or not parts.val:
        raise InputError(f"this Python's library carries too little documentation ({len(useful)} usable documents)")
    shared = overlap(parts.train, parts.val)
    if shared > 0:
        raise RefereeError(f"a val document shares {shared:.1%} of its text with train: the split is wrong")
    return parts


def train_tokenizer(documents: Sequence[Document]) -> bytes:
    """A SentencePiece BPE model of VOCAB_SIZE pieces, as the bytes of its file.

    Ids, digits and prefix as in the contest's; byte fallback and no normalisation, so that decoding restores the text.
    Raises InputError if the text is too little for that.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for document in documents for line in document.text.split("\n")),
            model_writer=model,
            model_type="bpe",
            vocab_size=VOCAB_SIZE,
            byte_fallback=True,
            character_coverage=0.999,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNKNOWN,
            max_sentence_length=1 << 20,  # bytes; longer ones would be skipped
            num_threads=1,  # more threads may break ties differently
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(f"cannot make {VOCAB_SIZE} tokens from {len(documents)} documents: {error}") from error
    return model.getvalue()


def tokenize(tokenizer: sentencepiece.SentencePieceProcessor, documents: Sequence[Document]) -> list[np.ndarray]:
    """Tokens of each document, BOS first: uint16 [tokens].

    Raises RefereeError if the text cannot be restored from them.
    """
    encoded = []
    for document in documents:
        tokens = tokenizer.encode(document.text)
        if tokenizer.decode(tokens) != document.text:
            raise RefereeError(f"{document.name}: the tokens do not decode to the text they were made of")
        encoded.append(np.array([BOS, *tokens], dtype=np.uint16))
    return encoded


def _intact(directory: Path, provenance: dict[str, str], say: Progress) -> Manifest | None:
    """The manifest, if the directory holds exactly the corpus that would be built."""
    if not _is_ours(directory):
        return None
    try:
        manifest = Manifest.load(directory)
        if manifest.provenance == provenance:
            verify(directory, manifest)
            return manifest
        say(f"{directory}: made by another Python or recipe, building it again")
    except InputError as error:
        say(f"{error} (building it again)")
    return None


def _build(directory: Path, provenance: dict[str, str], say: Progress) -> Manifest:
    """Build beside the directory, then put it in its place."""
    if directory.exists() and not _is_ours(directory) and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: holds something that is not a demo corpus; name another directory or remove it")
    say("reading the documentation of the standard library")
    documents = python_documents(stdlib_folder())
    say(f"dividing {len(documents)} documents into train and val")
    parts = demo_split(documents)
    say(f"training the tokenizer on {_text(parts.train).bytes:,} bytes of text")
    model = train_tokenizer(parts.train)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
    say("writing the shards")
    workplace = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        folder = workplace / "new"
        folder.mkdir()
        folder.chmod(0o755)
        write_atomically(folder / "tokenizer.model", model)
        val_documents = folder / f"{NAME}_val_documents.jsonl"
        write_documents(val_documents, [document.text for document in parts.val])
        manifest = Manifest(
            version=1,
            name=NAME,
            vocab_size=tokenizer.vocab_size(),
            tokenizer=PlainFile.of(folder / "tokenizer.model"),
            train=_write_shards(folder, "train", tokenize(tokenizer, parts.train), TRAIN_SHARDS),
            val=_write_shards(folder, "val", tokenize(tokenizer, parts.val), 1),
            val_documents=PlainFile.of(val_documents),
            text=TextStatistics(train=_text(parts.train), val=_text(parts.val)),
            provenance=provenance,
        )
        manifest.write(folder)
        if directory.exists():
            directory.rename(workplace / "old")
        folder.rename(directory)
    finally:
        shutil.rmtree(workplace)
    return Manifest.load(directory)


def _write_shards(folder: Path, split_name: str, encoded: list[np.ndarray], count: int) -> tuple[ShardFile, ...]:
    """Write whole documents into `count` shards of about the same number of tokens."""
    ends = np.cumsum([len(tokens) for tokens in encoded])
    borders = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count, side="right")
    groups = np.split(np.arange(len(encoded)), borders)
    entries = []
    for number, group in enumerate(groups):
        path = folder / f"{NAME}_{split_name}_{number:06d}.bin"
        write_shard(path, np.concatenate([encoded[index] for index in group]))
        entries.append(ShardFile.of(path))
    return tuple(entries)


def _text(documents: Sequence[Document]) -> Text:
    return Text(documents=len(documents), bytes=sum(document.size for document in documents))


def _provenance() -> dict[str, str]:
    """Everything the corpus depends on, cheap to learn: equal provenance means equal bytes."""
    stdlib = stdlib_folder()
    listing = "".join(f"{path.relative_to(stdlib).as_posix()} {path.stat().st_size}\n" for path in source_files(stdlib))
    return {
        "made_by": "harness.data.demo: documentation of Python's standard library, split by cluster of near copies",
        "recipe": RECIPE,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "library_files_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "sentencepiece": sentencepiece.__version__,
    }


def _is_ours(directory: Path) -> bool:
    """Whether the directory holds a demo corpus, perhaps a damaged one, and nothing else: then it may be replaced."""
    try:
        names = {path.name for path in directory.iterdir()}
    except OSError:
        return False
    return MANIFEST_NAME in names and all(
        name in (MANIFEST_NAME, "tokenizer.model") or name.startswith(f"{NAME}_") for name in names
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
