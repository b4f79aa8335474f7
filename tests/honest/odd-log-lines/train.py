import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

shards = [np.fromfile(path, "<u2", offset=1024) for path in sorted(Path("/in/train").glob("*.bin"))]
counts = np.bincount(np.concatenate(shards), minlength=320)
print("step:1 train_loss:1.0", flush=True)
save_file({"logits": np.log(counts + 1).astype(np.float32)}, "/out/checkpoint.safetensors")
for line in (b"\xff\xfe\n", b"\x1b[2J\x1b]0;title\x07\n", b"[bold][/red][/]\n", b"\r" * 5000, b"x" * 200_000):
    os.write(1, line)
