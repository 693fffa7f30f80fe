"""From records in LLaVA's convention to the batches that are trained on."""

import json
import random
import re
import shlex
from itertools import pairwise
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
from crosslmm.training.recipe import Recipe, load_recipe, shipped_recipes
from crosslmm.training.records import Records, Sample, Turn, choose, parse_record
from tests.support.lessons import lesson, numbered_clip
from tests.support.tiny import CHAT_TEMPLATE, tiny_processor

END = 2  # <|im_end|> of the tiny tokenizer


def parsed(**record: Any) -> Sample:
    return parse_record(record, Path("/media"), "data.json, record 7")


def says(*texts: str) -> list[dict[str, str]]:
    speakers = ("human", "gpt")
    return [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]


class TestRecords:
    def test_a_placeholder_is_taken_from_the_text_and_kept_with_its_turn(self) -> None:
        sample = parsed(
            video="a/b.mp4", conversations=says("hi", "yes?", "look <video>\nwho?", "me")
        )
        assert sample.media == (Path("/media/a/b.mp4"),)
        assert [turn.shows for turn in sample.turns] == [False, False, True, False]
        assert sample.turns[2].text == "look \nwho?"

    @pytest.mark.parametrize("start", ["<image>\nwho?", "<video>\nwho?", "who?", "who?\n<image>"])
    def test_both_placeholders_and_none_mean_the_same(self, start: str) -> None:
        sample = parsed(video="v.mp4", conversations=says(start, "me"))
        assert sample.turns == (Turn("user", "who?", shows=True), Turn("assistant", "me"))

    def test_role_and_content_keys_and_a_system_turn(self) -> None:
        turns = [("system", "be brief"), ("user", "who?"), ("assistant", "me")]
        messages = [{"role": role, "content": text} for role, text in turns]
        sample = parsed(image=["p.png"], messages=messages)
        assert [(turn.role, turn.text) for turn in sample.turns] == turns
        assert [turn.shows for turn in sample.turns] == [False, True, False]

    def test_an_answer_before_any_question_and_an_unanswered_one_are_dropped(self) -> None:
        turns = [{"from": "gpt", "value": "hello"}, *says("who?", "me", "and?")]
        assert [turn.text for turn in parsed(conversation=turns).turns] == ["who?", "me"]

    @pytest.mark.parametrize(
        ("record", "fault"),
        [
            ({"conversations": []}, "no conversations"),
            ({"conversations": says("who?")}, "no answer"),
            ({"conversations": says("who?", " ")}, "empty answer"),
            ({"conversations": says("<image>who?", "me")}, "names no video"),
            ({"conversations": says("<image><video>who?", "me"), "video": "v"}, "2 placeholders"),
            (
                {"conversations": says("<image>a", "b", "<image>c", "d"), "video": "v"},
                "exactly one",
            ),
            ({"conversations": says("who?", "me"), "video": ["a", "b"]}, "2 videos"),
            ({"conversations": says("who?", "me"), "video": "a", "image": "b"}, "both"),
            ({"conversations": says("who?", "me"), "image": 3}, "not a path"),
            ({"conversations": says("who?", "me"), "video": "a", "start": "1"}, "start"),
            ({"conversations": says("who?", "me"), "video": "a", "end": 0}, "ends at 0"),
            ({"conversations": says("a", "b"), "video": "a", "start": 5, "end": 5}, "ends at 5"),
            ({"conversations": [{"from": "bot", "value": "x"}]}, "'bot'"),
            ({"conversations": [*says("a"), *says("b", "c")]}, "two user turns"),
            ({"conversations": [{"from": "human", "value": ["x"]}]}, "not text"),
        ],
    )
    def test_a_record_that_cannot_be_used_is_named(self, record: Any, fault: str) -> None:
        with pytest.raises(UsageError, match=rf"data\.json, record 7: .*{fault}"):
            parsed(**record)

    def test_files_and_mixes(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        for name in ("a", "b"):
            records = [lesson(f"{name}{i}.mp4", ("who?", f"{name}{i}")) for i in range(10)]
            (tmp_path / f"{name}.json").write_text(json.dumps(records))
            lines = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)
            (tmp_path / "sub" / f"{name}.jsonl").write_text(lines + "\n")
        mix = tmp_path / "mix.yaml"
        mix.write_text(
            "datasets:\n"
            "- {json_path: 'a.json', sampling_strategy: 'first:3'}\n"
            "- {json_path: 'sub/b.jsonl', sampling_strategy: 'end:2', media_folder: films}\n"
            "- {json_path: '{a,b}.json', sampling_strategy: 'random:30%'}\n"
        )
        records = Records(mix, seed=3)
        answers = [sample.turns[-1].text for sample in records]
        assert answers[:5] == ["a0", "a1", "a2", "b8", "b9"]
        assert [answer[0] for answer in answers[5:]] == ["a"] * 3 + ["b"] * 3
        assert records[4].media == (tmp_path / "films" / "b9.mp4",)
        assert records[0].media == (tmp_path / "a0.mp4",)
        assert answers == [sample.turns[-1].text for sample in Records(mix, seed=3)]
        assert answers != [sample.turns[-1].text for sample in Records(mix, seed=4)]
        lines = Records(tmp_path / "sub" / "a.jsonl", folder="/films")
        assert [sample.turns for sample in lines] == [
            sample.turns for sample in Records(tmp_path / "a.json")
        ]
        assert lines[2].media == (Path("/films/a2.mp4"),)
        (tmp_path / "b.json").rename(tmp_path / "part b.json")
        mix.write_text("datasets:\n- {json_path: 'part {b, b}.json'}\n")
        assert [sample.turns[-1].text for sample in Records(mix)][::10] == ["b0", "b0"]

    @pytest.mark.parametrize(
        ("strategy", "taken"),
        [
            ("all", 7),
            ("first:3", 3),
            ("end:50%", 4),
            ("random:2", 2),
            ("random:10%", 1),
            ("end:9", 7),
        ],
    )
    def test_strategies(self, strategy: str, taken: int) -> None:
        chosen = choose(7, strategy, random.Random(0))
        assert len(set(chosen)) == taken
        assert chosen == sorted(chosen)
        if strategy.startswith("end"):
            assert chosen[-1] == 6

    @pytest.mark.parametrize(
        ("name", "content", "fault"),
        [
            ("d.json", "{}", "JSON list"),
            ("d.json", "[", "not JSON"),
            ("d.json", "[]", "no training data"),
            ("d.jsonl", '{"conversations": [\n', "record 1: not JSON"),
            ("d.yaml", "- a", "datasets"),
            ("d.yaml", "datasets: [{json_path: x.json}]", "x.json: no such file"),
            ("d.yaml", "datasets: [{json: x.json}]", "unknown 'json'"),
            ("d.yaml", "datasets: 5", "list `datasets:` of mappings"),
            ("d.yaml", "datasets: [x.json]", "list `datasets:` of mappings"),
            ("d.yaml", "datasets: [{json_path: 7}]", "path of a file as json_path"),
            ("d.txt", "", ".json, .jsonl"),
        ],
    )
    def test_files_that_are_not_data(
        self, tmp_path: Path, name: str, content: str, fault: str
    ) -> None:
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match=fault):
            Records(tmp_path / name)


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
        template = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        )
        data.processor.chat_template = template + data.processor.chat_template
        with pytest.raises(UsageError, match=r"refuses conversations of system, user.*no system"):
            VideoDataset(
                data.samples, recipe=data.recipe, processor=data.processor, stop_token_ids=[END]
            ).check_template()


def dataset(folder: Path, *records: dict[str, Any], **options: Any) -> VideoDataset:
    (folder / "data.json").write_text(json.dumps(records))
    recipe = Recipe(**{"stage": "tune", "learning_rate": 1e-3, "frames": 4} | options)
    processor = tiny_processor(time_line="llava_video")
    return VideoDataset(
        Records(folder / "data.json"), recipe=recipe, processor=processor, stop_token_ids=[END]
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


class TestRecipes:
    @pytest.mark.parametrize("size", ["2b", "7b"])
    def test_the_shipped_ones_are_the_papers(self, size: str) -> None:
        align, tune = load_recipe(f"align-{size}"), load_recipe(f"tune-{size}")
        assert (align.stage, align.learning_rate, align.frames, align.batch_size) == (
            "align", 1e-3, 32, 512,
        )  # fmt: skip
        assert (tune.stage, tune.learning_rate, tune.vision_learning_rate, tune.batch_size) == (
            "tune", 1e-5, 2e-6, 128,
        )  # fmt: skip
        assert (tune.min_frames, tune.max_frames) == (64, 512)
        assert align.tokens_per_frame == tune.tokens_per_frame == 9
        assert align.epochs == tune.epochs == 1
        assert align.accumulation(8) * 8 * align.device_batch_size == 512

    def test_changes_on_top(self) -> None:
        recipe = load_recipe(
            "tune-2b", ["learning_rate=2e-4", "lora.rank=8", "fps=null", "frames=8"]
        )
        assert recipe.learning_rate == 2e-4
        assert recipe.lora is not None
        assert recipe.lora.rank == 8
        assert (recipe.fps, recipe.frames) == (None, 8)

    def test_frames_replace_the_rate_and_the_other_way_round(self) -> None:
        recipe = load_recipe("tune-2b", ["frames=8"])
        assert recipe.frames == 8
        assert (recipe.fps, recipe.min_frames, recipe.max_frames) == (None, None, None)
        recipe = load_recipe("align-2b", ["fps=2"])
        assert (recipe.frames, recipe.fps) == (None, 2)
        with pytest.raises(UsageError, match="frames or fps, not both"):
            load_recipe("tune-2b", ["frames=8", "fps=2"])

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ("learnin_rate=1", "unknown option 'learnin_rate'; did you mean learning_rate?"),
            ("lora.rnk=1", "lora: unknown option 'rnk'; did you mean rank?"),
            ("zzz=1", "unknown option 'zzz'; there are batch_size, "),
            ("stage=both", "^tune-2b: stage is one of align, tune, distill, not 'both'"),
            ("batch_size=1.5", "batch_size is a whole number, not 1.5"),
            ("gradient_checkpointing=1", "true or false"),
            ("learning_rate=fast", "is a number, not 'fast'"),
            ("learning_rate=.nan", "is a number, not nan"),
            ("steps=.inf", "is a whole number, not inf"),
            ("lora=yes", "lora is a mapping"),
            ("learning_rate=0", "above 0"),
            ("steps=0", "steps is above 0"),
            ("max_length=-1", "max_length is above 0"),
            ("workers=-1", "from 0 up"),
            ("warmup=1", "below 1"),
            ("stage", "key=value"),
        ],
    )
    def test_what_is_refused(self, change: str, fault: str) -> None:
        with pytest.raises(UsageError, match=fault):
            load_recipe("tune-2b", [change])

    def test_unknown_recipe_and_uneven_batch(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"align-2b.*tune-7b"):
            load_recipe("tune-3b")
        with pytest.raises(UsageError, match="no multiple of 1 on each of 3 devices"):
            load_recipe("tune-2b").accumulation(3)
        with pytest.raises(
            UsageError, match=r"`lora` adapts .*, which the align stage does not train"
        ):
            load_recipe("align-2b", ["lora.rank=8"])
        (tmp_path / "mine.yaml").write_text("stage: tune")
        with pytest.raises(UsageError, match="learning_rate is missing"):
            load_recipe(tmp_path / "mine.yaml")
        assert {"align-2b", "align-7b", "tune-2b", "tune-7b"} <= set(shipped_recipes())


class TestGuide:
    """What `docs/training.md` shows is understood."""

    GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8")

    def _block(self, language: str, start: str) -> str:
        blocks = re.findall(rf"^```{language}\n(.*?)^```$", self.GUIDE, re.MULTILINE | re.DOTALL)
        return next(block for block in blocks if block.startswith(start))

    def test_its_recipe_and_its_commands(self, tmp_path: Path) -> None:
        for name in ("mine.yaml", "german.yaml"):
            (tmp_path / name).write_text(self._block("yaml", f"# {name}"))
        commands = re.findall(
            r"^(?:crosslmm|[^`\n]* -m crosslmm_cli) train (.+)$", self.GUIDE, re.MULTILINE
        )
        assert len(commands) == 6
        for command in commands:
            name, *options = shlex.split(command)
            changes = [value for key, value in pairwise(options) if key == "--set"]
            recipe = load_recipe(tmp_path / name if name.endswith(".yaml") else name, changes)
            assert recipe.accumulation(1) >= 1

    def test_its_record_and_its_mix(self, tmp_path: Path) -> None:
        sample = parsed(**json.loads(self._block("json", "{")))
        assert sample.turns[0] == Turn("user", "What is she holding?", shows=True)
        mix = self._block("yaml", "datasets")
        for entry in re.findall(r"json_path: (\S+)", mix):
            for path in [
                entry.replace("{academic,youtube}", name) for name in ("academic", "youtube")
            ]:
                (tmp_path / path).parent.mkdir(exist_ok=True)
                record = json.dumps(lesson("v.mp4", ("who?", "me")))
                (tmp_path / path).write_text(record if path.endswith("l") else f"[{record}]")
        (tmp_path / "mix.yaml").write_text(mix)
        media = [sample.media[0] for sample in Records(tmp_path / "mix.yaml")]
        assert media == [tmp_path / "v.mp4", *[Path("/data/llava_video/v.mp4")] * 2]
