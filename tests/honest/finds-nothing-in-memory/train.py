from pathlib import Path

import marks
import numpy as np
from safetensors.numpy import save_file

shards = [np.fromfile(path, "<u2", offset=1024) for path in sorted(Path("/in/train").glob("*.bin"))]
counts = np.bincount(np.concatenate(shards), minlength=320)
print("step:1 train_loss:1.0", flush=True)
save_file({"logits": np.log(counts + 1).astype(np.float32)}, "/out/checkpoint.safetensors")
marks.leave()
assert marks.found(), "a phase finds its own marks, or this test could not fail"
