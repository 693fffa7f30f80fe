"""LLaVA-OneVision checkpoints as CrossLMM, against transformers' own implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import crosslmm
from crosslmm.checkpoints.loading import load_model, load_processor
from tests.support.tiny import text_config, tiny_tokenizer, vision_config

VIDEO = 4
CPU = torch.device("cpu")

# The two templates that published checkpoints carry, written out for one user turn.
NEWLINE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] if part['type'] == 'video' %}<video>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPACE_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    NEWLINE_TEMPLATE: "<|im_start|>user\n<video>\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    SPACE_TEMPLATE: "<|im_start|>user <video>\nWhy?<|im_end|><|im_start|>assistant\n",
}


def write_checkpoint(
    folder: Path,
    *,
    image_size: int = 30,
    tied: bool = True,
    template: str = NEWLINE_TEMPLATE,
    layers: int = 4,
) -> LlavaOnevisionForConditionalGeneration:
    torch.manual_seed(image_size + tied)
    config = LlavaOnevisionConfig(
        vision_config=vision_config(image_size=image_size),
        text_config=text_config(tie_word_embeddings=tied, num_hidden_layers=layers),
        image_token_index=3,
        video_token_index=VIDEO,
        tie_word_embeddings=tied,
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    settings = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "size": {"height": image_size, "width": image_size},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


@pytest.mark.parametrize("image_size", [30, 24, 43], ids=["odd grid", "even grid", "part patch"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("frames", [1, 5])
def test_logits_and_greedy_answers_are_llava_onevisions(
    tmp_path: Path, image_size: int, tied: bool, frames: int
) -> None:
    reference = write_checkpoint(tmp_path, image_size=image_size, tied=tied)
    model = load_model(tmp_path, device=CPU, dtype=torch.float32)
    count = frames * model.config.tokens_per_frame + 1
    ids = torch.tensor([[1, 7, 9] + [VIDEO] * count + [20, 21, 22]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(1, frames, 3, image_size, image_size),
    }
    with torch.no_grad():
        expected, actual = reference(**inputs).logits, model(**inputs).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    # Random weights may name the placeholder of a video, which ours never do.
    placeholder = [model.config.video_token_id]
    wanted = reference.generate(
        **inputs, max_new_tokens=20, do_sample=False, suppress_tokens=placeholder
    )
    got = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert got.tolist() == wanted.tolist()


@pytest.mark.parametrize(("template", "rendered"), TEMPLATES.items(), ids=["newline", "space"])
def test_what_reaches_the_model_is_what_transformers_would_feed_it(
    tmp_path: Path, template: str, rendered: str
) -> None:
    write_checkpoint(tmp_path, template=template)
    processor = load_processor(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (3, 46, 62, 3), np.uint8)
    prompt = processor.prompt("Why?", times=[0.0, 1.0, 2.0], duration=3.0)
    assert prompt == rendered
    inputs = processor(text=prompt, videos=frames)

    reference = SiglipImageProcessorPil(
        size={"height": 30, "width": 30}, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.6, 0.7]
    )
    expected = reference(images=list(frames), return_tensors="pt")["pixel_values"]
    scale = torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    difference = ((inputs["pixel_values_videos"][0] - expected) * scale * 255).abs()
    assert difference.mean() < 0.5
    assert difference.max() < 4

    # LlavaOnevisionProcessor: frames × ceil(side / 2)² and one for the newline; needs torchvision.
    count = 3 * 3 * 3 + 1
    text = rendered.replace("<video>", "<video>" * count)
    assert inputs["input_ids"][0].tolist() == tiny_tokenizer()(text)["input_ids"]


def test_fewer_tokens_per_frame_are_area_merged(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    assistant = crosslmm.load(tmp_path, dtype="float32", tokens_per_frame=1)
    model = assistant.model
    pixels = torch.randn(2, 3, 30, 30)
    with torch.no_grad():
        embeds, features = model.model.encode_frames(pixels, 1)
        projected, _ = model.model.encode_frames(pixels, 25)
    assert features is None, "every gate is closed, so nothing reads them"
    torch.testing.assert_close(embeds[:, 0], projected.mean(dim=1), rtol=0, atol=1e-5)
    inputs = assistant.processor(
        text=assistant.processor.prompt("Why?"), videos=np.zeros((2, 30, 30, 3), np.uint8)
    )
    assert (inputs["input_ids"] == VIDEO).sum() == 2 * 1 + 1


def test_saving_it_again_gives_an_ordinary_crosslmm(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "llava")
    first = crosslmm.load(tmp_path / "llava", dtype="float32")
    first.model.save_pretrained(tmp_path / "again")
    first.processor.save_pretrained(tmp_path / "again")
    second = crosslmm.load(tmp_path / "again", dtype="float32")
    before, after = first.model.state_dict(), second.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    frames = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), np.uint8)
    prompts = [each.processor.prompt("Why?") for each in (first, second)]
    assert prompts[0] == prompts[1]
    inputs = [each.processor(text=prompts[0], videos=frames) for each in (first, second)]
    assert inputs[0]["input_ids"].tolist() == inputs[1]["input_ids"].tolist()


def test_several_vision_layers_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vision_feature_layer": [-1, -2]}))
    with pytest.raises(crosslmm.CheckpointError, match="reads several vision layers"):
        crosslmm.load(tmp_path)


def test_frame_settings_must_be_there(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(crosslmm.CheckpointError, match="how frames are prepared"):
        crosslmm.load(tmp_path)
