"""The checkpoint: the float weights as a safetensors file, and the declaration of its tensors.

`python -m submission.checkpoint` writes checkpoints/<configuration>.json, which the harness holds the checkpoint to.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from submission.config import CONFIGURATIONS, ModelConfig
from submission.model import Transformer, meta_model

DECLARATIONS = Path(__file__).parent / "checkpoints"


def declaration(config: ModelConfig) -> str:
    """The declared tensors as JSON: {name: {"dtype": "F32", "shape": [...]}}."""
    tensors = meta_model(config).named_parameters()
    return (
        json.dumps({name: {"dtype": "F32", "shape": list(tensor.shape)} for name, tensor in tensors}, indent=1) + "\n"
    )


def save_checkpoint(path: Path, weights: dict[str, Tensor]) -> None:
    """Write the weights, name to tensor, as float32."""
    save_file({name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}, path)


def load_checkpoint(path: Path, model: Transformer) -> None:
    """Load a checkpoint into the model. Raises RuntimeError on a missing or unexpected tensor or a wrong shape."""
    model.load_state_dict(load_file(path))


def main() -> None:
    for name, configuration in CONFIGURATIONS.items():
        (DECLARATIONS / f"{name}.json").write_text(declaration(configuration.model))


if __name__ == "__main__":
    main()
