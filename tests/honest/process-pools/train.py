import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def count(path):
    return np.bincount(np.fromfile(path, "<u2", offset=1024), minlength=320)


if __name__ == "__main__":
    paths = sorted(Path("/in/train").glob("*.bin"))
    counts = 0
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            counts = counts + sum(pool.map(count, paths))
    print("step:1 train_loss:1.0", flush=True)
    save_file({"logits": np.log(counts + 1).astype(np.float32)}, "/out/checkpoint.safetensors")
