"""What the contest publishes: where the files of a variant are, and how much each must hold.

The published data has a `manifest.json` of its own, not ours, with its tokenizers and data sets:

    manifest.json
    datasets/fineweb10B_sp1024/fineweb_train_000000.bin, ..., fineweb_val_000000.bin, ...
    tokenizers/fineweb_1024_bpe.model

What is known of a data set beforehand is in `pinned.toml`; data under such a name must agree with it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.data.manifest import MANIFEST_NAME, Count, Sha256
from harness.errors import InputError

PINNED = Path(__file__).with_name("pinned.toml")
NAME_PREFIX = "fineweb10B_"  # of a data set; the rest is its variant

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class _Published(BaseModel):
    model_config = ConfigDict(frozen=True)  # keys that nobody here needs are passed over


class PublishedStats(_Published):
    """How much a data set holds; train and val as in the names of its files."""

    files_train: Count
    files_val: Count
    tokens_train: Count | None = None
    tokens_val: Count | None = None
    docs_val: Count | None = None


class PublishedDataset(_Published):
    """One data set: the shards of one tokenizer."""

    name: str
    tokenizer_name: str
    vocab_size: int | None = None
    stats: PublishedStats


class PublishedTokenizer(_Published):
    """One tokenizer; without a `model_path` it is no SentencePiece model."""

    name: str
    model_path: str | None = None


class PublishedManifest(_Published):
    """The parts of the published `manifest.json` that matter here."""

    shard_size: Count | None = None  # tokens of every shard but the last of each split
    tokenizers: tuple[PublishedTokenizer, ...]
    datasets: tuple[PublishedDataset, ...]


class Pinned(BaseModel):
    """What is known of a data set beforehand; None, or no entry, where nothing is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    val_documents: Count | None = None
    val_tokens: Count | None = None
    val_shards: Count | None = None
    train_tokens: Count | None = None
    train_shards: Count | None = None
    shard_tokens: Count | None = None
    sha256: dict[str, Sha256] = {}  # by file name


def load_pinned(dataset: str) -> Pinned:
    """What `pinned.toml` says of a data set."""
    return Pinned.model_validate(tomllib.loads(PINNED.read_text()).get(dataset, {}))


@dataclass(frozen=True, kw_only=True)
class WantedFile:
    """A file to bring: its path in the origin, and the tokens that it must hold, if it is a shard and that is known."""

    role: Literal["tokenizer", "train", "val"]
    path: str
    tokens: int | None = None

    @property
    def name(self) -> str:
        """Its name in the data directory."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one variant needs of an origin, and what must be true of it as a whole."""

    dataset: str
    vocab_size: int | None
    tokenizer: WantedFile
    shards: tuple[WantedFile, ...]  # val, then train
    val_documents: int | None
    val_tokens: int | None
    sha256: dict[str, str]  # pinned, by file name

    @property
    def files(self) -> tuple[WantedFile, ...]:
        """All of them, in the order in which they are brought."""
        return (self.tokenizer, *self.shards)


def make_plan(published: bytes, variant: str, train_shards: int, pinned: Pinned | None = None) -> Plan:
    """Read a published manifest and choose the files of `variant` (such as sp1024), with the first `train_shards`.

    pinned: what is known of the data set, unless it is what `pinned.toml` says. Raises InputError if the manifest is
    none, lacks the variant or so many shards, or contradicts what is pinned.
    """
    name = NAME_PREFIX + variant
    try:
        manifest = PublishedManifest.model_validate_json(published)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the whole file"
        raise InputError(f"the published {MANIFEST_NAME}: {key}: {first['msg']}") from error
    dataset = next((entry for entry in manifest.datasets if entry.name == name), None)
    if dataset is None:
        others = ", ".join(entry.name.removeprefix(NAME_PREFIX) for entry in manifest.datasets) or "none"
        raise InputError(f"the published {MANIFEST_NAME} has no variant {variant!r}; it has {others}")
    known = load_pinned(name) if pinned is None else pinned
    agree = _Agreement(name)
    stats = dataset.stats
    shard_tokens = agree("tokens in a shard", manifest.shard_size, known.shard_tokens)
    published_train = agree("train shards", stats.files_train, known.train_shards)
    if train_shards > published_train:
        raise InputError(f"{name} has {published_train} train shards, not {train_shards}: ask for fewer")
    splits = {
        "val": (agree("val shards", stats.files_val, known.val_shards), known.val_tokens, stats.tokens_val),
        "train": (published_train, known.train_tokens, stats.tokens_train),
    }
    shards: list[WantedFile] = []
    for role, (count, known_tokens, said_tokens) in splits.items():
        sizes = _shard_sizes(name, role, count, agree(f"{role} tokens", said_tokens, known_tokens), shard_tokens)
        shards += [
            WantedFile(role=role, path=f"datasets/{name}/fineweb_{role}_{number:06d}.bin", tokens=tokens)
            for number, tokens in enumerate(sizes[:train_shards] if role == "train" else sizes)
        ]
    return Plan(
        dataset=name,
        vocab_size=dataset.vocab_size,
        tokenizer=WantedFile(role="tokenizer", path=_tokenizer_path(manifest, dataset)),
        shards=tuple(shards),
        val_documents=agree("val documents", stats.docs_val, known.val_documents),
        val_tokens=agree("val tokens", stats.tokens_val, known.val_tokens),
        sha256=dict(known.sha256),
    )


@dataclass(frozen=True)
class _Agreement:
    """Published and pinned numbers of one data set, which must not differ."""

    dataset: str

    def __call__(self, what: str, published: int | None, pinned: int | None) -> int | None:
        if published is not None and pinned is not None and published != pinned:
            raise InputError(
                f"the published {MANIFEST_NAME} gives {self.dataset} {published:,} {what}, but it is known to have "
                f"{pinned:,}: this is other data under that name"
            )
        return published if pinned is None else pinned


def _tokenizer_path(manifest: PublishedManifest, dataset: PublishedDataset) -> str:
    """Where the SentencePiece model of a data set is in the origin."""
    entry = next((each for each in manifest.tokenizers if each.name == dataset.tokenizer_name), None)
    if entry is None:
        raise InputError(f"the published {MANIFEST_NAME} has no tokenizer {dataset.tokenizer_name!r}")
    if entry.model_path is None:
        raise InputError(f"{dataset.name}: its tokenizer is no SentencePiece model; only such can be scored here")
    path = PurePosixPath(entry.model_path)
    if path.is_absolute() or ".." in path.parts or not _PLAIN_NAME.fullmatch(path.name):
        raise InputError(f"the published {MANIFEST_NAME}: {entry.model_path!r} is no path inside the published data")
    return str(path)


def _shard_sizes(name: str, role: str, count: int, tokens: int | None, shard_tokens: int | None) -> list[int | None]:
    """Tokens of each shard of a split, None where they do not follow from the numbers."""
    if tokens is None or (shard_tokens is None and count > 1):
        return [shard_tokens] * (count - 1) + [None]
    last = tokens - (count - 1) * (shard_tokens or 0)
    if last < 1 or (shard_tokens is not None and last > shard_tokens):
        raise InputError(f"{name}: {count} {role} shards of {shard_tokens:,} tokens do not make {tokens:,} tokens")
    return [shard_tokens] * (count - 1) + [last]
