"""From records in LLaVA's convention to the batches that are trained on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import crosslmm
from crosslmm.checkpoints.assembly import VIDEO_TEMPLATE_PRELUDE
from crosslmm.errors import UsageError
from crosslmm.training.collator import Collator
from crosslmm.training.conversation import IGNORED, ConversationFormat
from crosslmm.training.dataset import Example, Skipped, VideoDataset
from crosslmm.training.recipe import Recipe
from crosslmm.training.records import Records, Turn
from tests.support.lessons import lesson, numbered_clip
from tests.support.tiny import CHAT_TEMPLATE, tiny_processor
from tests.support.training_samples import says

END = 2  # <|im_end|> of the tiny tokenizer


SLOPPY = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + ' ' }}"
    "{% for part in message['content'] if part['type'] == 'video' %}<video>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ '\n' + part['text'] }}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


QWEN = VIDEO_TEMPLATE_PRELUDE + (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


MARKED = CHAT_TEMPLATE.replace(
    "<|im_start|>{{ message['role'] }}\n",
    "<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'][0]['text'] }}<|im_end|>{% endgeneration %}\n{% continue %}{% endif %}",
)


TALK = (
    Turn("user", "who?", shows=True),
    Turn("assistant", "\nme"),
    Turn("user", "<video> and then?"),
    Turn("assistant", "nobody <video>"),
)


class TestLabels:
    @pytest.mark.parametrize("template", [CHAT_TEMPLATE, QWEN, SLOPPY])
    def test_exactly_the_answers_and_their_ends_are_learned(self, template: str) -> None:
        processor = tiny_processor(chat_template=template)
        tokens = ConversationFormat(processor, [END]).encode(TALK, frames=3)
        learned = [label for label in tokens.labels if label != IGNORED]
        assert processor.tokenizer.decode(learned) == "\nme<|im_end|>nobody <video><|im_end|>"
        assert all(
            label in (IGNORED, token)
            for token, label in zip(tokens.input_ids, tokens.labels, strict=True)
        )
        assert tokens.input_ids.count(processor.video_token_id) == 3 * 4

    @pytest.mark.parametrize("template", [CHAT_TEMPLATE, QWEN, SLOPPY])
    def test_the_end_of_an_answer_that_was_cut_is_not_learned(self, template: str) -> None:
        talk = ConversationFormat(tiny_processor(chat_template=template), [END])
        cut = [*TALK[:-1], replace(TALK[-1], cut=True)]
        whole, broken = talk.encode(TALK, frames=3), talk.encode(cut, frames=3)
        assert broken.input_ids == whole.input_ids
        assert (whole.labels[-1], broken.labels[-1]) == (END, IGNORED)
        assert broken.labels[:-1] == whole.labels[:-1]

    @pytest.mark.parametrize("template", [CHAT_TEMPLATE, QWEN])
    def test_the_tokens_are_those_of_the_whole_rendered_conversation(self, template: str) -> None:
        processor = tiny_processor(chat_template=template)
        tokens = ConversationFormat(processor, [END]).encode(TALK[:2], frames=3)
        messages = [
            {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "who?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "\nme"}]},
        ]
        rendered = processor.apply_chat_template(messages, tokenize=False)
        whole = processor.tokenizer(processor.expand(rendered, 3))["input_ids"]
        if template == CHAT_TEMPLATE:
            assert tokens.input_ids == whole[: len(tokens.input_ids)]
        else:  # the answer's own first line break is trimmed by the template, and kept by us
            assert len(tokens.input_ids) == len(whole)

    def test_against_the_marks_of_a_template_that_has_them(self) -> None:
        processor = tiny_processor(chat_template=MARKED)
        talk = (
            Turn("user", "who?"),
            Turn("assistant", "me"),
            Turn("user", "ü?"),
            Turn("assistant", "1"),
        )
        tokens = ConversationFormat(processor, [END]).encode(talk)
        messages = [
            {"role": turn.role, "content": [{"type": "text", "text": turn.text}]} for turn in talk
        ]
        marked = processor.tokenizer.apply_chat_template(
            messages, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
        )
        length = len(tokens.input_ids)
        assert tokens.input_ids == marked["input_ids"][:length]
        mine = [int(label != IGNORED) for label in tokens.labels]
        assert mine == marked["assistant_masks"][:length]
        assert not any(marked["assistant_masks"][length:])

    @pytest.mark.parametrize("template", [CHAT_TEMPLATE, QWEN, SLOPPY])
    @pytest.mark.parametrize("time_line", ["none", "llava_video"])
    def test_what_precedes_an_answer_is_the_prompt_of_inference(
        self, template: str, time_line: str
    ) -> None:
        processor = tiny_processor(chat_template=template, time_line=time_line)
        times, frames = (0.5, 1.5), np.zeros((2, 30, 30, 3), dtype=np.uint8)
        tokens = ConversationFormat(processor, [END]).encode(
            TALK[:2], frames=2, times=times, duration=2.0
        )
        prompt = processor.prompt("who?", times=times, duration=2.0)
        asked = processor(text=prompt, videos=frames)["input_ids"][0].tolist()
        first = next(i for i, label in enumerate(tokens.labels) if label != IGNORED)
        assert tokens.input_ids[:first] == asked
        assert ("uniformly sampled" in prompt) == (time_line == "llava_video")

    @pytest.mark.parametrize(
        ("template", "fault"),
        [
            (CHAT_TEMPLATE.replace("<|im_end|>", ""), "would never stop"),
            (CHAT_TEMPLATE.replace("<video>\n", ""), "writes 0 <video> for 1 video"),
            (CHAT_TEMPLATE.replace("in messages", "in messages[-1:]"), "leaves out the text"),
        ],
    )
    def test_an_unfit_template_is_refused(self, template: str, fault: str) -> None:
        talk = ConversationFormat(tiny_processor(chat_template=template), [END])
        with pytest.raises(UsageError, match=fault):
            talk.encode(TALK, frames=1)

    def test_a_form_that_comes_later_is_checked_before_training(self, tmp_path: Path) -> None:
        with_system = {"conversations": [{"from": "system", "value": "be brief"}, *says("a", "b")]}
        data = dataset(tmp_path, lesson(None, ("hello", "hi")), with_system)
        data.check_template()
        data = dataset(tmp_path, lesson(None, ("hello", "hi")), with_system)  # has checked nothing
        template = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        )
        data.processor.chat_template = template + data.processor.chat_template
        with pytest.raises(UsageError, match=r"refuses conversations of system, user.*no system"):
            data.check_template()


def dataset(
    folder: Path, *records: dict[str, Any], context: int = 10_000, **options: Any
) -> VideoDataset:
    (folder / "data.json").write_text(json.dumps(records))
    recipe = Recipe(**{"stage": "tune", "learning_rate": 1e-3, "frames": 4} | options)
    processor = tiny_processor(time_line="llava_video")
    return VideoDataset(
        Records(folder / "data.json"),
        recipe=recipe,
        processor=processor,
        stop_token_ids=[END],
        context=context,
    )


class TestExamples:
    def test_frames_and_prompt_are_those_of_inference(self, tmp_path: Path) -> None:
        clip = numbered_clip(tmp_path / "v.mp4")
        data = dataset(tmp_path, lesson("v.mp4", ("who?", "me")))
        example = data[0]
        assert isinstance(example, Example)
        seen = crosslmm.sample(clip, frames=4, size=(30, 30))
        assert example.frames is not None
        assert np.array_equal(example.frames, seen.pixels)
        prompt = data.processor.prompt("who?", times=seen.times, duration=seen.source.duration)
        asked = data.processor(text=prompt, videos=seen)["input_ids"][0].tolist()
        assert example.tokens.input_ids[: len(asked)] == asked

    @pytest.mark.parametrize(
        ("options", "frames"),
        [
            ({"frames": 4}, 4),
            ({"frames": None, "fps": 5.0}, 6),
            ({"frames": None, "fps": 5.0, "max_frames": 3}, 3),
            ({"frames": None, "fps": 1.0, "min_frames": 8, "max_frames": 9}, 8),
            ({"frames": None, "fps": 1.0, "min_frames": 64, "max_frames": 512}, 12),
        ],
    )
    def test_how_many_frames(self, tmp_path: Path, options: Any, frames: int) -> None:
        numbered_clip(tmp_path / "v.mp4")
        example = dataset(tmp_path, lesson("v.mp4", ("who?", "me")), **options)[0]
        assert isinstance(example, Example)
        assert example.frames is not None
        assert len(example.frames) == frames

    def test_pictures_and_text_alone(self, tmp_path: Path) -> None:
        for name, colour in (("a.png", "red"), ("b.png", "blue")):
            Image.new("RGB", (40, 20), colour).save(tmp_path / name)
        pair = {"image": ["a.png", "b.png"], "conversations": says("<image><image>\nhow?", "so")}
        data = dataset(
            tmp_path,
            {"image": "a.png", "conversations": says("<image>\nwhat?", "red")},
            pair,
            lesson(None, ("hello", "hi")),
        )
        one, two, none = (data[index] for index in range(3))
        assert isinstance(one, Example)
        assert isinstance(two, Example)
        assert isinstance(none, Example)
        assert one.frames is not None
        assert one.frames.shape == (1, 30, 30, 3)
        assert two.frames is not None
        assert two.frames[:, 15, 15].tolist() == [[255, 0, 0], [0, 0, 255]]
        assert none.frames is None
        assert data.processor.video_token_id not in none.tokens.input_ids

    def test_what_cannot_be_used_is_said_not_replaced(self, tmp_path: Path) -> None:
        numbered_clip(tmp_path / "v.mp4")
        (tmp_path / "broken.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:300])
        data = dataset(
            tmp_path,
            lesson("broken.mp4", ("who?", "me")),
            lesson("absent.mp4", ("who?", "me")),
            lesson("v.mp4", ("who?", "me " * 200)),
            max_length=500,
        )
        found = [data[index] for index in range(3)]
        assert [type(item) for item in found] == [Skipped] * 3
        reasons = [item.reason for item in found if isinstance(item, Skipped)]
        assert "broken.mp4" in reasons[0]
        assert "absent.mp4" in reasons[1]
        assert "over max_length 500" in reasons[2]
        assert isinstance(found[1], Skipped)
        assert found[1].origin.endswith("data.json, record 2")

    def test_what_is_over_the_context_is_skipped_too(self, tmp_path: Path) -> None:
        """Inference refuses it."""
        numbered_clip(tmp_path / "v.mp4")
        short, long = lesson("v.mp4", ("who?", "me")), lesson("v.mp4", ("who?", "me " * 200))
        data = dataset(tmp_path, short, long, context=500)
        fits, over = data[0], data[1]
        assert isinstance(fits, Example)
        assert isinstance(over, Skipped)
        assert "over the 500 of the model's context" in over.reason

    def test_of_what_was_skipped_only_what_still_is_stays(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            (tmp_path / name).write_bytes(b"no video")
        data = dataset(
            tmp_path, *(lesson(name, ("who?", "me")) for name in ("a.mp4", "b.mp4", "c.mp4"))
        )
        skipped = [
            item.origin for item in map(data.__getitem__, range(3)) if isinstance(item, Skipped)
        ]
        assert len(skipped) == 3
        numbered_clip(tmp_path / "b.mp4")
        every = slice(0, None, 1)
        assert [item.origin for item in data.recheck(skipped[:2], every)] == skipped[:1]
        shares = [data.recheck(skipped, slice(index, None, 2)) for index in range(2)]
        assert [[item.origin for item in share] for share in shares] == [
            [skipped[0], skipped[2]],
            [],
        ]


class TestBatches:
    def test_a_batch_is_what_the_processor_makes_of_the_same_videos(self, tmp_path: Path) -> None:
        for name, frames in (("a.mp4", 2), ("b.mp4", 4)):
            numbered_clip(tmp_path / name, frames=frames)
        data = dataset(
            tmp_path,
            lesson("a.mp4", ("who?", "me")),
            lesson("b.mp4", ("and who else?", "you")),
            lesson(None, ("hello", "hi")),
        )
        processor = data.processor
        batch = Collator(processor)([data[0], data[1], data[2]])
        clips = [
            crosslmm.sample(tmp_path / name, frames=4, size=(30, 30)) for name in ("a.mp4", "b.mp4")
        ]
        prompts = [
            processor.prompt(question, times=clip.times, duration=clip.source.duration)
            for question, clip in zip(("who?", "and who else?"), clips, strict=True)
        ]
        asked = processor(text=prompts, videos=clips, padding_side="right")
        mask = batch["video_frame_mask"].bool()
        assert mask.tolist() == [[True, True, False, False], [True] * 4, [False] * 4]
        pixels = processor.normalise(batch["frames"][mask])
        assert torch.equal(pixels, asked["pixel_values_videos"][asked["video_frame_mask"]])
        for row, answer in enumerate(("me", "you")):
            length = int(asked["attention_mask"][row].sum())
            assert (
                batch["input_ids"][row, :length].tolist()
                == asked["input_ids"][row, :length].tolist()
            )
            rest = processor.tokenizer.decode(batch["input_ids"][row, length:])
            assert rest.replace("<pad>", "") == f"{answer}<|im_end|>"
        kept = batch["logits_to_keep"]
        assert batch["labels"].shape == (3, kept)
        assert (batch["labels"][:, 0] == IGNORED).all()
        assert (batch["labels"][:, 1] != IGNORED).any()
        ends = batch["input_ids"][:, -kept:]
        learned = batch["labels"] != IGNORED
        assert torch.equal(batch["labels"][learned], ends[learned])
        assert (~learned | (batch["attention_mask"][:, -kept:] == 1)).all()

    def test_a_batch_without_anything_to_see_has_a_blank_row(self, tmp_path: Path) -> None:
        data = dataset(tmp_path, lesson(None, ("hello", "hi")), lesson("gone.mp4", ("who?", "me")))
        collator = Collator(data.processor)
        text_only, nothing = collator([data[0]]), collator([data[1]])
        for batch, rows in ((text_only, 2), (nothing, 1)):
            assert len(batch["input_ids"]) == rows
            assert batch["video_frame_mask"].sum() == 1
            assert batch["frames"][-1].max() == 0
            assert (batch["labels"][-1] == IGNORED).all()
        assert len(nothing["skipped"]) == 1
        assert not text_only["skipped"]
