"""The loss of the demo's answers, and of what its visual tokens see."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosslmm.demo.supervision import AttentionSupervision, telling
from crosslmm.demo.targets import IGNORED, SeenHeads
from crosslmm.demo.turns import turn_mask
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration


class AnswerLoss(nn.Module):
    """A CrossLMM under the loss of its answers; nothing else is computed at the vocabulary's width.

    `lessons_weight`: what the losses of what visual tokens see and of where attention falls weigh
    beside it. They are far greater; what leads to the first right answers hinders the last.
    """

    def __init__(self, model: CrossLMMForConditionalGeneration, *, lessons_weight: float = 0.5):
        super().__init__()
        self.model = model
        self.lessons_weight = lessons_weight
        text = model.config.text
        self.seen = SeenHeads(int(text.hidden_size))
        self._part_way: list[Tensor] = []
        upper = model.model.language_model.layers[2 * int(text.num_hidden_layers) // 3 :]
        self._pointing = AttentionSupervision(upper)
        upper[0].register_forward_pre_hook(lambda _, inputs: self._part_way.append(inputs[0]))
        # Tied to the embeddings; safetensors takes no weight twice.
        self.register_state_dict_post_hook(_without_head)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        position_ids: Tensor,
        turns: Tensor,
        frames: Tensor,
        things: Tensor,
        pixel_values_videos: Tensor | None = None,
        **seen: Tensor,
    ) -> dict[str, Tensor]:
        """The loss, and what is right of what it stands for.

        - input_ids, labels, label_weights, position_ids, turns, frames, things: `(B, L)`, see
          `packed_turns`.
        - Where clips are shown, pixel_values_videos `(B, T, 3, S, S)` and what visual tokens see,
          `(B, V)`.

        Returns beside the loss the shares of answers right in every token and of answer tokens right,
        of what visual tokens tell right (see `SeenHeads`) and of attention that is on the frame or the
        thing pointed at; where clips are told in words, only the first, as `told`.
        """
        self._part_way.clear()
        self._pointing.clear()
        mask = turn_mask(turns, torch.float32)
        states = self.model.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            attention_mask=mask,
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state
        target = labels[:, 1:]
        spoken = target != IGNORED
        logits = self.model.lm_head(states[:, :-1][spoken]).float()
        weights = label_weights[:, 1:][spoken]
        losses = F.cross_entropy(logits, target[spoken], reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        hits = logits.argmax(-1) == target[spoken]
        # Answers by (row, turn): wrong as soon as one token is.
        rows = torch.arange(len(turns), device=turns.device)[:, None] * (turns.max() + 1)
        answer = (rows + turns[:, 1:])[spoken]
        wrong = torch.zeros(int(answer.max()) + 1, device=turns.device)
        wrong.index_add_(0, answer, (~hits).float())
        answers = (wrong[answer.unique()] == 0).float().mean()
        if pixel_values_videos is None:
            return {"loss": loss, "told": answers}
        shown = input_ids == self.model.config.video_token_id
        visual = self._part_way.pop()[shown]
        truth = {name.removeprefix("seen_"): target for name, target in seen.items()}
        dense, right = self.seen(visual.view(len(input_ids), -1, visual.shape[-1]), truth)
        per_frame = int(shown[0].sum()) // pixel_values_videos.shape[1]
        targets = [telling(truth["news"], per_frame), truth["thing"]]
        pointing, shares = self._pointing.loss(
            [
                (points, torch.full_like(points, IGNORED).masked_scatter(shown, target))
                for points, target in zip((frames, things), targets, strict=True)
            ],
            mask,
        )
        right["on_frame"], right["on_thing"] = shares
        return {
            "loss": loss + self.lessons_weight * (dense + pointing),
            "answer_loss": loss,
            **right,
            "answers": answers,
            "tokens": hits.float().mean(),
        }


def _without_head(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    state.pop(f"{prefix}model.lm_head.weight", None)
