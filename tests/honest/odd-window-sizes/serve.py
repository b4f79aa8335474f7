from pathlib import Path

import numpy as np

from harness.scoring import wire

session = wire.Session(wire.Hello(vocab_size=320, window=37, stride=11, batch=5, slots=3))
logits = np.frombuffer(Path("/in/artifact/artifact.bin").read_bytes(), np.float16)
for request in session.requests():
    request.logits[:] = logits
    request.reply()
