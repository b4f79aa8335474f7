"""The contestant: trains a small language model, quantizes it on text that it wrote itself, and serves its logits.

Three programs, one per phase: `train`, `quantize` and `serve`. Each prepares first and opens its gated input last,
because the first open starts the phase's clock. Everything that can be set is in `config`.
"""
