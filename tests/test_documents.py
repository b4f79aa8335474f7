"""Documents that could drift from the code are compared with it."""

from __future__ import annotations

import re
import tomllib

from support import TESTS

from harness.errors import Reason
from harness.evidence.record import json_schema

DOCS = TESTS.parent / "docs"


def test_threat_model_names_every_cheat_with_its_outcome():
    text = (DOCS / "threat-model.md").read_text()
    rows = dict(re.findall(r"^\| \[([a-z0-9-]+)\]\(\.\./tests/cheats/\1\) \| `([a-z_]+)` \|", text, re.MULTILINE))
    expected = {
        folder.name: tomllib.loads((folder / "expect.toml").read_text())["reason"]
        for folder in (TESTS / "cheats").iterdir()
    }
    assert rows == expected


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
