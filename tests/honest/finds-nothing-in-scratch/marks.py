"""Files and file locks in every place where a phase may write."""

from pathlib import Path

PLACES = [Path(place) / "mark" for place in ("/tmp", "/dev/shm", "/tmp/.cache/torch", "/tmp/.triton")]


def leave():
    for path in PLACES:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("train was here")


def found():
    return [path for path in PLACES if path.exists()]
