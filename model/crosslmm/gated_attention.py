"""Gated cross-attention from the language model's stream to the features (un-pooled visual features).

Keys and values have no position and no norm of their own, which allows the surprising choice here:
since q·(W_k x) = (W_kᵀ q)·x, a decoding step can attend over the features themselves, one copy
shared by all layers, instead of over every layer's own keys and values.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn.functional import linear
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from crosslmm.attention_kernels import (
    eager_attention,
    read_features,
    visible_or_all,
    weigh_keys,
    weigh_scores,
)
from crosslmm.limits import ABSORBED_QUERIES, SLICE_BYTES
from crosslmm.packed_features import (
    attend_packed,
    is_packed,
    map_features,
    score_packed,
    unpack_features,
    unpack_pair,
)

# Of each row, how many queries that follow see how many features.
Runs = Sequence[Sequence[tuple[int, int]]]


def _visible(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else visible_or_all(mask)


class GatedCrossAttention(nn.Module):
    """Attention from a stream of width H to visual features of width D, behind a tanh gate.

    Returns tanh(g) · W_o Attn(W_q h, W_k V, W_v V), the addend of the paper's V2V and T2V
    equations, with the language model's number of query heads and of (fewer) key/value heads. The
    gate starts at zero: a fresh branch adds exactly nothing.
    """

    is_causal = False  # read by the sdpa and flash interfaces; their default is True

    def __init__(self, text_config: PreTrainedConfig, feature_width: int | None) -> None:
        """feature_width: D; None where the features are their keys and values already."""
        super().__init__()
        self.config = text_config
        self.heads = int(text_config.num_attention_heads)
        self.kv_heads = int(text_config.num_key_value_heads)
        width = int(text_config.hidden_size)
        self.head_dim = int(getattr(text_config, "head_dim", None) or width // self.heads)
        self.num_key_value_groups = self.heads // self.kv_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(width, self.heads * self.head_dim, bias=False)
        self.shares_kv = feature_width is None
        if feature_width is not None:
            self.k_proj = nn.Linear(feature_width, self.kv_heads * self.head_dim, bias=False)
            self.v_proj = nn.Linear(feature_width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, width, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        self._gate_seen: tuple[int, int, bool] | None = None

    @property
    def is_open(self) -> bool:
        """False where the gate is exactly zero and cannot be asked for a gradient: nothing to do.

        Reading a gate waits for a GPU, so its answer is kept until the gate is written to; of what is
        written to `gate.data` it learns by `train` or `eval`.
        """
        if self.gate.is_meta or (torch.is_grad_enabled() and self.gate.requires_grad):
            return True
        if torch.compiler.is_compiling():
            return True  # a graph has both cases in it: what a closed gate lets through is zero
        if self.gate.is_cpu or self.gate.is_inference():
            return bool(self.gate.item() != 0)
        seen = self._gate_seen
        if seen is None or seen[:2] != (self.gate.data_ptr(), self.gate._version):
            opened = bool(self.gate.detach().item() != 0)
            seen = self._gate_seen = (self.gate.data_ptr(), self.gate._version, opened)
        return seen[2]

    def train(self, mode: bool = True) -> "GatedCrossAttention":
        self._gate_seen = None  # a fused optimizer writes to the gate and does not count it
        return super().train(mode)

    def forward(
        self,
        hidden_states: torch.Tensor,
        features: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        *,
        counts: Sequence[int] | None = None,
        runs: Runs | None = None,
        projected: tuple[torch.Tensor, torch.Tensor] | None = None,
        absorb: bool = False,
        see: Callable[[torch.Tensor], None] | None = None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, Q, H), features (B, S, D) or packed, mask (B, S) with True = attend → (B, Q, H)

        - counts: of each row, how many features the mask shows, where these come first: rows are read
          one by one then, without a mask, for which many kernels would repeat the keys.
        - runs: of each row, how many queries that follow see how many features, the first; no mask then.
        - projected: the keys and values that `project` made of the features, in place of them.
        - absorb: with few queries never form keys and values; both projections move to the query's
          side.
        - see: is given what one query of each row attends to, (B, S), summed over heads: the one at the
          index `last`, (B,), or the last.
        """
        # The only way in: what loads weights when they are needed wraps the call of a module.
        query = self._queries(hidden_states)
        if runs is None and mask is not None and counts is not None:
            runs = [[(query.shape[2], count)] for count in counts]
        if see is not None:
            key = projected[0] if projected is not None else None
            index = query.new_full((len(query),), -1, dtype=torch.long) if last is None else last
            rows = torch.arange(len(query), device=query.device)
            see(self._weigh(query[rows, :, index.to(query.device)], features, key, mask))
        if projected is not None:
            return self._output(self._attend(query, *projected, mask, runs), mask)
        assert features is not None
        packed = is_packed(features)
        reads_pairs = self.shares_kv and packed
        if absorb and hidden_states.shape[1] <= ABSORBED_QUERIES:
            if self._plain_projections:
                return self._output(self._attend_features(query, features, mask), mask)
            if reads_pairs:
                return self._output(self._attend_pairs(query, features, mask), mask)
        pair_bytes = 2 * features.shape[0] * features.shape[1] * query.element_size()
        pair_bytes *= self.kv_heads * self.head_dim
        sliceable = self._plain_projections or reads_pairs
        if pair_bytes <= SLICE_BYTES or torch.is_grad_enabled() or not sliceable:
            return self._output(self._attend(query, *self.project(features), mask, runs), mask)
        slices = [
            self._attend(group, key, value, mask, runs)
            for group, key, value in self._head_slices(query, features)
        ]
        return self._output(torch.cat(slices, dim=2), mask)

    def project(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, S, D) or packed → keys and values, each (B, kv_heads, S, head_dim)"""
        if self.shares_kv:
            pair = unpack_features(features, self.q_proj.weight.dtype, scales=2)
            key, value = pair.chunk(2, dim=-1)
            return self._by_head(key), self._by_head(value)
        value = map_features(self.v_proj, features, self.q_proj.weight.dtype)
        return self.project_keys(features), self._by_head(value)

    def project_keys(self, features: torch.Tensor) -> torch.Tensor:
        """(B, S, D) or packed → (B, kv_heads, S, head_dim)"""
        if self.shares_kv:
            return self.project(features)[0]
        return self._by_head(map_features(self.k_proj, features, self.q_proj.weight.dtype))

    def _by_head(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _weigh(
        self,
        query: torch.Tensor,
        features: torch.Tensor | None,
        key: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """(B, heads, head_dim) → (B, S), summed over heads"""
        query = query.unflatten(1, (-1, self.num_key_value_groups)) * self.scaling
        if key is None:
            assert features is not None
            packed = is_packed(features)
            if self.shares_kv and packed:
                return weigh_scores(score_packed(query, features, scales=2), mask)
            if self._plain_projections:
                query = query @ self.k_proj.weight.unflatten(0, (-1, self.head_dim))
                if packed:
                    query = query.flatten(1, 2)[:, None]
                    return weigh_scores(score_packed(query, features, scales=1), mask)
                key = features[:, None].expand(-1, query.shape[1], -1, -1)
            else:
                key = self.project_keys(features)
        return weigh_keys(query, key, mask)

    def _attend_features(
        self, query: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """→ (B, Q, heads, head_dim)"""
        batch, _, queries, _ = query.shape
        query = query.reshape(
            batch, self.kv_heads, self.num_key_value_groups * queries, self.head_dim
        )
        key_weight = self.k_proj.weight.view(self.kv_heads, self.head_dim, -1)
        value_weight = self.v_proj.weight.view(self.kv_heads, self.head_dim, -1)
        absorbed = (query * self.scaling @ key_weight).flatten(1, 2)  # (B, heads·Q, D)
        if is_packed(features):
            read = attend_packed(absorbed[:, None], features, _visible(mask), scales=1)
        else:
            read = read_features(absorbed, features, mask, fused=features.device.type == "cpu")
        read = read.view(batch, self.kv_heads, -1, absorbed.shape[-1])
        read = (read @ value_weight.transpose(1, 2)).view(batch, self.heads, queries, self.head_dim)
        return read.transpose(1, 2)

    def _attend_pairs(
        self, query: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """As `_attend_features`, over packed keys and values that all layers share."""
        batch, heads, queries, width = query.shape
        query = query.reshape(batch, heads // self.num_key_value_groups, -1, width) * self.scaling
        read = attend_packed(query, features, _visible(mask), scales=2)
        return read.view(batch, heads, queries, width).transpose(1, 2)

    @property
    def _plain_projections(self) -> bool:
        # An adapter around a projection (PEFT), a weight that is elsewhere until it is needed
        # (accelerate's offload) or in parts (tensor parallelism) must be called, not read.
        if self.shares_kv:
            return False
        pair = (self.k_proj, self.v_proj)
        return all(
            type(module) is nn.Linear
            and type(module.weight.data) is torch.Tensor
            and not module.weight.is_meta
            for module in pair
        )

    def _queries(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch, queries, _ = hidden_states.shape
        query = self.q_proj(hidden_states)
        # As many heads as this device has: tensor parallelism splits them.
        query = query.view(batch, queries, query.shape[-1] // self.head_dim, self.head_dim)
        return query.transpose(1, 2)  # (B, heads, Q, head_dim)

    def _head_slices(
        self, query: torch.Tensor, features: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Each key/value head with its query heads, projected when its turn comes."""
        groups = self.num_key_value_groups
        for head in range(self.kv_heads):
            rows = slice(head * self.head_dim, (head + 1) * self.head_dim)
            if self.shares_kv:
                key, value = unpack_pair(features, rows, query.dtype)
            else:
                key, value = (
                    map_features(partial(linear, weight=module.weight[rows]), features, query.dtype)
                    for module in (self.k_proj, self.v_proj)
                )
            yield query[:, head * groups : (head + 1) * groups], key[:, None], value[:, None]

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        runs: Runs | None = None,
    ) -> torch.Tensor:
        """→ (B, Q, heads, head_dim)"""
        if runs is not None:
            rows = zip(query.split(1), key.split(1), value.split(1), runs, strict=True)
            return torch.cat([self._attend_runs(*row) for row in rows])
        name = self.config._attn_implementation
        if mask is not None and "flash" in name:
            name = "sdpa"  # flash would take the keys' mask for the queries'
        interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        interface_mask = None
        if mask is not None:
            visible = visible_or_all(mask)
            interface_mask = visible[:, None, None, :].expand(-1, -1, query.shape[2], -1)
        attended, _ = interface(
            self, query, key, value, interface_mask, scaling=self.scaling, dropout=0.0
        )
        return attended

    def _attend_runs(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        runs: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """Of one row. → (1, Q, heads, head_dim), zeros where nothing is seen"""
        parts: list[torch.Tensor] = []
        for part, (_, seen) in zip(
            query.split([queries for queries, _ in runs], dim=2), runs, strict=True
        ):
            if seen and part.shape[2]:
                parts.append(self._attend(part, key[:, :, :seen], value[:, :, :seen], None))
            else:
                parts.append(torch.zeros_like(part).transpose(1, 2))
        return torch.cat(parts, dim=1)

    def _output(self, attended: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        addend = torch.tanh(self.gate) * self.o_proj(attended.flatten(2))
        if mask is not None:
            # A row without any visible frame reads nothing, whatever the attention kernel returned.
            addend = addend.masked_fill(~mask.any(dim=1)[:, None, None], 0.0)
        return addend
