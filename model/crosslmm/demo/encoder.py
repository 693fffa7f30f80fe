"""Dense pretraining of the demo's vision encoder: every patch predicts what covers it.

The heads are thrown away afterwards; what remains is an encoder whose every patch knows the colour,
shape, glyph, size and centre of its object, so that the language model has only to look it up.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionModel

from crosslmm.demo.optimizer import OutputHead
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.synthetic.images import UNKNOWN, random_images
from crosslmm.synthetic.seeds import derive_seed
from crosslmm.synthetic.vocabulary import COLOURS, GLYPHS, SHAPES

_CLASSES = {"colour": len(COLOURS) + 1, "shape": len(SHAPES), "glyph": len(GLYPHS) + 1}


class ImageBatches:
    """Batches of fresh images, by number."""

    def __init__(self, *, batch: int, image_size: int, patch_size: int, seed: int):
        self.batch, self.image_size, self.patch_size = batch, image_size, patch_size
        self.seed = seed

    def at(self, number: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(derive_seed("train", "stills", self.seed, number))
        frames, truth = random_images(
            self.batch,
            image_size=self.image_size,
            patch_size=self.patch_size,
            generator=generator,
        )
        return {"pixels": frames, **vars(truth)}


class PatchClassifier(nn.Module):
    """An encoder under linear heads, one prediction per patch."""

    def __init__(self, encoder: SiglipVisionModel):
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: OutputHead(width, n) for name, n in _CLASSES.items()})
        self.position = OutputHead(width, 3)

    def forward(
        self,
        pixels: Tensor,
        colour: Tensor,
        shape: Tensor,
        glyph: Tensor,
        position: Tensor,
        covered: Tensor,
    ) -> dict[str, Tensor]:
        """`pixels: (F, 3, S, S)`, the truth as in `PatchTruth`; returns the loss and accuracies."""
        states = self.encoder(pixels, output_hidden_states=True).hidden_states[-1]
        features = self.norm(states)  # (F, N, D), before the encoder's own last norm
        output: dict[str, Tensor] = {}
        losses = []
        for name, target in (("colour", colour), ("shape", shape), ("glyph", glyph)):
            logits = self.heads[name](features).float()
            losses.append(F.cross_entropy(logits.flatten(0, 1), target.flatten(),
                                          ignore_index=UNKNOWN))  # fmt: skip
            right = (logits.argmax(-1) == target)[covered]
            output[name] = right.float().mean().detach()
        distance = F.smooth_l1_loss(
            self.position(features).float(), position, reduction="none", beta=0.1
        )
        losses.append(4 * distance[covered].mean())
        output["position"] = distance[covered].mean().detach()
        return {"loss": torch.stack(losses).sum(), **output}


@torch.no_grad()
def init_position_embeddings(encoder: SiglipVisionModel) -> None:
    """Start the position embeddings as two-dimensional sines: those of near patches are alike, so that
    attending to neighbours, which shapes and glyphs need, does not have to be learned first."""
    table = encoder.embeddings.position_embedding.weight
    side, width = round(len(table) ** 0.5), table.shape[1] // 4
    rates = (0.6 * side) ** (-torch.arange(width) / (width - 1))
    angles = torch.arange(side)[:, None] * rates  # (side, width)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves.repeat_interleave(side, 0), waves.repeat(side, 1)
    table.copy_(0.7 * torch.cat([rows, columns], dim=1))


@torch.no_grad()
def init_from_heads(
    model: CrossLMMForConditionalGeneration, classifier: PatchClassifier, pixels: Tensor
) -> None:
    """Let everything that reads the encoder start from the directions its heads found.

    Keys, values and the projector's first rows become the heads' logits; the language model then has
    to learn which logit is called `red`, not that there is one. `pixels: (F, 3, S, S)` shows how large
    the features are that the projector takes un-normalised.
    """
    weights = [cast(Tensor, head.weight) for head in classifier.heads.values()]
    weights.append(6 * classifier.position.weight)  # positions go from 0 to 1, logits much further
    rows = torch.cat(weights) * classifier.norm.weight
    rows = rows - rows.mean(dim=1, keepdim=True)  # the heads read features freed of their mean
    count = len(rows)
    for layer in model.model.cross_attention_layers.values():
        for branch in (layer.v2v, layer.t2v):
            for head in range(branch.kv_heads):
                here = slice(head * branch.head_dim, head * branch.head_dim + count)
                branch.k_proj.weight[here] = rows
                branch.v_proj.weight[here] = 0.3 * rows
    states = classifier.encoder(pixels, output_hidden_states=True).hidden_states[-1]
    rows = rows * (0.3 / states.float().std(dim=-1).mean())
    first = model.model.multi_modal_projector.linear_1
    first.weight[:count] = rows
    first.weight[count : 2 * count] = -rows
