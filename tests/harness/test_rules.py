"""Rules are data: every key is required, none is unknown, and a wrong one is named."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
from support import TESTS

from harness.errors import InputError
from harness.rules import DIRECTORY, load_rules

RECORD = (DIRECTORY / "record.toml").read_text()


def keys_of(tables: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in tables.items():
        found += keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found


KEYS = keys_of(tomllib.loads(RECORD))
TABLES = sorted({key.split(".")[0] for key in KEYS if "." in key})


def line_of(key: str, text: str = RECORD) -> int:
    """Number of the line of `text` that sets `key`."""
    table, _, name = key.rpartition(".")
    current = ""
    for number, line in enumerate(text.splitlines()):
        if line.startswith("["):
            current = line[1 : line.index("]")]
        elif current == table and line.split("=")[0].strip() == name:
            return number
    raise AssertionError(key)


def refused(tmp_path: Path, lines: list[str]) -> str:
    path = tmp_path / "changed.toml"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as caught:
        load_rules(str(path))
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["record", "demo"])
def test_published_rules_load_by_name_with_their_hash(name: str) -> None:
    loaded = load_rules(name)
    assert loaded.rules.name == name
    assert loaded.sha256 == hashlib.sha256((DIRECTORY / f"{name}.toml").read_bytes()).hexdigest()
    assert load_rules(str(DIRECTORY / f"{name}.toml")) == loaded


@pytest.mark.parametrize("path", [*DIRECTORY.glob("*.toml"), TESTS / "toy.toml"], ids=lambda path: path.name)
def test_all_rule_sets_have_the_same_keys(path: Path) -> None:
    assert sorted(keys_of(tomllib.loads(path.read_text()))) == sorted(KEYS)


def test_the_record_is_the_contest() -> None:
    rules = load_rules("record").rules
    assert (rules.clock.train_seconds, rules.clock.eval_seconds, rules.clock.quantize_shares_train) == (600, 600, True)
    assert rules.size.artifact_and_code_bytes == 16_000_000
    assert (rules.hardware.gpus, rules.hardware.gpu_name, rules.hardware.exclusive) == (8, "H100", True)
    assert rules.data.vocab_size == 1024
    assert rules.data.val_tokens == 62_021_846
    assert rules.seeds.default == (314, 42, 999)
    assert rules.seeds.minimum == 3
    assert (rules.significance.minimum_improvement_nats, rules.significance.p_value) == (0.005, 0.01)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(tmp_path, key: str) -> None:
    lines = RECORD.splitlines()
    del lines[line_of(key)]
    text = refused(tmp_path, lines)
    assert key in text
    assert "missing" in text


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_named(tmp_path, table: str) -> None:
    lines, kept = RECORD.splitlines(), []
    inside = False
    for line in lines:
        if line.startswith("["):
            inside = line.startswith(f"[{table}]")
        if not inside:
            kept.append(line)
    assert table in refused(tmp_path, kept)


@pytest.mark.parametrize("key", KEYS)
def test_a_misspelt_key_is_named_as_it_is_written(tmp_path, key: str) -> None:
    lines = RECORD.splitlines()
    lines[line_of(key)] = lines[line_of(key)].replace(key.rpartition(".")[2], key.rpartition(".")[2] + "s", 1)
    text = refused(tmp_path, lines)
    assert f"{key}s" in text
    assert "not a known key" in text


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["[[]]", "{ a = 1 }", "1979-05-27", "nan", "-inf"])
def test_a_wrong_type_is_named(tmp_path, key: str, value: str) -> None:
    if value == "1979-05-27" and isinstance(value_of(key), str):
        value = "1"
    lines = RECORD.splitlines()
    lines[line_of(key)] = f"{key.rpartition('.')[2]} = {value}"
    assert key in refused(tmp_path, lines)


def value_of(key: str):
    value = tomllib.loads(RECORD)
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize("key", [key for key in KEYS if isinstance(value_of(key), (int, float))])
def test_a_number_in_quotes_or_a_truth_value_is_no_number(tmp_path, key: str) -> None:
    lines = RECORD.splitlines()
    value = value_of(key)
    wrong = "1" if isinstance(value, bool) else f'"{value}"'
    lines[line_of(key)] = f"{key.rpartition('.')[2]} = {wrong}"
    assert key in refused(tmp_path, lines)
    lines[line_of(key)] = f"{key.rpartition('.')[2]} = {'2.5' if isinstance(value, bool) else 'true'}"
    assert key in refused(tmp_path, lines)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clock.train_seconds", "0"),
        ("clock.eval_seconds", "-1"),
        ("prepare.eval_seconds", "0.0"),
        ("size.artifact_and_code_bytes", "0"),
        ("size.artifact_and_code_bytes", "1.5"),
        ("checkpoint.mantissa_bits", "0"),
        ("checkpoint.mantissa_bits", "24"),
        ("limits.processes", "0"),
        ("limits.threads", "-1"),
        ("hardware.gpus", "-1"),
        ("hardware.gpu_free_bytes", "1.5"),
        ("data.vocab_size", "65537"),
        ("data.tokenizer_sha256", '"abc"'),
        ("data.tokenizer_sha256", f'"{"A" * 64}"'),
        ("seeds.default", "[]"),
        ("seeds.default", "[-1]"),
        ("seeds.default", '["1"]'),
        ("seeds.minimum", "0"),
        ("significance.p_value", "0.0"),
        ("significance.p_value", "1.0"),
        ("significance.minimum_improvement_nats", "-0.001"),
        ("significance.baseline_val_loss", '["1.0"]'),
        ("significance.baseline_val_loss", "[1.9]"),
        ("name", '"Upper Case"'),
        ("name", '""'),
    ],
)
def test_a_value_out_of_range_is_named(tmp_path, key: str, value: str) -> None:
    lines = RECORD.splitlines()
    lines[line_of(key)] = f"{key.rpartition('.')[2]} = {value}"
    assert key in refused(tmp_path, lines)


@pytest.mark.parametrize("data", [b"", b"name = ", b"\xff\xfe", b"[clock]\n[clock]\n", b"name = 'x'\nname = 'y'\n"])
def test_what_is_no_toml_is_said_to_be_none(tmp_path, data: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"broken\.toml"):
        load_rules(str(path))


@pytest.mark.parametrize("name", ["nonsense", "", "/nowhere/x.toml"])
def test_unknown_names_say_what_there_is(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_rules(name)
    assert "demo, record" in str(caught.value) or "cannot read" in str(caught.value)


def test_rules_cannot_be_changed_once_they_are_loaded() -> None:
    rules = load_rules("record").rules
    with pytest.raises(ValueError, match="frozen"):
        rules.clock.train_seconds = 6000
