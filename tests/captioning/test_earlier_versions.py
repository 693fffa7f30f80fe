"""Outputs of earlier versions are still complete for this one: nothing is captioned again.

The lines are as version 0.1.0 wrote them, before the package was divided into rooms; only paths, and
what depends on the machine, have been replaced by placeholders.
"""

# ruff: noqa: E501

import json
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.fingerprint import content_identity
from tests.support.clips import write_clip
from tests.support.parrot import begin, make, parrot, run  # noqa: F401

LINES = r"""
{"path": "{folder}/a.mp4", "caption": "A a.mp4", "error": null, "duration": 1.0, "segments": [{"start": 0.0, "end": 1.0, "caption": "A a.mp4", "finish": null, "tokens": 0, "frames": []}], "model": "parrot", "prompt": "A", "timing": {"decode": 0.0, "encode": 0.0, "generate": 0.0}, "settings_hash": "c713e5576ee4044c", "settings": {"model": "parrot", "prompt": "A", "max_new_tokens": 256, "segments": 2.5, "scenes": false, "frames": null, "fps": 2, "max_frames": 256, "seek": "auto"}, "content": "606b53306798946c03b07086665a9f40", "same_as": null, "warnings": [], "versions": {}}
{"path": "{folder}/sub/b.mp4", "caption": "A b.mp4", "error": null, "duration": 1.0, "segments": [{"start": 0.0, "end": 1.0, "caption": "A b.mp4", "finish": null, "tokens": 0, "frames": []}], "model": "parrot", "prompt": "A", "timing": {"decode": 0.0, "encode": 0.0, "generate": 0.0}, "settings_hash": "c713e5576ee4044c", "settings": {"model": "parrot", "prompt": "A", "max_new_tokens": 256, "segments": 2.5, "scenes": false, "frames": null, "fps": 2, "max_frames": 256, "seek": "auto"}, "content": "51b213dcb7d460efa2e4855617a2d3c7", "same_as": null, "warnings": [], "versions": {}}
{"path": "{folder}/sub/copy.mp4", "caption": "A b.mp4", "error": null, "duration": 1.0, "segments": [{"start": 0.0, "end": 1.0, "caption": "A b.mp4", "finish": null, "tokens": 0, "frames": []}], "model": "parrot", "prompt": "A", "timing": {"decode": 0.0, "encode": 0.0, "generate": 0.0}, "settings_hash": "c713e5576ee4044c", "settings": {"model": "parrot", "prompt": "A", "max_new_tokens": 256, "segments": 2.5, "scenes": false, "frames": null, "fps": 2, "max_frames": 256, "seek": "auto"}, "content": "51b213dcb7d460efa2e4855617a2d3c7", "same_as": "{folder}/sub/b.mp4", "warnings": [], "versions": {}}
"""

SIDECAR_LINES = r"""
{"path": "{folder}/a.mp4", "caption": "A a.mp4", "error": null, "duration": 1.0, "segments": [{"start": 0.0, "end": 1.0, "caption": "A a.mp4", "finish": null, "tokens": 0, "frames": []}], "model": "parrot", "prompt": "A", "timing": {"decode": 0.0, "encode": 0.0, "generate": 0.0}, "settings_hash": "f25b96ebb748bd82", "settings": {"model": "parrot", "prompt": "A", "max_new_tokens": 256, "segments": null, "scenes": false, "frames": 4, "fps": null, "max_frames": null, "seek": "auto"}, "content": "606b53306798946c03b07086665a9f40", "same_as": null, "warnings": [], "versions": {}, "sidecar": ["a.txt", "70bae8723b57fd99"]}
{"path": "{folder}/sub/b.mp4", "caption": "A b.mp4", "error": null, "duration": 1.0, "segments": [{"start": 0.0, "end": 1.0, "caption": "A b.mp4", "finish": null, "tokens": 0, "frames": []}], "model": "parrot", "prompt": "A", "timing": {"decode": 0.0, "encode": 0.0, "generate": 0.0}, "settings_hash": "f25b96ebb748bd82", "settings": {"model": "parrot", "prompt": "A", "max_new_tokens": 256, "segments": null, "scenes": false, "frames": 4, "fps": null, "max_frames": null, "seek": "auto"}, "content": "51b213dcb7d460efa2e4855617a2d3c7", "same_as": null, "warnings": [], "versions": {}, "sidecar": ["sub/b.txt", "307d6825f3c37eab"]}
"""

MODEL_LINES = r"""
{"path": "{folder}/a.mp4", "caption": "4\u0018c[", "error": null, "duration": 0.6, "segments": [{"start": 0.0, "end": 0.6, "caption": "4\u0018c[", "finish": "length", "tokens": 4, "frames": [{"index": 1, "time": 0.1}, {"index": 4, "time": 0.4}]}], "model": "{model}", "prompt": "Describe the video.", "timing": {"decode": 0.0176, "encode": 0.0029, "generate": 0.0211}, "settings_hash": "e1042c6aa107b4c5", "settings": {"model": "0123456789abcdef", "dtype": "float32", "quantization": "none", "tokens_per_frame": "4", "prompt": "Describe the video.", "max_new_tokens": 4, "segments": null, "scenes": false, "frames": 2, "fps": null, "max_frames": null, "seek": "exact"}, "content": "{content}", "same_as": null, "warnings": [], "versions": {"crosslmm": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.23.0", "av": "18.1.0"}}
{"path": "{folder}/bad.mp4", "caption": null, "error": "{folder}/bad.mp4: this is text, not a video", "duration": null, "segments": [], "model": "{model}", "prompt": "Describe the video.", "timing": {"decode": 0, "encode": 0, "generate": 0}, "settings_hash": "e1042c6aa107b4c5", "settings": {"model": "0123456789abcdef", "dtype": "float32", "quantization": "none", "tokens_per_frame": "4", "prompt": "Describe the video.", "max_new_tokens": 4, "segments": null, "scenes": false, "frames": 2, "fps": null, "max_frames": null, "seek": "exact"}, "content": "7d8582e9d4f4b35683bad11b7d2b9d75", "same_as": null, "warnings": [], "versions": {"crosslmm": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.23.0", "av": "18.1.0"}}
"""

SUMMARY = [
    *("total", "captioned", "failed", "kept", "kept_failures", "copies", "no_videos", "stopped"),
    *("seconds", "failures", "linked_folders", "shares"),
]


def fill(lines: str, **values: object) -> str:
    for name, value in values.items():
        lines = lines.replace(f"{{{name}}}", str(value))
    return lines.lstrip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    make(folder, "a.mp4", "sub/b.mp4")
    return folder


@pytest.mark.usefixtures("parrot")
def test_lines_of_an_earlier_version_are_kept_and_written_alike(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "sub" / "copy.mp4").write_text("b.mp4")
    old, out = fill(LINES, folder=folder), tmp_path / "captions.jsonl"
    out.write_text(old, "utf-8")
    again = begin(folder, format="jsonl", out=out, fps=2, segments=2.5)
    assert list(again) == []
    assert (again.summary.kept, again.summary.total) == (3, 3)
    assert list(again.summary.as_dict()) == SUMMARY
    assert out.read_text("utf-8") == old

    fresh = tmp_path / "fresh.jsonl"
    run(folder, format="jsonl", out=fresh, fps=2, segments=2.5)
    assert fresh.read_text("utf-8") == old


@pytest.mark.usefixtures("parrot")
def test_sidecars_of_an_earlier_version_are_kept(folder: Path) -> None:
    (folder / ".crosslmm-captions-txt.jsonl").write_text(
        fill(SIDECAR_LINES, folder=folder), "utf-8"
    )
    (folder / "a.txt").write_text("A a.mp4\n", "utf-8")
    assert run(folder) == ([], [])
    assert (folder / "sub" / "b.txt").read_text("utf-8") == "A b.mp4\n"  # which was lost
    assert run(folder, "B") == (["a.mp4", "b.mp4"], [])  # they are known to be replaceable


def test_lines_of_a_real_model_are_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "crosslmm.captioning.engines.local.checkpoint_fingerprint",
        lambda folder, adapter=None: "0123456789abcdef",
    )
    folder, out = tmp_path / "clips", tmp_path / "captions.jsonl"
    folder.mkdir()
    write_clip(folder / "a.mp4", frames=6)
    (folder / "bad.mp4").write_bytes(b"text")
    content = content_identity(folder / "a.mp4")
    old = fill(MODEL_LINES, folder=folder, model=checkpoint, content=content)
    out.write_text(old, "utf-8")

    def caption(path: Path) -> Any:
        return crosslmm.caption(
            folder,
            assistant=assistant,
            out=path,
            frames=2,
            max_new_tokens=4,
            readers=0,
            seek="exact",
        )

    assistant = crosslmm.load(checkpoint, dtype="float32", device="cpu")
    again = caption(out)
    assert list(again) == []
    assert (again.summary.kept, again.summary.kept_failures) == (1, 1)
    assert out.read_text("utf-8") == old

    list(caption(tmp_path / "fresh.jsonl"))
    for line, earlier in zip(
        (tmp_path / "fresh.jsonl").read_text("utf-8").splitlines(), old.splitlines(), strict=True
    ):
        new, known = json.loads(line), json.loads(earlier)
        assert list(new) == list(known)
        assert list(new["versions"]) == list(known["versions"])
        for record in (new, known):  # without what may differ on another machine
            del record["timing"], record["versions"]
            record["error"], record["caption"] = record["error"] is None, None
            for part in record["segments"]:
                part["caption"] = None
        assert new == known
