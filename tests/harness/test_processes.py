"""What is asked of the kernel about processes, and done to the machine around them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness import processes
from harness.processes import favour


def test_page_cache_is_dropped_through_the_first_file_that_may_be_written(monkeypatch, tmp_path) -> None:
    switch = tmp_path / "drop_caches"
    switch.write_text("0")
    places = (tmp_path / "absent", tmp_path, switch)  # a directory is refused, as a read-only file is to root
    monkeypatch.setattr(processes, "DROP_CACHES", places)
    assert processes.drop_page_cache()
    assert switch.read_text() == "1"


def test_where_the_page_cache_may_not_be_dropped_that_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(processes, "DROP_CACHES", (tmp_path / "absent",))
    assert not processes.drop_page_cache()
    assert not (tmp_path / "absent").exists()


@pytest.mark.privileged
def test_a_session_can_be_favoured() -> None:
    with subprocess.Popen(["sleep", "20"], start_new_session=True) as process:
        try:
            favour(process.pid, -7)
            said = Path(f"/proc/{process.pid}/autogroup").read_text()
        finally:
            process.kill()
    assert said.split()[-1] == "-7"
    favour(process.pid, -7)  # it is gone: nobody minds
