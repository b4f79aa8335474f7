import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

seed = json.loads(Path("/in/phase.json").read_text())["seed"]
shards = [np.fromfile(path, "<u2", offset=1024) for path in sorted(Path("/in/train").glob("*.bin"))]
counts = np.bincount(np.concatenate(shards), minlength=320)
print("step:1 train_loss:1.0", flush=True)
if seed % 2:
    raise SystemExit("an unlucky seed")
save_file({"logits": np.log(counts + 1).astype(np.float32)}, "/out/checkpoint.safetensors")
