"""`stop` finishes the batch that the model has begun, and nothing that has only been read."""

from pathlib import Path
from typing import Any

import pytest

from crosslmm.captioning.captioner import Captioner
from crosslmm.inference.assistant import Assistant
from tests.support.captioning import caption
from tests.support.clips import write_clip

BATCH = 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(5 * BATCH):
        write_clip(folder / f"{number:02}.mp4", frames=2, first_number=9 * number)
    return folder


@pytest.mark.parametrize("readers", [0, 2])
def test_what_was_only_read_is_left_for_the_next_run(
    folder: Path,
    assistant: Assistant,
    tmp_path: Path,
    readers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "captions.jsonl"
    options: dict[str, Any] = {"out": out, "batch_size": BATCH, "readers": readers}
    results = caption(folder, assistant, **options)
    original, batches = Captioner.caption, []

    def stop_in_the_second_batch(self: Captioner, clips: Any) -> Any:
        batches.append(len(clips))
        if len(batches) == 2:
            results.stop()
        return original(self, clips)

    monkeypatch.setattr(Captioner, "caption", stop_in_the_second_batch)
    assert len(list(results)) == sum(batches)
    assert len(batches) == 2
    assert results.summary.stopped
    assert results.summary.failed == 0
    assert out.read_text("utf-8").count("\n") == sum(batches)
    left = 5 * BATCH - sum(batches)
    assert len(list(caption(folder, assistant, **options))) == left > 0


def test_a_run_that_was_done_anyway_was_not_stopped(folder: Path, assistant: Assistant) -> None:
    results = caption(folder, assistant, batch_size=100)
    for _ in results:
        results.stop()
    assert (results.summary.captioned, results.summary.stopped) == (5 * BATCH, False)
