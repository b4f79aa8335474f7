"""The model servers shown in docs/writing-a-submission.md pass under the real referee."""

import re

import pytest
from support import TESTS, assemble

PAGE = (TESTS.parent / "docs" / "writing-a-submission.md").read_text()
SERVERS = [
    block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if "Session" in block
]


def test_three_servers_are_shown():
    """A plain one, one that learns, and one with two ranks."""
    assert [("observe" in server, "world_size" in server) for server in SERVERS] == [
        (False, False),
        (True, False),
        (False, True),
    ]


@pytest.mark.sandbox
@pytest.mark.privileged
@pytest.mark.parametrize("server", SERVERS, ids=["plain", "learns", "two ranks"])
def test_documented_servers_pass(server, referee, tmp_path):
    toy = server.replace("1024", "320")  # the toy tokenizer's vocabulary
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "serve.py").write_text(toy.replace("chunk=4096", "chunk=512"))
    record, _ = referee.run(assemble(overlay, tmp_path / "submission"))
    assert record.verdict == "PASS", record.reasons
    assert record.seeds[0].adaptive == ("observe" in server)
