"""Captions of merged tokens: batches of unequal rows, what is recorded of them, what is done again."""

from pathlib import Path

import pytest

import crosslmm
from crosslmm.captioning.options import CaptionOptions
from crosslmm.errors import UsageError
from crosslmm.inference.assistant import Assistant
from tests.support.captioning import LENGTHS, caption


def test_a_batch_of_unequal_rows_captions_each_as_alone(clips: Path, assistant: Assistant) -> None:
    paths = [clips / name for name in LENGTHS]
    merging = {"merge": "folder", "keep": "30%"}
    results = list(caption(paths, assistant, **merging))
    every = assistant.model.config.tokens_per_frame
    for result in results:
        [part] = result.segments
        assert result.error is None
        assert part.visual_tokens == int(0.3 * every * len(part.frames))
        assert result.as_dict()["segments"][0]["visual_tokens"] == part.visual_tokens
        alone = assistant.ask(
            result.path, result.prompt, frames=4, max_new_tokens=6, seek="auto", **merging
        )
        assert (result.caption, alone.tokens.visual) == (alone.text, part.visual_tokens)
        assert {name: result.settings[name] for name in merging} == merging


def test_a_number_that_a_method_cannot_keep_fails_that_video(
    clips: Path, assistant: Assistant
) -> None:
    [result] = caption(clips / "a.mp4", assistant, merge="area", keep=4)
    assert result.error is not None
    assert "a.mp4: `merge` area keeps a square number of tokens of each frame" in result.error


def test_another_merging_makes_new_captions_and_the_same_none(
    clips: Path, assistant: Assistant, tmp_path: Path
) -> None:
    def count(**merging: str | int) -> int:
        out = tmp_path / "captions.jsonl"
        return len(list(caption(clips / "a.mp4", assistant, out=out, **merging)))

    keeps: list[dict[str, str | int]] = [
        {}, {}, {"merge": "folder", "keep": "50%"}, {"merge": "folder", "keep": "50 %"},
        {"merge": "random", "keep": "50%"}, {"merge": "random", "keep": 3},
        {"merge": "random", "keep": "3"},
    ]  # fmt: skip
    assert [count(**keep) for keep in keeps] == [1, 0, 1, 0, 1, 1, 0]


def test_without_merging_settings_are_those_of_earlier_versions() -> None:
    assert not {"merge", "keep"} & CaptionOptions().as_dict().keys()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"merge": "folder"}, "`merge` needs `keep`"),
        ({"keep": "10%"}, "`keep` needs `merge`"),
        ({"merge": "folder", "keep": "0%"}, "`keep` must be a share"),
        (
            {"merge": "folder", "keep": 3, "model_options": {"tokens_per_frame": 4}},
            "exclude each other",
        ),
    ],
)
def test_what_means_nothing_is_refused_at_once(
    options: dict[str, object], problem: str, clips: Path
) -> None:
    with pytest.raises(UsageError, match=problem):
        crosslmm.caption(clips, assistant="none", **options)  # type: ignore[arg-type]
