import os
from pathlib import Path

import numpy as np

from harness.scoring import wire

child = os.fork()
rank = int(child == 0)
session = wire.Session(wire.Hello(vocab_size=320, window=64, stride=16, batch=8, rank=rank, world_size=2, chunk=500))
logits = np.frombuffer(Path("/in/artifact/artifact.bin").read_bytes(), np.float16).astype(np.float32)
prior = np.exp(logits - logits.max())
prior *= 4 / prior.sum()
counts = np.zeros((320, 320), np.float32)


def learn(observation):
    np.add.at(counts, (observation.tokens[:-1], observation.tokens[1:]), 1)


for request in session.requests(learn):
    request.logits[:] = np.log(prior + counts[request.tokens[:, -request.scored :]])
    request.reply()
if child:
    os.waitpid(child, 0)
