"""The model: a decoder-only transformer with skips, bigram hash, smear, value embedding and exclusive self attention.

Letters in shapes: B sequences, N positions, M query positions (the last M of N), D model dimension, H query heads,
G key/value heads, E head dimension, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from submission.config import ModelConfig

# bank: the large matrices of the layers. embedding: tables looked up by token. projection: the other matrices.
# vector: gains, gates and scales.
WeightClass = Literal["bank", "embedding", "projection", "vector"]


def rms_norm(x: Tensor) -> Tensor:
    """Root-mean-square normalisation over the last dimension, without weights (Zhang and Sennrich 2019)."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_tables(config: ModelConfig, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary embedding (Su et al. 2021), float32 [length, rotary_dims / 2].

    Beyond rotary_base_length the base grows with rotary_length, so that the slowest frequency still spans a sequence of
    that length. `length` has no part in it: a position's logits may not depend on how many follow.
    """
    base, dims = config.rotary_base, config.rotary_dims
    if config.rotary_length > config.rotary_base_length:
        base *= (config.rotary_length / config.rotary_base_length) ** (dims / (dims - 2))
    frequencies = base ** (-torch.arange(0, dims, 2, device=device, dtype=torch.float32) / dims)
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate the first dimensions of x [B, heads, M, E] in half-split pairs by the tables' last M positions."""
    pairs = cosines.size(-1)
    cosines, sines = cosines[-x.size(2) :].to(x.dtype), sines[-x.size(2) :].to(x.dtype)
    first, second, rest = x.split((pairs, pairs, x.size(-1) - 2 * pairs), dim=-1)
    return torch.cat((first * cosines - second * sines, first * sines + second * cosines, rest), dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal grouped-query attention of the last M positions over all N: q [B, H, M, E]; k, v [B, G, N, E]."""
    queries, positions = q.size(2), k.size(2)
    mask = None
    if 1 < queries < positions:
        mask = torch.ones(queries, positions, dtype=torch.bool, device=q.device).tril(positions - queries)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=queries == positions > 1, enable_gqa=q.size(1) != k.size(1)
    )


def exclude_own_value(y: Tensor, v: Tensor) -> Tensor:
    """Exclusive self attention: remove from y [B, H, M, E] its part along the same position's value v [B, G, M, E]."""
    grouped = y.unflatten(1, (v.size(1), -1))
    direction = F.normalize(v, dim=-1).unsqueeze(2)
    return (grouped - (grouped * direction).sum(-1, keepdim=True) * direction).flatten(1, 2)


def bigram_rows(tokens: Tensor, rows: int, before: Tensor | None = None) -> Tensor:
    """Row of the bigram table for each position: int32 [B, N].

    The hash of the token and the one before it. `before` [B, 1] is the token before the first; without it the first
    position starts the sequence and takes the last row, which no hash reaches.
    """
    current = tokens.int()
    previous = torch.cat((current[:, :1] if before is None else before.int(), current[:, :-1]), dim=1)
    hashed = ((36313 * current) ^ (27191 * previous)) % (rows - 1)
    if before is None:
        hashed = torch.cat((torch.full_like(hashed[:, :1], rows - 1), hashed[:, 1:]), dim=1)
    return hashed


class KeyValueCache:
    """What generation keeps of the positions so far, for sequences that will be `length` tokens long.

    keys, values: [layers, B, G, length, E]. token [B, 1] and embedding [B, 1, D]: the last position's, which the bigram
    hash and the smear of the next position look back to.
    """

    def __init__(self, config: ModelConfig, batch: int, length: int, device: torch.device) -> None:
        shape = (config.layers, batch, config.key_value_heads, length, config.head_dim)
        self.keys = torch.empty(shape, device=device)
        self.values = torch.empty(shape, device=device)
        self.cosines, self.sines = rotary_tables(config, length, device)
        self.position = 0
        self.token: Tensor | None = None
        self.embedding: Tensor | None = None

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store one position's key and value [B, G, 1, E]; all keys and values up to it [B, G, N, E]."""
        self.keys[layer, :, :, self.position] = k[:, :, 0]
        self.values[layer, :, :, self.position] = v[:, :, 0]
        return self.keys[layer, :, :, : self.position + 1], self.values[layer, :, :, : self.position + 1]


class Attention(nn.Module):
    """Grouped-query attention, queries and keys normalised, partly rotary, excluding each position's own value."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        key_value_dim = config.key_value_heads * config.head_dim
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, key_value_dim, bias=False)
        self.value = nn.Linear(config.dim, key_value_dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.query_gain = nn.Parameter(torch.full((config.query_heads,), config.query_gain))

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        value_embedding: Tensor | None,
        queries: int,
        cache: KeyValueCache | None,
    ) -> Tensor:
        """x [B, N, D] -> [B, queries, D]: the output at the last `queries` positions."""
        q = self._heads(self.query(x[:, -queries:]))
        k = self._heads(self.key(x))
        v = self.value(x)
        v = self._heads(v if value_embedding is None else v + value_embedding)
        q = rotate(rms_norm(q), *rotary) * self.query_gain[:, None, None].to(q.dtype)
        k = rotate(rms_norm(k), *rotary)
        own_value = v[:, :, -queries:]
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        y = exclude_own_value(attend(q, k, v), own_value)
        return self.out(y.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MLP(nn.Module):
    """Two matrices around a squared leaky ReLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.mlp_dim, bias=False)
        self.down = nn.Linear(config.mlp_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.leaky_relu(self.up(x), 0.5).square())


class Block(nn.Module):
    """One layer. `mix` blends the stream with the model's input; the norms shrink with depth."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)
        self.mix = nn.Parameter(torch.stack((torch.ones(config.dim), torch.zeros(config.dim))))
        self.attention_scale = nn.Parameter(torch.ones(config.dim))
        self.mlp_scale = nn.Parameter(torch.ones(config.dim))
        self.norm_scale = (layer + 1) ** -0.5

    def forward(
        self,
        x: Tensor,
        x0: Tensor,
        rotary: tuple[Tensor, Tensor],
        value_embedding: Tensor | None,
        queries: int,
        cache: KeyValueCache | None,
    ) -> Tensor:
        """x, x0 [B, N, D] -> [B, queries, D]: the stream at the last `queries` positions."""
        x = self.mix[0] * x + self.mix[1] * x0
        attended = self.attention(rms_norm(x) * self.norm_scale, rotary, value_embedding, queries, cache)
        x = x[:, -queries:] + self.attention_scale * attended
        return x + self.mlp_scale * self.mlp(rms_norm(x) * self.norm_scale)


class BigramEmbedding(nn.Module):
    """An embedding of the last two tokens, hashed into a table, projected, and scaled by one learned number."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.bigram_rows, config.bigram_dim)
        self.projection = nn.Linear(config.bigram_dim, config.dim, bias=False)
        self.scale = nn.Parameter(torch.tensor(0.05))

    def forward(self, tokens: Tensor, before: Tensor | None) -> Tensor:
        """tokens [B, N] -> [B, N, D]; `before` as in `bigram_rows`."""
        rows = bigram_rows(tokens, self.table.num_embeddings, before)
        return self.scale * self.projection(self.table(rows))


class ValueEmbedding(nn.Module):
    """An embedding of the token that the last layers add to their values, with one learned number per layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.value_embedding_dim)
        key_value_dim = config.key_value_heads * config.head_dim
        self.projection = nn.Linear(config.value_embedding_dim, key_value_dim, bias=False)
        self.scale = nn.Parameter(torch.tensor(0.1))
        self.layer_scales = nn.Parameter(torch.ones(config.value_embedding_layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [B, N] -> [B, N, G * E], before the layer's own scale."""
        return self.scale * self.projection(self.table(tokens))


class Transformer(nn.Module):
    """The language model. `forward` is the training loss, `logits` scores whole windows, `step` generates.

    The output head is the token embedding. Weights are float32; callers choose autocast.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.bigram = BigramEmbedding(config)
        self.smear_gate = nn.Parameter(torch.zeros(config.dim))
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.skip_weights = nn.Parameter(torch.ones(config.encoder_layers, config.dim))
        self.value_embedding = ValueEmbedding(config)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Fresh weights that depend on the seed alone: drawn on the CPU, wherever the model is."""
        generator = torch.Generator().manual_seed(seed)

        def orthogonal(linear: nn.Linear) -> None:
            linear.weight.copy_(nn.init.orthogonal_(torch.empty(linear.weight.shape), generator=generator))

        def normal(embedding: nn.Embedding, std: float) -> None:
            embedding.weight.copy_(torch.empty(embedding.weight.shape).normal_(std=std, generator=generator))

        normal(self.token_embedding, 0.005)
        nn.init.zeros_(self.bigram.table.weight)
        orthogonal(self.bigram.projection)
        normal(self.value_embedding.table, 0.01)
        orthogonal(self.value_embedding.projection)
        for block in self.blocks:
            for linear in (block.attention.query, block.attention.key, block.attention.value, block.mlp.up):
                orthogonal(linear)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.mlp.down.weight)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over all positions: tokens, targets int [B, N] -> float32 scalar."""
        return F.cross_entropy(self.logits(tokens, tokens.size(1)).flatten(0, 1), targets.flatten())

    def logits(self, tokens: Tensor, scored: int) -> Tensor:
        """tokens int [B, N] -> float32 [B, scored, V]: logits of the token after each of the last `scored` positions.

        The last layer computes queries, MLP and head for those positions only; the result is the same.
        """
        x = self._stream(tokens, self._embed(tokens), rotary_tables(self.config, tokens.size(1), tokens.device), scored)
        return self._head(x)

    def step(self, token: Tensor, cache: KeyValueCache) -> Tensor:
        """Append one token per sequence, int [B], to the cache; float32 [B, V]: logits of the one after it.

        The logits equal those of `logits` on the sequence so far, up to rounding. Raises ValueError when the cache is
        full.
        """
        if cache.position == cache.keys.size(3):
            raise ValueError(f"the cache holds {cache.position} positions and is full")
        tokens = token[:, None]
        here = slice(cache.position, cache.position + 1)
        x0 = self._embed(tokens, cache)
        x = self._stream(tokens, x0, (cache.cosines[here], cache.sines[here]), 1, cache)
        cache.position += 1
        return self._head(x)[:, 0]

    def _embed(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The input of the first layer, [B, N, D]: token plus bigram, normalised, smeared with the position before."""
        before, last = (None, None) if cache is None else (cache.token, cache.embedding)
        x = rms_norm(self.token_embedding(tokens) + self.bigram(tokens, before))
        if cache is not None:
            cache.token, cache.embedding = tokens, x
        shifted = torch.cat((torch.zeros_like(x[:, :1]) if last is None else last, x[:, :-1]), dim=1)
        return torch.lerp(x, shifted, self.smear_gate.sigmoid())

    def _stream(
        self,
        tokens: Tensor,
        x0: Tensor,
        rotary: tuple[Tensor, Tensor],
        scored: int,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """All layers: x0 [B, N, D] -> [B, scored, D]. Encoder outputs come back, last in first out, in the decoder."""
        config = self.config
        value_embedding = self.value_embedding(tokens)
        first_embedded = config.layers - config.value_embedding_layers
        x, kept = x0, []
        for layer, block in enumerate(self.blocks):
            if layer >= config.encoder_layers and kept:
                x = x + self.skip_weights[layer - config.encoder_layers] * kept.pop()
            own = None
            if layer >= first_embedded:
                own = value_embedding * self.value_embedding.layer_scales[layer - first_embedded]
            queries = scored if layer == config.layers - 1 else tokens.size(1)
            x = block(x, x0, rotary, own, queries, cache)
            if layer < config.encoder_layers:
                kept.append(x)
        return x

    def _head(self, x: Tensor) -> Tensor:
        """x [B, M, D] -> float32 [B, M, V], bounded by the softcap."""
        cap = self.config.logit_softcap
        return cap * torch.tanh(F.linear(rms_norm(x), self.token_embedding.weight).float() / cap)

    def weight_classes(self) -> dict[str, WeightClass]:
        """The class of every parameter, in the order of the state dict. The optimizers and the artifact follow it."""
        classes: dict[str, WeightClass] = {}
        for name, _ in self.named_parameters():
            owner = self.get_submodule(name.rpartition(".")[0])
            if isinstance(owner, nn.Embedding):
                classes[name] = "embedding"
            elif isinstance(owner, nn.Linear):
                classes[name] = "bank" if name.startswith("blocks.") else "projection"
            else:
                classes[name] = "vector"
        return classes

    def shared_inputs(self) -> list[tuple[str, ...]]:
        """Names of the banks' linear layers, grouped by the input they share: one Hessian per group."""
        groups: list[tuple[str, ...]] = []
        for layer in range(self.config.layers):
            attention, mlp = f"blocks.{layer}.attention", f"blocks.{layer}.mlp"
            groups.append((f"{attention}.query", f"{attention}.key", f"{attention}.value"))
            groups += [(f"{attention}.out",), (f"{mlp}.up",), (f"{mlp}.down",)]
        return groups


def meta_model(config: ModelConfig) -> Transformer:
    """The model without storage: for names and shapes."""
    with torch.device("meta"):
        return Transformer(config)
