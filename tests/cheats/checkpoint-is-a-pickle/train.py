import pickle
from pathlib import Path

import numpy as np

shards = [np.fromfile(path, "<u2", offset=1024) for path in sorted(Path("/in/train").glob("*.bin"))]
counts = np.bincount(np.concatenate(shards), minlength=320)
print("step:1 train_loss:1.0", flush=True)


class Payload:
    def __reduce__(self):
        return print, ("this must never be printed by the harness",)


Path("/out/checkpoint.safetensors").write_bytes(pickle.dumps(Payload()))
