"""Several questions about one prefilled video, decoded together."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from crosslmm.inference.finite import BrokenRows, not_finite
from crosslmm.inference.generation import GenerationOptions, decode_answer
from crosslmm.inference.prefix import VideoPrefix
from crosslmm.inference.reasoning import split_reasoning
from crosslmm.inference.runtime import Runtime


def answer_together(
    runtime: Runtime,
    prefix: VideoPrefix,
    prompts: Sequence[torch.Tensor],
    options: GenerationOptions,
) -> list[str]:
    """One answer to each prompt (L,), all of which begin with `prefix`. Raises ModelError, and
    RuntimeError while the prefix is lent."""
    model, tokenizer = runtime.model, runtime.processor.tokenizer
    config = options.config(model)
    # Shorter questions are padded after the video, whose position in the cache is the same for all.
    start, length = len(prefix), max(len(ids) for ids in prompts)
    ids = prefix.ids.new_full((len(prompts), length), int(config.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        end = start + length - len(prompt)
        ids[row, :start], ids[row, end:] = prefix.ids[0], prompt[start:]
        mask[row, :start] = mask[row, end:] = 1
    with torch.inference_mode():
        generated = model.generate(  # type: ignore[misc]
            input_ids=ids,
            attention_mask=mask,
            past_key_values=prefix.repeat(len(prompts)),
            generation_config=config,
            logits_processor=LogitsProcessorList([broken := BrokenRows()]),
            stopping_criteria=StoppingCriteriaList([broken.stop]),
        )
    if any(broken.rows()):
        raise not_finite(model.dtype)
    said = [decode_answer(tokenizer, row).strip() for row in generated[:, length:].tolist()]
    return [split_reasoning(runtime, text)[1] for text in said]
