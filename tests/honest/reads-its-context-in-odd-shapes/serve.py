from pathlib import Path

import numpy as np

from harness.scoring import wire

session = wire.Session(wire.Hello(vocab_size=320, window=251, stride=13, batch=7, slots=3))
logits = np.frombuffer(Path("/in/artifact/artifact.bin").read_bytes(), np.float16).astype(np.float32)
prior = np.exp(logits - logits.max())
prior *= 4 / prior.sum()
for request in session.requests():
    for row, tokens in enumerate(request.tokens):
        for place in range(request.scored):
            position = len(tokens) - request.scored + place
            (before,) = np.nonzero(tokens[:position] == tokens[position])
            request.logits[row, place] = np.log(prior + np.bincount(tokens[before + 1], minlength=320))
    request.reply()
