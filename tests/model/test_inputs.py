"""What a transformers user hands over: messages with videos, pipelines, batches, tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, pipeline

import crosslmm
from crosslmm.prompts.time_line import llava_video_time_line
from tests.support.tiny import tiny_checkpoint, tiny_model, tiny_processor

VIDEO = 4


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 50, 3), np.uint8)


def asked(**part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": "What happens?"}]}]


@pytest.mark.parametrize("key", ["path", "url", "video", "file"])
def test_a_message_with_a_video_file(clip: Path, key: str) -> None:
    source = clip.as_uri() if key == "file" else str(clip)
    processor = tiny_processor(time_line="llava_video", default_frames=5)
    inputs = processor.apply_chat_template(
        asked(type="video", **{"url" if key == "file" else key: source}),
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
    )
    sampled = crosslmm.sample(clip, frames=5, size=(30, 30))
    prompt = processor.prompt(
        "What happens?", times=sampled.times, duration=sampled.source.duration
    )
    expected = processor(text=prompt, videos=sampled)
    assert "located at 0.30s,1.00s" in prompt
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])


def test_frames_bring_their_times_and_arrays_have_none(clip: Path) -> None:
    processor = tiny_processor(time_line="llava_video")
    sampled = crosslmm.sample(clip, frames=3)

    def text(video: object) -> str:
        inputs = processor.apply_chat_template(
            asked(type="video", video=video), tokenize=True, return_dict=True
        )
        return str(processor.decode(inputs["input_ids"][0]))

    line = llava_video_time_line(sampled.times, sampled.source.duration)
    assert line + "What happens?" in text(sampled)
    assert "located" not in text(sampled.pixels)


def test_the_number_of_frames_can_be_chosen(clip: Path) -> None:
    processor = tiny_processor()
    for chosen, count in (({"num_frames": 2}, 2), ({"fps": 2}, 6)):
        inputs = processor(text="<video>", videos=str(clip), **chosen)
        assert inputs["pixel_values_videos"].shape[1] == count
    assert processor(text="<video>", videos=frames(7), num_frames=3)["input_ids"].shape[1] == 12
    with pytest.raises(ValueError, match="fps needs a video file"):
        processor(text="<video>", videos=frames(7), fps=2)


def test_a_folders_processor_knows_the_models_frames(tmp_path: Path, clip: Path) -> None:
    tiny_checkpoint(tmp_path, default_frames=3)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor(text="<video>", videos=clip)["pixel_values_videos"].shape[1] == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda clip: [[clip]],
        lambda clip: [torch.from_numpy(clip)],
        lambda clip: torch.from_numpy(clip).permute(0, 3, 1, 2),
        lambda clip: clip.transpose(0, 3, 1, 2),
        lambda clip: clip[None],
        lambda clip: [[[Image.fromarray(frame) for frame in clip]]],
        lambda clip: [list(clip)],
        lambda clip: [[list(torch.from_numpy(clip))]],
    ],
    ids=["nested", "tensor", "channels", "array", "batch", "images", "arrays", "tensors"],
)
def test_every_form_of_a_video_gives_the_same_pixels(make: Any) -> None:
    expected = tiny_processor()(text="<video>", videos=frames(3))
    inputs = tiny_processor()(text="<video>", videos=make(frames(3)))
    assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])


def test_images_are_videos_of_one_frame(tmp_path: Path) -> None:
    image = Image.fromarray(frames(1)[0])
    image.save(tmp_path / "image.png")
    processor = tiny_processor()
    expected = processor(text="<video>?", videos=[[image]])
    for given in (image, [image], [[image]], frames(1)[0], tmp_path / "image.png"):
        for text in ("<video>?", "<image>?"):
            inputs = processor(text=text, images=given)
            assert torch.equal(inputs["input_ids"], expected["input_ids"])
            assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])
    talk = processor.apply_chat_template(
        asked(type="image", image=image), tokenize=True, return_dict=True
    )
    assert (talk["input_ids"] == VIDEO).sum() == 4
    with pytest.raises(ValueError, match="exactly one of each"):
        processor(text="no place for it", images=image)


def test_prompts_with_and_without_a_video_in_one_batch() -> None:
    processor, model = tiny_processor(), tiny_model()
    prompts = ["<video>Who?", "Only words", "<video>What?"]
    flat = processor(text=prompts, videos=[frames(3), frames(1)])
    nested = processor(text=prompts, videos=[[frames(3)], [], [frames(1)]])
    assert all(torch.equal(flat[name], nested[name]) for name in flat)
    assert flat["video_frame_mask"].sum(dim=1).tolist() == [3, 0, 1]
    alone = [
        processor(text=prompts[0], videos=frames(3)),
        processor(text=prompts[1]),
        processor(text=prompts[2], videos=frames(1)),
    ]
    with torch.no_grad():
        together = model(**flat).logits[:, -1]
        single = torch.cat([model(**inputs).logits[:, -1] for inputs in alone])
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-4)
    assert "pixel_values_videos" not in processor(text=["a", "bc"], videos=None)


def test_several_videos_and_images_in_one_prompt() -> None:
    """Their frames make one video, each ended by the model's own token where it has one."""
    for newline in (False, True):
        processor, model = tiny_processor(video_newline=newline), tiny_model(video_newline=newline)
        prompt = "<video> and <image> or <video>?"
        first, image, last = frames(2, seed=1), frames(1, seed=2), frames(3, seed=3)
        inputs = processor(
            text=[prompt, "<video>?"], videos=[first, last, last], images=[[image[0]], []]
        )
        whole = processor(text="<video>", videos=np.concatenate([first, image, last]))
        assert torch.equal(inputs["pixel_values_videos"][0], whole["pixel_values_videos"][0])
        assert inputs["video_frame_mask"].sum(dim=1).tolist() == [6, 3]
        assert (inputs["input_ids"][0] == VIDEO).sum() == 6 * 4 + 3 * newline
        with torch.no_grad():
            together = model(**inputs).logits[1, -1]
            alone = model(**processor(text="<video>?", videos=last)).logits[0, -1]
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="needs text between two videos"):
        processor(text="<video><image>", videos=last, images=image[0])
    with pytest.raises(ValueError, match="no image was given"):
        processor(text="<video> <image>", videos=last)


def test_options_of_the_image_processor_are_applied() -> None:
    processor, clip = tiny_processor(), frames(2)
    plain = processor(text="<video>", videos=clip)["pixel_values_videos"]
    raw = processor(text="<video>", videos=clip, do_rescale=False, do_normalize=False)
    torch.testing.assert_close(raw["pixel_values_videos"] / 127.5 - 1, plain)
    for given in ({"rescale_factor": 0.0}, {"videos_kwargs": {"rescale_factor": 0.0}}):
        assert (processor(text="<video>", videos=clip, **given)["pixel_values_videos"] == -1).all()
    larger = processor(text="<video>", videos=clip, size={"height": 36, "width": 42})
    assert larger["pixel_values_videos"].shape[-2:] == (36, 42)
    with pytest.raises(ValueError, match="do_resize=False: the model takes 30x30"):
        processor(text="<video>", videos=clip, do_resize=False)
    with pytest.raises(ValueError, match="a height and a width in pixels"):
        processor(text="<video>", videos=clip, size={"shortest_edge": 30})
    with pytest.raises(TypeError, match="'do_center_crop' is not an argument"):
        processor(text="<video>", videos=clip, images_kwargs={"do_center_crop": True})


def test_a_message_with_the_images_of_a_video(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, frame in zip(paths, frames(3), strict=True):
        Image.fromarray(frame).save(path)
    inputs = tiny_processor().apply_chat_template(
        asked(type="video", url=[str(path) for path in paths]), tokenize=True, return_dict=True
    )
    expected = tiny_processor()(text="<video>", videos=frames(3))
    assert torch.equal(inputs["pixel_values_videos"], expected["pixel_values_videos"])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"videos": [[frames(1), frames(1)]]}, ValueError, "1 tokens in 1 prompts, 2 videos"),
        ({"videos": "https://example.org/a.mp4"}, ValueError, "only local files"),
        ({"videos": frames(2), "frame_rate": 2}, TypeError, "'frame_rate' is not an argument"),
        ({"videos": frames(2), "audio": [0.0]}, TypeError, "'audio' is not an argument"),
        (
            {"videos": frames(9), "truncation": True, "max_length": 10},
            ValueError,
            "truncated to 10 tokens",
        ),
    ],
)
def test_nothing_vanishes(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        tiny_processor()(text="<video>?", **arguments)


@pytest.mark.parametrize(("kind", "kept"), [("np", np.ndarray), ("pt", torch.Tensor), (None, list)])
def test_all_tensors_are_of_the_kind_asked_for(kind: str | None, kept: type) -> None:
    processor = tiny_processor()
    clips = [frames(2), frames(1)]
    inputs = processor(text=["<video>", "<video>a"], videos=clips, return_tensors=kind)
    assert {name: type(value) for name, value in inputs.items()} == dict.fromkeys(
        processor.model_input_names, kept
    )


def test_the_image_text_to_text_pipeline(checkpoint: Path, clip: Path) -> None:
    answering = pipeline("image-text-to-text", model=str(checkpoint))
    given = asked(type="video", path=str(clip))
    generation = {"do_sample": False, "max_new_tokens": 4}

    def options() -> dict[str, Any]:
        return {"return_full_text": False, "generate_kwargs": dict(generation)}

    answer = answering(text=given, processor_kwargs={"num_frames": 3}, **options())
    processor = answering.processor
    inputs = processor.apply_chat_template(
        given, tokenize=True, return_dict=True, add_generation_prompt=True, num_frames=3
    )
    ids = answering.model.generate(**inputs, **generation)
    expected = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer[0]["generated_text"] == expected
    still = answering(text=asked(type="image", image=Image.fromarray(frames(1)[0])), **options())
    assert isinstance(still[0]["generated_text"], str)
