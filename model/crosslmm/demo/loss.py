"""The loss of the demo's answers, beside those of dense targets and of attention."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosslmm.demo.attention_supervision import AttentionSupervision, frame_targets
from crosslmm.demo.packing import turn_mask
from crosslmm.demo.targets import IGNORED, DenseHeads
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration


class AnswerLoss(nn.Module):
    """A CrossLMM under the loss of its answers; nothing else is computed at the vocabulary's width.

    `auxiliary_weight`: of the losses of dense targets and of attention. They are far greater; what leads
    to the first right answers hinders the last.
    """

    def __init__(self, model: CrossLMMForConditionalGeneration, *, auxiliary_weight: float = 0.5):
        super().__init__()
        self.model = model
        self.auxiliary_weight = auxiliary_weight
        text = model.config.text
        self.dense_heads = DenseHeads(int(text.hidden_size))
        self._upper_inputs: list[Tensor] = []
        upper = model.model.language_model.layers[2 * int(text.num_hidden_layers) // 3 :]
        self._attention = AttentionSupervision(upper)
        upper[0].register_forward_pre_hook(lambda _, inputs: self._upper_inputs.append(inputs[0]))
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
        **dense: Tensor,
    ) -> dict[str, Tensor]:
        """The loss, and what is right of what it stands for.

        - input_ids, labels, label_weights, position_ids, turns, frames, things: `(B, L)`, see
          `pack_turns`.
        - Where clips are shown, pixel_values_videos `(B, T, 3, S, S)` and dense targets `(B, V)`.

        Returns beside the loss the shares of answers right in every token and of answer tokens right,
        of dense targets right (see `DenseHeads`) and of attention that is on the frame or the thing
        pointed at; of clips in words, only the first.
        """
        self._upper_inputs.clear()
        self._attention.clear()
        mask = turn_mask(turns, torch.float32)
        states = self.model.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            attention_mask=mask,
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state
        target = labels[:, 1:]
        learned = target != IGNORED
        logits = self.model.lm_head(states[:, :-1][learned]).float()
        weights = label_weights[:, 1:][learned]
        losses = F.cross_entropy(logits, target[learned], reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        hits = logits.argmax(-1) == target[learned]
        # Answers by (row, turn): wrong as soon as one token is.
        rows = torch.arange(len(turns), device=turns.device)[:, None] * (turns.max() + 1)
        answer = (rows + turns[:, 1:])[learned]
        wrong = torch.zeros(int(answer.max()) + 1, device=turns.device)
        wrong.index_add_(0, answer, (~hits).float())
        answers = (wrong[answer.unique()] == 0).float().mean()
        if pixel_values_videos is None:
            return {"loss": loss, "text_only_answers": answers}
        shown = input_ids == self.model.config.video_token_id
        if self.model.config.video_newline:  # it stands in no cell
            shown &= F.pad(shown[:, 1:], (0, 1))
        visual = self._upper_inputs.pop()[shown]
        truth = {name.removeprefix("dense_"): target for name, target in dense.items()}
        dense_loss, right = self.dense_heads(
            visual.view(len(input_ids), -1, visual.shape[-1]), truth
        )
        per_frame = int(shown[0].sum()) // pixel_values_videos.shape[1]
        targets = [frame_targets(truth["event"], per_frame), truth["thing"]]
        attention_loss, shares = self._attention.loss(
            [
                (points, torch.full_like(points, IGNORED).masked_scatter(shown, target))
                for points, target in zip((frames, things), targets, strict=True)
            ],
            mask,
        )
        right["on_frame"], right["on_thing"] = shares
        return {
            "loss": loss + self.auxiliary_weight * (dense_loss + attention_loss),
            "answer_loss": loss,
            **right,
            "answers": answers,
            "tokens": hits.float().mean(),
        }


def _without_head(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    state.pop(f"{prefix}model.lm_head.weight", None)
