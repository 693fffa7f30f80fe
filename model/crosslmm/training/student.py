"""Student and teacher of a distillation: one set of frozen weights, one pass of the encoder.

The teacher is a second tree of modules over the same storage. Only what the student trains is its own:
the cross-attention, and that only where its gates are open, for a closed one adds nothing. So a
quantized model of 7 billion parameters is in memory once.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from crosslmm.checkpoints.headers import part_of
from crosslmm.errors import CheckpointError
from crosslmm.merging import MergedTokens, pool_tokens
from crosslmm.merging.merged import mean_of
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration, CrossLMMModel
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.training.conversation import IGNORED
from crosslmm.training.stages import trainable_parts
from crosslmm.vision import encode_frames, scatter_frames
from crosslmm.visual_encoding import join_merged, merge_rows
from crosslmm.visual_tokens import VisualTokens


class Student(nn.Module):
    """The module that is trained: from a batch to the decoder's last hidden states.

    Its state is that of the trainable parameters alone, so that checkpoints hold no frozen weight.
    """

    def __init__(self, network: Any) -> None:
        """network: a CrossLMM, or PEFT's adapters around one."""
        super().__init__()
        self.network = network
        self.register_state_dict_post_hook(_keep_trainable)

    @property
    def base(self) -> CrossLMMForConditionalGeneration:
        wrapped = hasattr(self.network, "get_base_model")
        model: CrossLMMForConditionalGeneration = (
            self.network.get_base_model() if wrapped else self.network
        )
        return model

    @property
    def config(self) -> Any:
        return self.base.config

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        self.base.activation_checkpointing_enable(*args, **kwargs)

    def forward(self, rows: "Rows", visual: VisualTokens | RaggedTokens) -> torch.Tensor:
        """As `read_video`."""
        return read_video(self.base.model, rows, visual)


def read_video(
    model: CrossLMMModel, rows: "Rows", visual: VisualTokens | RaggedTokens
) -> torch.Tensor:
    """The last hidden states (B, L, H); the features of `visual`, as the encoder gives them, are only
    looked at where a gate is open."""
    features = visual.features
    if features is not None:
        features = model.prepare_features(features) if model.reads_features else None
    outputs = model(
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask,
        visual_tokens=replace(visual, features=features),
        use_cache=False,
    )
    assert outputs.last_hidden_state is not None
    return outputs.last_hidden_state


@torch.no_grad()  # where gradients are asked for, a closed gate counts as open
def make_teacher(model: CrossLMMForConditionalGeneration) -> CrossLMMForConditionalGeneration:
    """`model` as its own teacher, before any of it is trained: see above."""
    trained = trainable_parts("distill")
    shared: dict[int, Any] = {
        id(tensor): tensor
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if part_of(name) not in trained
    }
    if not model.model.reads_features:
        shared[id(model.model.cross_attention_layers)] = nn.ModuleDict()
    # `deepcopy` takes what it finds here for copies that were made already.
    return copy.deepcopy(model, shared).eval()


@torch.no_grad()
def share_weights(
    teacher: CrossLMMForConditionalGeneration, model: CrossLMMForConditionalGeneration
) -> None:
    """Let a teacher from another checkpoint use the student's storage for every weight that is the same
    in both. Raises CheckpointError where the two have not the same shape."""
    trained = trainable_parts("distill")
    own = dict(model.named_parameters())
    theirs = dict(teacher.named_parameters())
    wrong = own.keys() ^ theirs.keys()
    wrong |= {name for name in own.keys() & theirs.keys() if own[name].shape != theirs[name].shape}
    if wrong:
        raise CheckpointError(f"teacher and student differ in shape, in {min(wrong)}")
    for name, weight in theirs.items():
        if part_of(name) not in trained and _is_same(weight, own[name]):
            owner, _, leaf = name.rpartition(".")
            setattr(teacher.get_submodule(owner), leaf, own[name])
    teacher.tie_weights()
    if not teacher.model.reads_features:
        teacher.model.cross_attention_layers = nn.ModuleDict()


def _is_same(weight: torch.Tensor, other: torch.Tensor) -> bool:
    if weight.dtype != other.dtype or not torch.equal(weight.data, other.data):
        return False
    states: list[Any] = [getattr(each, "quant_state", None) for each in (weight, other)]
    return states == [None, None] or torch.equal(states[0].absmax, states[1].absmax)


@dataclass(frozen=True)
class Encoded:
    """A batch of videos after the encoder, at several numbers of tokens per frame.

    - features: (B, T, N, D), not normalised; frame_mask: (B, T), True at real frames.
    - embeds: by their number per frame, tokens (B, T, M, H), `full` among them.
    - merge: a method of `MERGERS` that makes the other numbers of the full one; None where they are
      pooled.
    """

    features: torch.Tensor
    frame_mask: torch.Tensor
    embeds: dict[int, torch.Tensor]
    full: int
    merge: str | None
    _merged: dict[int, list[MergedTokens]] = field(default_factory=dict)

    @property
    def frames(self) -> torch.Tensor:
        """(B,)"""
        return self.frame_mask.sum(dim=1)

    def visual(self, count: int) -> VisualTokens | RaggedTokens:
        """What the language model reads at so many tokens per frame."""
        mask = None if bool(self.frame_mask.all()) else self.frame_mask
        if self.merge is None or count == self.full:
            return VisualTokens(self.embeds[count], self.features, mask)
        whole = VisualTokens(self.embeds[self.full], self.features, mask)
        return join_merged(whole, self.merged(count))

    def merged(self, count: int) -> list[MergedTokens]:
        """Of each video."""
        if count not in self._merged:
            assert self.merge is not None
            whole = VisualTokens(self.embeds[self.full], None, self.frame_mask)
            rows = merge_rows(
                whole, [frames * count for frames in self.frames.tolist()], self.merge
            )
            self._merged[count] = [row for row in rows if row is not None]
        return self._merged[count]

    def means(self, states: torch.Tensor, given: int, count: int) -> torch.Tensor:
        """The states (R, H) of all merged tokens at `given` per frame → of each of the tokens at
        `count`, the mean of those that it stands for (R', H)."""
        if self.merge is None:
            return pool_tokens(states.float().unflatten(0, (-1, given)), count, "area").flatten(
                0, 1
            )
        means = []
        sizes = [frames * given for frames in self.frames.tolist()]
        for index, part in enumerate(states.float().split(sizes)):
            if given != self.full:
                part = part[self.merged(given)[index].member]
            merged = self.merged(count)[index]
            means.append(mean_of(part, merged.member, merged.mass))
        return torch.cat(means)


@torch.no_grad()
def encode_once(
    model: CrossLMMModel,
    pixels: torch.Tensor,
    frame_mask: torch.Tensor,
    counts: Iterable[int],
    *,
    full: int,
    merge: str | None = None,
) -> Encoded:
    """Videos (B, T, 3, S, S) at each of the tokens per frame in `counts`; see `Encoded`."""
    chunks = encode_frames(
        model.vision_tower, pixels[frame_mask], model.config.vision_layers, model.frames_per_chunk
    )
    features: list[torch.Tensor] = []
    tokens: dict[int, list[torch.Tensor]] = {}
    for chunk in chunks:
        features.append(chunk)
        for count in counts if merge is None else [full]:
            tokens.setdefault(count, []).append(model.merge_features(chunk, count))
    return Encoded(
        scatter_frames(torch.cat(features), frame_mask),
        frame_mask,
        {n: scatter_frames(torch.cat(parts), frame_mask) for n, parts in tokens.items()},
        full,
        merge,
    )


@dataclass(frozen=True)
class Rows:
    """Token rows of a batch, padded on the right.

    - input_ids, attention_mask, labels: (B, L).
    - is_merged: (B, L), True at the placeholders of merged tokens, a newline's not among them.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    is_merged: torch.Tensor

    @classmethod
    def of(
        cls,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        *,
        video_token: int,
        merged: torch.Tensor,
    ) -> "Rows":
        """labels: for the last positions only. merged: (B,), how many merged tokens a row has."""
        before = input_ids.shape[1] - labels.shape[1]
        labels = nn.functional.pad(labels, (before, 0), value=IGNORED)
        is_placeholder = input_ids == video_token
        is_merged = is_placeholder & (is_placeholder.cumsum(dim=1) <= merged[:, None])
        return cls(input_ids, attention_mask, labels, is_merged)

    def keep(self, merged: torch.Tensor) -> "Rows":
        """The same rows with fewer merged tokens, (B,)."""
        kept = ~self.is_merged | (self.is_merged.cumsum(dim=1) <= merged[:, None])
        kept &= self.attention_mask.bool()

        def shorten(tensor: torch.Tensor, fill: int) -> torch.Tensor:
            rows = [row[chosen] for row, chosen in zip(tensor, kept, strict=True)]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)

        return Rows(
            shorten(self.input_ids, 0),
            shorten(self.attention_mask, 0),
            shorten(self.labels, IGNORED),
            shorten(self.is_merged, 0).bool(),
        )

    def weights(self) -> torch.Tensor:
        """(R,), of the merged tokens: those of a row together weigh as much as it has tokens of the
        answer, so that a batch may be divided anyhow."""
        answers = (self.labels != IGNORED).sum(dim=1)  # (B,)
        share = answers / self.is_merged.sum(dim=1).clamp(min=1)
        return share[:, None].expand_as(self.is_merged)[self.is_merged]

    def answers(self, states: torch.Tensor) -> torch.Tensor:
        """states (B, L, H) → (A, H), those that the tokens of the answers are predicted from."""
        return states[:, :-1][self.labels[:, 1:] != IGNORED]

    @property
    def answer_tokens(self) -> torch.Tensor:
        """(A,)"""
        return self.labels[:, 1:][self.labels[:, 1:] != IGNORED]

    def visual(self, states: torch.Tensor) -> torch.Tensor:
        """states (B, L, H) → (R, H), of the merged tokens of all rows"""
        return states[self.is_merged]


def _keep_trainable(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    trained = {prefix + name for name, weight in module.named_parameters() if weight.requires_grad}
    for name in [name for name in state if name.startswith(prefix) and name not in trained]:
        del state[name]
