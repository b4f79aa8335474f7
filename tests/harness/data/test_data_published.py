"""What to bring follows from the published manifest, and from what is known beforehand; where they differ nothing is
brought."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import pytest

from harness.data.published import Pinned, load_pinned, make_plan
from harness.errors import InputError
from harness.rules import load_rules

PUBLISHED = {
    "version": "10B",
    "shard_size": 100_000_000,
    "tokenizers": [
        {"name": "sp_bpe_1024", "model_path": "tokenizers/fineweb_1024_bpe.model", "vocab_path": "tokenizers/f.vocab"},
        {"name": "pure_byte_260", "path": "tokenizers/fineweb_pure_byte_260.json"},
    ],
    "datasets": [
        {
            "name": "fineweb10B_sp1024",
            "tokenizer_name": "sp_bpe_1024",
            "vocab_size": 1024,
            "stats": {
                "docs_val": 50_000,
                "files_val": 1,
                "files_train": 195,
                "tokens_val": 62_021_846,
                "tokens_train": 19_473_201_340,
            },
        },
        {
            "name": "fineweb10B_byte260",
            "tokenizer_name": "pure_byte_260",
            "stats": {"files_val": 1, "files_train": 9},
        },
    ],
}


def published(change: Callable[[dict], object] = lambda manifest: None) -> bytes:
    manifest = copy.deepcopy(PUBLISHED)
    change(manifest)
    return json.dumps(manifest).encode()


def stats(**changes: int | None) -> Callable[[dict], None]:
    def change(manifest: dict) -> None:
        found = manifest["datasets"][0]["stats"]
        found |= changes
        for name in [name for name, value in changes.items() if value is None]:
            del found[name]

    return change


def test_the_plan_for_the_contest_s_data() -> None:
    plan = make_plan(published(), "sp1024", 80)
    assert plan.tokenizer.path == "tokenizers/fineweb_1024_bpe.model"
    assert [(shard.role, shard.tokens) for shard in plan.shards[:2]] == [("val", 62_021_846), ("train", 100_000_000)]
    assert len(plan.files) == 82
    assert plan.files[-1].path == "datasets/fineweb10B_sp1024/fineweb_train_000079.bin"
    assert plan.files[-1].name == "fineweb_train_000079.bin"
    assert (plan.vocab_size, plan.val_documents, plan.val_tokens) == (1024, 50_000, 62_021_846)
    assert make_plan(published(), "sp1024", 195).files[-1].tokens == 73_201_340, "the last shard has what is left"


def test_what_is_pinned_is_what_the_record_s_rules_want() -> None:
    known, data = load_pinned("fineweb10B_sp1024"), load_rules("record").rules.data
    assert (known.val_tokens, known.sha256["fineweb_1024_bpe.model"]) == (data.val_tokens, data.tokenizer_sha256)
    assert load_pinned("fineweb10B_sp4096") == Pinned()


def test_what_the_manifest_leaves_out_is_pinned_or_not_checked() -> None:
    bare = published(lambda m: (m.pop("shard_size"), stats(docs_val=None, tokens_val=None, tokens_train=None)(m)))
    assert make_plan(bare, "sp1024", 195) == make_plan(published(), "sp1024", 195)
    plan = make_plan(bare, "sp1024", 2, Pinned())
    assert [shard.tokens for shard in plan.shards] == [None, None, None]
    assert (plan.val_documents, plan.val_tokens, plan.sha256) == (None, None, {})


@pytest.mark.parametrize(
    ("change", "variant", "shards", "message"),
    [
        (lambda m: m.pop("datasets"), "sp1024", 1, "the published manifest.json: datasets: Field required"),
        (stats(files_train=None), "sp1024", 1, "the published manifest.json: datasets.0.stats.files_train: Field"),
        (stats(files_train=0), "sp1024", 1, "files_train: Input should be greater than or equal to 1"),
        (lambda m: None, "sp2048", 1, "has no variant 'sp2048'; it has sp1024, byte260"),
        (lambda m: None, "sp1024", 196, "fineweb10B_sp1024 has 195 train shards, not 196: ask for fewer"),
        (lambda m: None, "byte260", 1, "fineweb10B_byte260: its tokenizer is no SentencePiece model"),
        (lambda m: m["tokenizers"].pop(0), "sp1024", 1, "has no tokenizer 'sp_bpe_1024'"),
        (lambda m: m["tokenizers"][0].update(model_path="../../x.model"), "sp1024", 1, "no path inside"),
        (lambda m: m["tokenizers"][0].update(model_path="/etc/x.model"), "sp1024", 1, "no path inside"),
        (lambda m: m["tokenizers"][0].update(model_path="tokenizers/-x y"), "sp1024", 1, "no path inside"),
        (stats(tokens_val=62_021_845), "sp1024", 1, "62,021,845 val tokens, but it is known to have 62,021,846"),
        (stats(docs_val=49_999), "sp1024", 1, "49,999 val documents, but it is known to have 50,000"),
        (stats(files_train=194), "sp1024", 1, "194 train shards, but it is known to have 195"),
        (stats(tokens_train=19_473_201_341), "sp1024", 1, "19,473,201,341 train tokens, but it is known to have"),
        (lambda m: m.update(shard_size=10), "sp1024", 1, "10 tokens in a shard, but it is known to have 100,000,000"),
    ],
)
def test_a_manifest_that_does_not_do(change: Callable, variant: str, shards: int, message: str) -> None:
    with pytest.raises(InputError, match="(?s)" + message) as caught:
        make_plan(published(change), variant, shards)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tokens", [194 * 100_000_000, 195 * 100_000_000 + 1])
def test_shards_and_tokens_must_add_up(tokens: int) -> None:
    with pytest.raises(
        InputError, match=r"195 train shards of 100,000,000 tokens do not make 19,\d{3},000,00\d tokens"
    ):
        make_plan(published(stats(tokens_train=tokens)), "sp1024", 1, Pinned())


@pytest.mark.parametrize("content", [b"", b"not JSON", b"[]", b"\xff", b"null"])
def test_no_manifest_at_all(content: bytes) -> None:
    with pytest.raises(InputError, match=r"the published manifest.json: the whole file: "):
        make_plan(content, "sp1024", 1)
