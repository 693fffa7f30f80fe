"""The dual cross-attention layer against the equations of the paper, written out."""

import pytest
import torch
from torch import nn

from crosslmm import cross_attention
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.v2v_scopes import make_scope
from tests.support.tiny import tiny_model

SCOPES = ["video", "past", "frame", "member"]


def patches_read(scope: str, token: int, frames: int, merged: int) -> list[int]:
    """Of merged tokens on square grids over 5 x 5 patches, which of all patches one reads."""
    found = []
    side, frame = round(merged**0.5), token // merged
    for patch in range(frames * 25):
        its, row, column = patch // 25, patch % 25 // 5, patch % 5
        cell = int((row + 0.5) / 5 * side) * side + int((column + 0.5) / 5 * side)
        reads = {
            "video": True,
            "past": its <= frame,
            "frame": its == frame,
            "member": its == frame and cell == token % merged,
        }
        if reads[scope]:
            found.append(patch)
    return found


@pytest.mark.parametrize("scope", SCOPES)
def test_the_layer_equals_the_papers_equations(scope: str) -> None:
    """A float64 loop over positions and heads: gated attention of each stream to features V."""
    torch.manual_seed(1)
    model = tiny_model(v2v_scope=scope)
    config = model.config.text
    layer = model.model.cross_attention_layers["1"].double()
    nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
    frames, patches, merged, words = 3, 25, 4, 5
    features = torch.randn(1, frames, patches, 32, dtype=torch.float64)
    stream = torch.randn(1, frames * merged + words, 64, dtype=torch.float64)
    is_visual = torch.arange(stream.shape[1])[None] < frames * merged
    visual = cross_attention.TokenPositions(is_visual, frames * merged)
    text = cross_attention.TokenPositions(~is_visual, words)
    given = VisualTokens(torch.zeros(1, frames, merged, 64), features)
    with torch.no_grad():
        reads = make_scope(given, scope)
        result = layer(stream, features, reads, visual=visual, text=text)[0]
        for position, hidden in enumerate(stream[0]):
            branch = layer.v2v if position < frames * merged else layer.t2v
            seen = features[0].flatten(0, 1)
            if position < frames * merged:
                seen = seen[patches_read(scope, position, frames, merged)]
            root = (hidden.pow(2).mean() + config.rms_norm_eps).sqrt()
            query = branch.q_proj.weight @ (layer.norm.weight * hidden / root)
            key = seen @ branch.k_proj.weight.T
            value = seen @ branch.v_proj.weight.T
            heads = []
            for head in range(4):
                own = slice(16 * head, 16 * head + 16)
                shared = slice(16 * (head // 2), 16 * (head // 2) + 16)  # two heads to a key head
                scores = key[:, shared] @ query[own] / 16**0.5
                weights = scores.exp() / scores.exp().sum()
                heads.append(weights @ value[:, shared])
            addend = branch.gate.tanh() * (branch.o_proj.weight @ torch.cat(heads))
            # The norm runs in float32 whatever the stream is, as in every model of the family.
            torch.testing.assert_close(result[position], hidden + addend, rtol=0, atol=1e-5)
