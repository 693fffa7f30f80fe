"""Videos on the command line that are no paths: addresses, and stdin."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Site

Run = Callable[..., Any]  # the fixture `run`


@pytest.fixture
def few(checkpoint: Path, home: Path) -> tuple[object, ...]:
    return ("--model", checkpoint, "--frames", 3, "--max-new-tokens", 4)


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSLMM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_an_address_is_refused_in_one_line(run: Run, few: tuple[object, ...]) -> None:
    for command in (["ask", "https://example.org/v.mp4", "what?"], ["chat", "https://e.org/v"]):
        done = run(*command, *few)
        assert done.code == 1
        assert done.err == f"crosslmm: {command[1]}: this is a URL; --allow-network downloads it\n"
    for other in (
        ["caption", "https://e.org/v"],
        ["ask", "http://e.org/v", "q", "--allow-network"],
    ):
        done = run(*other)
        assert done.code == 1
        assert "only local files are supported" in done.err or "is not https" in done.err


def test_an_address_that_may_be_downloaded(
    run: Run,
    few: tuple[object, ...],
    site: Site,
    clip: Path,
    caches: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = site.put("/clip.mp4", clip.read_bytes(), ETag='"1"')
    expected = run("ask", clip, "what?", *few).out
    asked = ("ask", url, "what?", *few, "--allow-network")
    kept = run(*asked, "--json")
    assert kept.code == 0, kept.err
    record = json.loads(kept.out)
    assert (record["video"], record["answer"]) == (url, expected.strip())
    assert len(list((caches / "videos").iterdir())) == 2, "the video and the lock"
    site.put("/clip.mp4", bytes(clip.stat().st_size), ETag='"1"')
    assert run(*asked).out == expected
    seen = len(site.seen)
    more = run("ask", "-c", "and then?", "--max-new-tokens", 1, "--json")
    assert more.code == 0, more.err
    assert more.err.startswith(f"going on after 1 question with {url} --")
    assert json.loads(more.out)["video"] == url
    monkeypatch.setattr("sys.stdin", io.StringIO("at last?\n"))
    assert "and then?" in run("chat", "-c", "--max-new-tokens", 1, "--json").out
    assert len(site.seen) == seen, "a dialogue goes on with what was downloaded"
    assert run("cache", "clear").code == 0
    gone = run("ask", "-c", "and then?")
    assert gone.code == 1
    assert gone.err.endswith(f"crosslmm: {url}: this is a URL; --allow-network downloads it\n")


def test_what_was_downloaded_is_listed_and_cleared(
    run: Run, few: tuple[object, ...], site: Site, clip: Path, caches: Path
) -> None:
    url = site.put("/clip.mp4", clip.read_bytes())
    run("ask", url, "what?", *few, "--allow-network")
    assert json.loads(run("cache", "info", "--json").out)["downloads"] == {
        "videos": 1,
        "size": clip.stat().st_size,
    }
    assert "downloaded: 1 video, " in run("cache", "info").err
    assert "of downloads 1 video, " in run("cache", "clear").err
    assert [path.name for path in (caches / "videos").iterdir()] == ["lock"]
    assert "downloaded: " not in run("cache", "info").err


def test_without_the_cache_nothing_stays(
    run: Run,
    few: tuple[object, ...],
    site: Site,
    clip: Path,
    caches: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url = site.put("/clip.mp4", clip.read_bytes(), ETag='"1"')
    evidence = tmp_path / "e.html"
    options = ("--allow-network", "--no-cache", "--evidence", evidence)
    done = run("ask", url, "what?", *few, *options)
    assert done.code == 0, done.err
    assert url in evidence.read_text()
    evidence.unlink()
    stays = [path.name for path in tmp_path.rglob("*")]
    assert stays == ["home", "last_dialogue.json"]
    refused = run("ask", "-c", "and?", "--no-cache")
    assert (refused.code, len(site.seen)) == (1, 1)
    assert refused.err.endswith(f"crosslmm: {url}: this is a URL; --allow-network downloads it\n")
    more = run("ask", "-c", "and?", "--allow-network", "--no-cache", "--json")
    assert more.code == 0, more.err
    assert "what?" in json.loads(more.out)["prompt"]
    assert len(site.seen) == 2
    assert [path.name for path in tmp_path.rglob("*")] == stays


def test_what_is_no_video_is_called_by_its_address(
    run: Run, few: tuple[object, ...], site: Site, caches: Path
) -> None:
    url = site.put("/page.html", b"<html>sign in</html>")
    done = run("ask", url, "what?", *few, "--allow-network")
    assert done.code == 1
    assert done.err.startswith(f"crosslmm: {url}: ")
    assert str(caches) not in done.err


def test_chat_opens_one(
    run: Run,
    few: tuple[object, ...],
    site: Site,
    clip: Path,
    caches: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = site.put("/clip.mp4", clip.read_bytes())
    monkeypatch.setattr("sys.stdin", io.StringIO(f"who?\n/open {url}\nwhat?\n"))
    done = run("chat", clip, *few, "--allow-network", "--json")
    assert done.code == 0, done.err
    assert [json.loads(line)["video"] for line in done.out.splitlines()] == [str(clip), url]


def test_a_video_from_stdin(
    run: Run, few: tuple[object, ...], clip: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("ask", clip, "what?", *few).out
    pipe(monkeypatch, clip.read_bytes())
    record = json.loads(run("ask", "-", "what?", *few, "--json").out)
    assert (record["video"], record["answer"]) == ("-", expected.strip())
    pipe(monkeypatch, clip.read_bytes())
    both = json.loads(run("ask", clip, "-", "-Q", "which?", *few, "--json").out)
    assert both["videos"] == [str(clip), "-"]
    assert "Video 2:\n" in both["prompt"]
    for command in ("ask", "chat"):
        gone = run(command, "-c", *["and?"] * (command == "ask"))
        assert gone.code == 2
        assert gone.err == (
            "crosslmm: --continue: the last dialogue is about a video from stdin, which was not kept; "
            "give the path of a file\n"
        )
    pipe(monkeypatch, clip.read_bytes())
    assert "video 2, -: 1 of 30 frames" in run("ask", clip, "-", "-Q", "which?", *few).err
    pipe(monkeypatch, b"what?")
    assert run("ask", clip, "-", *few).out == expected, "in the place of a question it is one"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-", "-"), "stdin holds the video or the question, not both"),
        (("-", "-", "-Q", "which?"), "stdin holds one video only"),
        (("-", "-Q", "-"), "stdin holds the video or the question, not both"),
        (("-", "q", "--frames-at", "-"), "stdin holds the video or the frames, not both"),
    ],
)
def test_stdin_is_one_thing(run: Run, arguments: tuple[str, ...], words: str) -> None:
    done = run("ask", *arguments)
    assert done.code == 2
    assert words in done.err


def test_what_stdin_holds_may_be_nothing(
    run: Run, few: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, b"")
    done = run("ask", "-", "what?", *few)
    assert (done.code, done.err) == (1, "crosslmm: -: the file is empty\n")
