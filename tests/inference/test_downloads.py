"""Videos at addresses: never without permission, within limits, complete or not at all."""

import os
import socket
import threading
import time
from contextlib import suppress
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

import crosslmm
from crosslmm.errors import UsageError, VideoError
from crosslmm.inference import downloads, https
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.downloads import download
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.options import Sampling
from tests.support.site import Site

USUAL = Sampling()


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


def kept(cache: FeatureCache) -> list[str]:
    folder = cache.folder.with_name("videos")
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def content(url: str, cache: FeatureCache | None = None, sampling: Sampling = USUAL) -> bytes:
    with download(url, sampling, allow_network=True, cache=cache) as file:
        return Path(file).read_bytes()


def test_nothing_is_fetched_unasked(site: Site, assistant: Assistant, clip: Path) -> None:
    url = site.put("/clip.mp4", clip.read_bytes())
    for ask in (assistant.ask, assistant.stream):
        with pytest.raises(VideoError, match=f"{url}: this is a URL; `allow_network` downloads"):
            ask(url, "what?")
    with pytest.raises(UsageError, match="give the path of a file"):
        assistant.open_zoomed(url)
    message = {"role": "user", "content": [{"type": "video", "url": url}]}
    with pytest.raises(ValueError, match="only local files are read"):
        assistant.processor.apply_chat_template([message], tokenize=True, return_dict=True)
    with pytest.raises(VideoError, match="only local files are supported"):
        crosslmm.sample(url)
    assert site.seen == []


def test_an_answer_about_it_is_that_about_the_file(
    site: Site, assistant: Assistant, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = site.put("/a%20clip.mp4", clip.read_bytes())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options: Any = {"frames": 3, "max_new_tokens": 4}
    answer = assistant.ask(url, "what?", allow_network=True, **options)
    assert answer.text == assistant.ask(clip, "what?", **options).text
    assert answer.video == url
    assert list(tmp_path.iterdir()) == [], "nothing is kept unasked"
    both = assistant.ask([url, str(clip)], "which?", allow_network=True, **options)
    assert "Video 1 (a clip.mp4):" in both.prompt


def test_it_is_kept_by_address_and_version(site: Site, cache: FeatureCache) -> None:
    url = site.put("/v", b"first", ETag='"1"')
    assert content(url, cache) == b"first"
    site.put("/v", b"other", ETag='"1"')
    assert content(url, cache) == b"first", "of the same version nothing is read again"
    site.put("/v", b"other", ETag='"2"')
    assert content(url, cache) == b"other"
    names = kept(cache)
    assert len([name for name in names if name != "lock"]) == 1, "the old version is gone"
    folder = cache.folder.with_name("videos")
    assert (folder.stat().st_mode & 0o077, (folder / names[0]).stat().st_mode & 0o077) == (0, 0)
    nameless = site.put("/w", b"a")
    assert content(nameless, cache) == b"a"
    site.put("/w", b"b")
    assert content(nameless, cache) == b"b", "without a version it is read each time"


def test_the_folder_is_bounded(site: Site, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", size=25)
    urls = [
        site.put(f"/{number}", bytes([65 + number]) * 10, ETag=str(number)) for number in range(3)
    ]
    for second, url in enumerate(urls):
        content(url, cache)
        for name in kept(cache):
            if name != "lock":
                path = cache.folder.with_name("videos") / name
                if path.read_bytes()[:1] == bytes([65 + second]):
                    os.utime(path, (second, second))
    left = {(cache.folder.with_name("videos") / name).read_bytes() for name in kept(cache)}
    assert left == {b"", b"B" * 10, b"C" * 10}
    notices: list[str] = []
    large = site.put("/large", b"x" * 30, ETag="x")
    with download(large, USUAL, allow_network=True, cache=cache, on_notice=notices.append) as file:
        assert Path(file).read_bytes() == b"x" * 30
    assert not Path(file).exists()
    assert "could not be kept (0.0 GB, more than the 0.0 GB of `cache_size`)" in notices[0]


def test_a_link_in_its_place_is_not_followed(
    site: Site, cache: FeatureCache, tmp_path: Path
) -> None:
    url = site.put("/v", b"video", ETag='"1"')
    content(url, cache)
    folder = cache.folder.with_name("videos")
    (name,) = (name for name in kept(cache) if name != "lock")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "secret")
    assert content(url, cache) == b"video"
    assert (tmp_path / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_too_large(
    site: Site, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(https, "MAX_GIVEN_BYTES", 2**20)
    body = b"x" * (2**20 + 1)
    url = site.put("/v", body, ETag="1")
    if chunked:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        site.answers["/v"] = (200, {"Transfer-Encoding": "chunked", "ETag": "1"}, body)
    for each in (cache, None):
        with pytest.raises(VideoError, match=r"over 0\.\d+ GiB, the most that is downloaded"):
            content(url, each)
    assert set(kept(cache)) <= {"lock"}


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Length": "9"}, "the connection ended after 5 bytes of 9"),
        ({"Content-Length": "0"}, "is empty"),
    ],
)
def test_a_part_is_not_taken_for_the_whole(
    site: Site, cache: FeatureCache, headers: dict[str, str], message: str
) -> None:
    url = site.put("/v", b"video", ETag="1", Content_Length=headers["Content-Length"])
    for each in (cache, None):
        with pytest.raises(VideoError, match=message):
            content(url, each)
    assert set(kept(cache)) <= {"lock"}


def test_a_full_disk_in_the_middle(
    site: Site, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(*_: object) -> None:
        raise OSError(28, "No space left on device")

    url = site.put("/v", b"video", ETag="1")
    monkeypatch.setattr(https.RemoteFile, "copy", copy)
    for each in (cache, None):
        with pytest.raises(VideoError, match=r"cannot be written to the disk \(No space left"):
            content(url, each)
    assert kept(cache) == ["lock"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Length": "5"}),
        (200, {}),
        (200, {"Content-Length": "+5"}),
        (200, {"Content-Length": "9" * 5000}),
    ],
    ids=["partial", "unsaid", "signed", "long"],
)
def test_what_could_be_a_part_is_refused(
    site: Site, cache: FeatureCache, status: int, headers: dict[str, str]
) -> None:
    site.answers["/v"] = (status, headers | {"ETag": "1"}, b"video")
    with pytest.raises(VideoError, match=r"the server (answered 206|does not say how long)"):
        content(f"{site.root}/v", cache)
    assert set(kept(cache)) <= {"lock"}


def test_a_server_that_never_ends_its_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(server: socket.socket) -> None:
        with suppress(OSError), server.accept()[0] as connected:
            while True:
                connected.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                time.sleep(0.01)

    monkeypatch.setattr(https, "SCHEMES", ("https", "http"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v"
        with pytest.raises(VideoError, match=r"took over 0\.3 s; raise `file_timeout`"):
            content(url, sampling=Sampling(file_timeout=0.3))


def test_a_server_that_is_slow(site: Site) -> None:
    url = site.put("/v", b"video")
    site.wait = 0.3
    with pytest.raises(VideoError, match=r"no answer within 0\.1 s"):
        content(url, sampling=Sampling(deadline=0.1))
    site.wait = 0.0
    large = site.put("/large", b"x" * 50_000_000)
    with pytest.raises(VideoError, match=r"took over 0\.001 s; raise `file_timeout`"):
        content(large, sampling=Sampling(file_timeout=0.001))


def test_a_connection_made_after_the_time_was_over_is_ended_too(
    monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    connect = socket.create_connection

    def late(*arguments: Any) -> socket.socket:
        time.sleep(0.4)
        return connect(*arguments)

    monkeypatch.setattr(https.socket, "create_connection", late)
    site.wait = 5
    began = time.monotonic()
    with pytest.raises(VideoError, match="file_timeout"):
        content(site.put("/a.mp4", b"a film"), sampling=Sampling(file_timeout=0.2))
    assert time.monotonic() - began < 3


def test_no_address_of_many_is_tried_after_the_time_was_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[object] = []

    def refusing(address: object, *_: object) -> socket.socket:
        tried.append(address)
        time.sleep(0.15)
        raise ConnectionRefusedError

    many = [(2, 1, 6, "", (f"93.184.216.{number}", 443)) for number in range(20)]
    monkeypatch.setattr(https.socket, "getaddrinfo", lambda *_, **__: many)
    monkeypatch.setattr(https.socket, "create_connection", refusing)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(VideoError, match="file_timeout"):
        content("https://example.org/a.mp4", sampling=Sampling(file_timeout=0.2))
    assert len(tried) <= 3


def test_only_what_the_user_gave_may_be_of_a_private_network(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("/a.mp4", b"a film")
    url = site.redirect("/short", "/a.mp4")
    make, guarded = https._opener, list[bool]()

    def opener(limit: https.TimeLimit, *, public: bool, cookies: Any = None) -> Any:
        guarded.append(public)
        return make(limit, public=public, cookies=cookies)

    monkeypatch.setattr(https, "_opener", opener)
    assert content(url) == b"a film"
    assert guarded == [False, True]
    guarded.clear()
    with https.open_url(url, USUAL, https.PageVideo(url, {}, CookieJar())):
        assert guarded == [True, True]


def test_what_is_meant_for_one_server_is_not_sent_to_another() -> None:
    headers = {"User-Agent": "a", "Cookie": "b", "Authorization": "c", "Proxy-Authorization": "d"}
    request = Request("https://example.org/a", headers=headers)
    here = https._redirected(request, "https://example.org/b", 302)
    assert {*here.headers} == {"User-agent", "Cookie", "Authorization"}
    there = https._redirected(request, "https://example.com/b", 302)
    assert {*there.headers} == {"User-agent"}


def test_redirects(site: Site) -> None:
    site.put("/v", b"video")
    assert content(site.redirect("/a", "/v")) == b"video"
    for target, message in (
        ("file:///etc/passwd", "leads to what is not https"),
        ("ftp://host/v", "leads to what is not https"),
        ("/loop", "redirects over 5 times"),
        ("http://user:secret@host/", "leads to what holds a user name"),
    ):
        with pytest.raises(VideoError, match=message):
            content(site.redirect("/loop", target))


def test_a_redirect_to_this_machine_is_not_even_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, https.TimeLimit(9) as limit:
        opener = https._opener(limit, public=True)
        with pytest.raises(https._PrivateAddress):
            opener.open(f"https://localhost:{server.getsockname()[1]}/v")
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    ("address", "refused"),
    [("10.0.0.1", True), ("169.254.169.254", True), ("::1", True), ("fe80::1%eth0", True),
     ("::ffff:127.0.0.1", True), ("64:ff9b::a00:1", True),
     ("::ffff:0:127.0.0.1", True), ("192.0.0.8", True), ("3fff::1", True), ("64:ff9b:1::1", True),
     ("2002:a00:1::", True), ("::127.0.0.1", True), ("fec0::1", True), ("ff0e::1", True),
     ("224.0.1.1", True), ("93.184.216.34", False), ("2606:4700::1111", False),
     ("64:ff9b::5db8:d822", False)],
)  # fmt: skip
def test_addresses_of_private_networks(address: str, refused: bool) -> None:
    assert https.is_public(address) != refused


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/v.mp4", "is not https, and only that is downloaded"),
        ("ftp://example.org/v.mp4", "is not https"),
        ("HTTP://example.org/v.mp4", "is not https"),
        ("https://", "is not an address"),
        ("https://host:0/v", "is not an address"),
        ("https://host:x/v", "is not an address"),
        ("https://[::1/v", "is not an address"),
        ("https://host/a b", "special characters are escaped"),
        ("https://host/\r\nX: y", "special characters are escaped"),
        ("https://me:secret@host/v", "holds a user name, which is not sent"),
    ],
)
def test_what_is_not_downloaded_from(url: str, message: str) -> None:
    for allowed in (True, False):
        with (
            pytest.raises(VideoError, match=message),
            download(url, USUAL, allow_network=allowed),
        ):
            pass


def test_no_password_is_shown() -> None:
    with (
        pytest.raises(VideoError) as refused,
        download("https://me:secret@host/v", USUAL, allow_network=True),
    ):
        pass
    assert str(refused.value).startswith("https://host/v: ")


def test_what_a_server_may_say(site: Site) -> None:
    with pytest.raises(VideoError, match="the server answered 404 Not Found"):
        content(f"{site.root}/none")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(VideoError, match=r"cannot be downloaded \(Connection refused\)"):
        content(f"http://127.0.0.1:{port}/v")


def test_a_local_file_of_such_a_name(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("https:").mkdir()
    (Path("https:") / "clip.mp4").write_bytes(clip.read_bytes())
    assert not downloads.is_address("https://clip.mp4")
    assert downloads.is_address("https://other.mp4")
    assert not downloads.is_address("file:///clip.mp4")
    assert not downloads.is_address(Path("https://other.mp4"))
