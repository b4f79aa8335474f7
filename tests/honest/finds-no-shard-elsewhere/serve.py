import os
from pathlib import Path

import numpy as np

from harness.scoring import wire

found = [
    os.path.join(folder, name)
    for top in ("/usr/local", "/usr/share", "/home", "/root", "/var", "/mnt", "/opt", "/work", "/tmp", "/data")
    for folder, _, names in os.walk(top)
    for name in names
    if name.endswith(".bin") and ("_val_" in name or "_train_" in name)
]
assert not found, found
session = wire.Session(wire.Hello(vocab_size=320, window=64, stride=16, batch=8))
logits = np.frombuffer(Path("/in/artifact/artifact.bin").read_bytes(), np.float16)
for request in session.requests():
    request.logits[:] = logits
    request.reply()
