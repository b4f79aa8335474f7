from pathlib import Path

import numpy as np

from harness.scoring import wire

session = wire.Session(wire.Hello(vocab_size=320, window=64, stride=16, batch=8))
logits = np.frombuffer(Path("/in/artifact/artifact.bin").read_bytes(), np.float16).astype(np.float32)
prior = np.exp(logits - logits.max())
prior *= 4 / prior.sum()
for request in session.requests():
    for row, tokens in enumerate(request.tokens):
        counts = np.zeros((320, 320), np.float32)
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
        request.logits[row] = np.log(prior + counts[tokens[-request.scored :]])
    request.reply()
