"""Load, open a video, ask, stream: the front door, on real files."""

from pathlib import Path

import pytest
import torch

import crosslmm
from crosslmm.inference.assistant import Assistant
from crosslmm.vision import FrameBuffer
from tests.support.clips import write_clip
from tests.support.tiny import tiny_checkpoint, tiny_model


def test_an_answer_says_what_it_rests_on(assistant: Assistant, clip: Path) -> None:
    answer = assistant.ask(clip, " what happens? ", frames=5, seek="exact", max_new_tokens=6)
    assert answer.question == "what happens?"
    assert [frame.index for frame in answer.frames] == [3, 9, 15, 21, 27]
    assert [frame.time for frame in answer.frames] == pytest.approx([0.3, 0.9, 1.5, 2.1, 2.7])
    assert answer.tokens.original == 5 * 25
    assert answer.tokens.visual == 5 * 4
    assert answer.tokens.generated <= 6
    assert answer.timing.load == assistant.load_seconds > 0
    assert min(answer.timing.decode, answer.timing.encode, answer.timing.prefill) > 0
    record = answer.as_dict()
    assert list(record)[:4] == ["video", "question", "answer", "model"]
    assert record["frames"][0] == {"index": 3, "time": 0.3}
    assert record["settings"]["dtype"] == "float32"
    assert record["versions"]["torch"] == torch.__version__
    assert record["prompt"].count("<video>") == 1


def test_streamed_pieces_make_up_the_answer(assistant: Assistant, clip: Path) -> None:
    response = assistant.stream(clip, "what?", frames=3, max_new_tokens=12)
    pieces = list(response)
    assert len(pieces) > 1
    assert "".join(pieces).strip() == response.answer.text == response.text


def test_the_pipeline_equals_plain_generate(assistant: Assistant, clip: Path) -> None:
    frames = crosslmm.sample(clip, frames=4, size=(30, 30))
    inputs = assistant.processor(text=assistant.processor.prompt("what?"), videos=frames)
    ids = assistant.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = assistant.processor.tokenizer.decode(
        ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    answer = assistant.ask(clip, "what?", frames=4, max_new_tokens=8)
    assert answer.text == expected.strip()
    assert assistant.answer_batch([frames], ["what?"], max_new_tokens=8) == [answer.text]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, not 0"),
        ({"temperature": -1.0}, "`temperature` must be at least 0, not -1.0"),
        ({"tokens_per_frame": 5}, "`tokens_per_frame` 5 is not a perfect square from 1 to 25"),
        (
            {"tokens_per_frame": 36},
            "`tokens_per_frame` 36 is too many: the model has 25 patches per frame",
        ),
    ],
)
def test_impossible_options_are_refused(
    assistant: Assistant, clip: Path, options: dict, message: str
) -> None:
    with pytest.raises(crosslmm.UsageError, match=message):
        assistant.ask(clip, "what?", frames=2, **options)
    with pytest.raises(crosslmm.UsageError, match="empty"):
        assistant.ask(clip, "  ", frames=2)


def test_fewer_tokens_per_frame_make_a_shorter_prompt(checkpoint: Path, clip: Path) -> None:
    one = crosslmm.load(checkpoint, dtype="float32", tokens_per_frame=1)
    answer = one.ask(clip, "what?", frames=3, max_new_tokens=2)
    assert answer.tokens.visual == 3
    assert answer.settings["tokens_per_frame"] == 1
    assert (
        one.ask(clip, "what?", frames=3, tokens_per_frame=9, max_new_tokens=2).tokens.visual == 27
    )


def test_a_clip_shorter_than_asked_is_clamped(assistant: Assistant, tmp_path: Path) -> None:
    write_clip(tmp_path / "short.mp4", frames=3, fps=10)
    answer = assistant.ask(tmp_path / "short.mp4", "what?", frames=64, max_new_tokens=2)
    assert [frame.index for frame in answer.frames] == [0, 1, 2]


class Limit:
    """A device that holds so many frames at a time in the encoder, and so many in all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, chunk: int, total: int) -> None:
        model = type(tiny_model().model)
        encode, forward = model.encode_frames, model.forward

        def limited_encode(self, pixels, tokens):  # type: ignore[no-untyped-def]
            if len(pixels) > chunk:
                raise torch.OutOfMemoryError("pretended: CUDA out of memory")
            return encode(self, pixels, tokens)

        def limited_forward(self, *args, visual_tokens=None, **kwargs):  # type: ignore[no-untyped-def]
            if visual_tokens is not None and visual_tokens.embeds.shape[1] > total:
                raise RuntimeError("pretended: MPS backend out of memory (allocated: 9 GB)")
            return forward(self, *args, visual_tokens=visual_tokens, **kwargs)

        monkeypatch.setattr(model, "encode_frames", limited_encode)
        monkeypatch.setattr(model, "forward", limited_forward)


def test_out_of_memory_halves_the_chunk_then_the_frames(
    checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    assistant = crosslmm.load(checkpoint, dtype="float32", on_notice=notices.append)
    expected = assistant.ask(clip, "what?", frames=20, max_new_tokens=4).text
    Limit(monkeypatch, chunk=5, total=100)
    assert assistant.ask(clip, "what?", frames=20, max_new_tokens=4).text == expected
    assert notices == [
        "out of memory; encoding 8 frames at a time from here on",
        "out of memory; encoding 4 frames at a time from here on",
    ]
    notices.clear()
    Limit(monkeypatch, chunk=16, total=6)
    answer = assistant.ask(clip, "what?", frames=20, max_new_tokens=4)
    assert len(answer.frames) == 5
    assert [notice for notice in notices if "trying" in notice] == [
        "out of memory with 20 frames; trying with 10",
        "out of memory with 10 frames; trying with 5",
    ]
    Limit(monkeypatch, chunk=0, total=0)
    with pytest.raises(crosslmm.OutOfMemory, match="even with one frame"):
        assistant.ask(clip, "what?", frames=4)


def test_frames_whose_features_found_no_room_are_not_kept_twice(
    checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    assistant = crosslmm.load(checkpoint, dtype="float32", on_notice=notices.append)
    expected = assistant.ask(clip, "what?", frames=20, max_new_tokens=4).text
    allocate, calls = FrameBuffer.allocate, 0

    def limited(self: FrameBuffer, chunk: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # after the merged tokens' room, the features'
            raise torch.OutOfMemoryError("pretended: CUDA out of memory")
        allocate(self, chunk)

    monkeypatch.setattr(FrameBuffer, "allocate", limited)
    assert assistant.ask(clip, "what?", frames=20, max_new_tokens=4).text == expected
    assert notices == ["out of memory; encoding 8 frames at a time from here on"]


def test_memory_is_estimated_before_anything_is_loaded(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslmm.inference.memory_check.free_memory", lambda device: 1000)

    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded all the same")

    monkeypatch.setattr("crosslmm.inference.assistant.load_model", unexpected)
    with pytest.raises(crosslmm.OutOfMemory, match=r"its weights need 0\.0 GB and cpu has 0\.0 GB"):
        crosslmm.load(checkpoint)
    monkeypatch.undo()
    notices: list[str] = []
    monkeypatch.setattr("crosslmm.inference.memory_check.free_memory", lambda device: 2_000_000)
    crosslmm.load(checkpoint, frames=5000, on_notice=notices.append)
    assert len(notices) == 1
    assert "fewer frames will be used if it runs out" in notices[0]


def test_unknown_devices_and_precisions_are_refused(checkpoint: Path) -> None:
    for options, message in [
        ({"device": "gpu9"}, "gpu9"),
        ({"device": "cuda:99"}, r"cuda:99: not (on this machine|available)"),
        ({"dtype": "int3"}, "int3"),
        ({"quantization": "2bit"}, "2bit"),
    ]:
        with pytest.raises(crosslmm.UsageError, match=message):
            crosslmm.load(checkpoint, **options)


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = (
        "import sys, crosslmm; print({'torch', 'transformers', 'numpy', 'av'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_a_closed_checkpoint_answers_too(tmp_path: Path, clip: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "closed", gates=False)
    answer = crosslmm.load(folder, dtype="float32").ask(clip, "what?", frames=2, max_new_tokens=3)
    assert answer.tokens.generated >= 1
