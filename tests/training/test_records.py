"""Records of training data: read, checked, mixed."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from crosslmm.errors import UsageError
from crosslmm.training.records import Records, Turn, choose
from tests.support.lessons import lesson
from tests.support.training_samples import parsed, says


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

    def test_a_strategy_that_there_is_not_is_found_by_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("[]")
        entries = "{json_path: a.json}, {json_path: a.json, sampling_strategy: half}"
        (tmp_path / "mix.yaml").write_text(f"datasets: [{entries}]")
        with pytest.raises(UsageError, match=r"mix.yaml, data set 2: sampling_strategy 'half'"):
            Records(tmp_path / "mix.yaml")

    @pytest.mark.parametrize(
        ("name", "content", "fault"),
        [
            ("d.json", "{}", "JSON list"),
            ("d.json", "[", "not JSON"),
            ("d.json", "{}\n{}", r"not JSON: .*; JSON lines are named \.jsonl"),
            ("d.json", "[]", "no training data"),
            ("d.jsonl", '{"conversations": [\n', "record 1: not JSON"),
            ("d.yaml", "- a", "datasets"),
            ("d.yaml", "datasets: [{json_path: x.json}]", "x.json: no such file"),
            ("d.yaml", "datasets: [{json: x.json}]", "unknown 'json'"),
            ("d.yaml", "datasets: [{json_path: .}]", "a folder, not a file of records"),
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
