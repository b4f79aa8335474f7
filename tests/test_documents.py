"""Documents that could drift from the code are compared with it."""

from __future__ import annotations

import dataclasses
import re
import tomllib

from nvml import Card, FakeNvml
from support import TESTS

from harness.doctor import environment
from harness.errors import Reason
from harness.evidence.record import json_schema
from harness.gpus import find_gpus
from harness.machine import survey

DOCS = TESTS.parent / "docs"


def test_threat_model_names_every_cheat_with_its_outcome():
    text = (DOCS / "threat-model.md").read_text()
    rows = dict(re.findall(r"^\| \[([a-z0-9-]+)\]\(\.\./tests/cheats/\1\) \| `([a-z_]+)` \|", text, re.MULTILINE))
    expected = {
        folder.name: tomllib.loads((folder / "expect.toml").read_text())["reason"]
        for folder in (TESTS / "cheats").iterdir()
    }
    assert rows == expected


def test_every_row_of_the_catalogue_is_shown_by_something_that_exists():
    text = (DOCS / "threat-model.md").read_text()
    section = text.partition("## The catalogue")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([A-Z]\d\d) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    assert len(rows) == section.count("\n| ") - 1, "a row does not look like a row"
    assert len({row[0] for row in rows}) == len(rows) > 80
    tests = {path.name: path.read_text() for path in TESTS.rglob("test_*.py")}
    tests["probe.py"] = (TESTS.parent / "harness" / "sandbox" / "probe.py").read_text()
    for number, _, outcome, shown in rows:
        names = re.findall(r"`([^`]+)`", shown)
        folders = [name for name in names if name.startswith(("cheats/", "honest/"))]
        functions = [name.partition("::") for name in names if "::" in name]
        assert outcome in ("not met", "not here") or folders or functions or number == "A03", number
        for folder in folders:
            assert (TESTS / folder / "expect.toml").is_file(), folder
        for file, _, function in functions:
            assert re.search(rf"^def {function}\(", tests[file], re.MULTILINE), f"{file}::{function}"


def test_expected_reasons_are_codes_of_the_harness():
    for file in (TESTS / "cheats").glob("*/expect.toml"):
        assert tomllib.loads(file.read_text())["reason"] in set(Reason)


def test_record_schema_is_current():
    """After a change of harness/evidence/record.py: `make schema`."""
    assert (DOCS / "record.schema.json").read_text() == json_schema()


def test_every_rule_key_is_explained():
    text = (DOCS / "rules.md").read_text()
    for table, keys in tomllib.loads((TESTS.parent / "harness" / "rules" / "record.toml").read_text()).items():
        if isinstance(keys, dict) and table not in ("prepare", "significance"):
            for key in keys:
                assert f"`{key}`" in text or f"`{table}.{key}`" in text, f"{table}.{key}"


def test_every_fact_of_the_environment_is_explained():
    """With two GPUs that this machine need not have; `gpu0_` and `gpu1_` are `gpuN_` in the document."""
    gpus = find_gpus(FakeNvml([Card(), Card()]))
    facts = environment(dataclasses.replace(survey(), gpus=gpus))
    section = (DOCS / "evidence.md").read_text().partition("\n## environment\n")[2]
    rows = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    documented = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    added_by_the_run = {"disk_free_bytes", "other_runs_seen", "sandbox", "sandbox_engine", "sandbox_image"}
    assert {re.sub(r"^gpu\d+_", "gpuN_", key) for key in facts} == documented - added_by_the_run
