import os
from pathlib import Path

import numpy as np

from harness.scoring import wire

child = os.fork()
rank = int(child == 0)
session = wire.Session(wire.Hello(vocab_size=320, window=64, stride=16, batch=8, rank=rank, world_size=2))
logits = np.frombuffer(Path("/in/artifact/artifact.bin").read_bytes(), np.float16).astype(np.float32)
for request in session.requests():
    request.logits[:] = logits
    if rank == 1 and request.sequence > 10:
        os._exit(0)
    request.reply()
