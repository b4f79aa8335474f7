from pathlib import Path

from harness.scoring import wire

session = wire.Session(wire.Hello(vocab_size=320, window=64, stride=16, batch=8))
Path("/in/artifact/artifact.bin").read_bytes()
