"""Prompts, placeholders and pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import processors
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor, Message
from crosslmm.prompts.inert_text import remove_marks
from crosslmm.prompts.time_line import llava_video_time_line
from tests.support.tiny import CHAT_TEMPLATE, tiny_checkpoint, tiny_model, tiny_processor

VIDEO = 4


def frames(count: int, seed: int = 0, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def test_pixels_equal_siglips() -> None:
    clip = frames(3)
    inputs = tiny_processor()(text="<video>", videos=clip)
    reference = SiglipImageProcessorPil(size={"height": 30, "width": 30})
    expected = reference(images=list(clip), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(inputs["pixel_values_videos"][0], expected, rtol=0, atol=1e-6)


def test_generate_takes_what_the_processor_gives(tmp_path) -> None:
    """What a transformers user writes, with the Auto classes and nothing else."""
    tiny_checkpoint(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(model) is CrossLMMForConditionalGeneration
    assert type(processor) is CrossLMMProcessor
    clips = [frames(3, seed=1), frames(1, seed=2)]
    prompts = [processor.prompt("What happens?"), processor.prompt("Who?")]

    def answers(texts: list[str], videos: list[np.ndarray]) -> list[list[int]]:
        inputs = processor(text=texts, videos=videos)
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        return ids[:, inputs["input_ids"].shape[1] :].tolist()

    alone = [answers([text], [clip])[0] for text, clip in zip(prompts, clips, strict=True)]
    together = answers(prompts, clips)
    for batched, single in zip(together, alone, strict=True):
        assert batched[: len(single)] == single
        assert set(batched[len(single) :]) <= {0}


def test_a_batch_is_padded_and_masked() -> None:
    processor = tiny_processor()
    inputs = processor(text=["<video>a", "<video>bcd"], videos=[frames(3), frames(1)])
    assert inputs["video_frame_mask"].tolist() == [[True, True, True], [True, False, False]]
    assert (inputs["input_ids"] == VIDEO).sum(dim=1).tolist() == [12, 4]
    assert inputs["attention_mask"].sum(dim=1).tolist() == [13, 7]
    assert inputs["attention_mask"][1, 0] == 0, "padded on the left, where generation wants it"
    assert not inputs["pixel_values_videos"][1, 1:].any()


@pytest.mark.parametrize("tokens", [1, 9])
def test_tokens_per_frame_can_be_told_per_call(tokens: int) -> None:
    inputs = tiny_processor()(text="<video>", videos=frames(2), tokens_per_frame=tokens)
    assert (inputs["input_ids"] == VIDEO).sum() == 2 * tokens
    with pytest.raises(ValueError, match="is not a perfect square, such as 1, 4"):
        tiny_processor()(text="<video>", videos=frames(2), tokens_per_frame=5)


@pytest.mark.parametrize(
    ("text", "videos", "message"),
    [
        (None, None, "text is needed"),
        ("no placeholder", [frames(1)], "exactly one of each"),
        (["<video>", "<video>"], [frames(1)], "exactly one of each"),
        ("<video><video>", [frames(1)], "exactly one of each"),
        ("<video>", None, "no video was given"),
        ("<video>", np.zeros((0, 4, 4, 3), np.uint8), "no frames"),
        ("<video>", frames(1)[0], "one per frame"),
        ("<video>", [frames(1)[0]], "one per frame"),
        ("<video>", frames(2) / 255, "one per frame"),
    ],
)
def test_prompts_and_videos_must_match(text: object, videos: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_processor()(text=text, videos=videos)


def test_images_make_a_video() -> None:
    images = [Image.fromarray(frame) for frame in frames(2)]
    inputs = tiny_processor()(text="<video>", videos=images)
    expected = tiny_processor()(text="<video>", videos=frames(2))
    assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])
    inputs = tiny_processor()(text="<video>", videos=[iter(images)])
    assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])


def test_a_users_text_cannot_place_a_video() -> None:
    processor = tiny_processor()
    prompt = processor.prompt("Is <video> a tag?")
    assert prompt.count("<video>") == 1
    assert "Is <video> a tag?" in remove_marks(prompt)


def test_a_conversation_has_its_video_in_the_first_turn_of_the_user() -> None:
    processor = tiny_processor(time_line="llava_video")
    talk: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "A <video> ball."},
        {"role": "user", "content": "Where?"},
    ]
    prompt = processor.prompt(talk, times=[0.5], duration=1.0)
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<video>\n"
        + llava_video_time_line([0.5], 1.0)
        + "Who?<|im_end|>\n<|im_start|>assistant\nA <video> ball.<|im_end|>\n"
        "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert remove_marks(prompt) == expected
    assert processor.prompt(talk[:2], text_only=True).count("<video>") == 0
    assert processor.prompt("Who?") == processor.prompt([{"role": "user", "content": "Who?"}])


def test_prompts_are_encoded_alone_as_together() -> None:
    processor = tiny_processor()
    prompts = [processor.prompt("Who?"), processor.prompt("Where to?")]
    together = processor.encode_prompts(prompts, [1, 2])
    for row, (prompt, count) in enumerate(zip(prompts, [1, 2], strict=True)):
        alone = processor.encode_prompts([prompt], [count])
        assert alone["attention_mask"].all()
        kept = together["attention_mask"][row].bool()
        assert together["input_ids"][row][kept].tolist() == alone["input_ids"][0].tolist()


def test_a_beginning_of_text_token_comes_once() -> None:
    """Llama's tokenizer adds one and Llama's template writes one."""
    processor = tiny_processor(chat_template="<|im_start|>" + CHAT_TEMPLATE)
    backend = processor.tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    processor.tokenizer.add_special_tokens({"bos_token": "<|im_start|>"})
    assert processor.tokenizer("a")["input_ids"][0] == 1
    clip = frames(1)
    plain = processor(text="a <video>", videos=clip)["input_ids"][0].tolist()
    assert plain.count(1) == 1
    written = processor(text="<|im_start|>a <video>", videos=clip)["input_ids"][0].tolist()
    assert written == plain


def test_the_time_line_is_llava_videos() -> None:
    expected = (
        "The video lasts for 10.00 seconds, and 3 frames are uniformly sampled from it. "
        "These frames are located at 1.67s,5.00s,8.33s."
        "Please answer the following questions related to this video.\n"
    )
    times = [10 / 6, 5.0, 50 / 6]
    assert llava_video_time_line(times, 10.0) == expected
    with_line = tiny_processor(time_line="llava_video").prompt("Why?", times=times, duration=10.0)
    assert expected + "Why?" in with_line
    assert expected not in tiny_processor().prompt("Why?", times=times, duration=10.0)


def test_normalising_equals_the_papers_range() -> None:
    """SigLIP maps 0..255 to -1..1."""
    pixels = tiny_processor().normalise(torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8))
    assert pixels.flatten().tolist() == pytest.approx([-1, 2 * 128 / 255 - 1, 1], abs=1e-6)
    assert pixels.shape == (1, 3, 1, 1)


def test_normalising_again_waits_for_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, making one from a list waits for all that was queued before."""
    processor, frames = tiny_processor(), torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    with torch.inference_mode():
        expected = processor.normalise(frames)
    monkeypatch.setattr(torch, "tensor", None)
    assert torch.equal(processor.normalise(frames), expected)


def test_the_model_counts_the_processors_placeholders() -> None:
    processor = tiny_processor(video_newline=True)
    model = tiny_model(video_newline=True)
    inputs = processor(text="<video>?", videos=frames(3), tokens_per_frame=9)
    assert (inputs["input_ids"] == VIDEO).sum() == 3 * 9 + 1
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()
