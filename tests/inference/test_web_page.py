"""The video of a web page: found by yt-dlp, which reaches no further than a download may."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from crosslmm.errors import VideoError
from crosslmm.inference import https, web_page
from crosslmm.inference.downloads import download
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.inference.web_page import find_video
from crosslmm.options import Sampling
from tests.support.site import Site

USUAL = Sampling()
LD = "application/ld+json"
PAGE = "<html><head><title>A film</title></head><body>{}</body></html>"


def put_page(site: Site, body: str, path: str = "/watch") -> str:
    return site.put(path, PAGE.format(body).encode(), Content_Type="text/html; charset=utf-8")


def content(url: str, cache: FeatureCache | None = None) -> bytes:
    with download(url, USUAL, allow_network=True, cache=cache) as file:
        return Path(file).read_bytes()


def test_without_yt_dlp_a_page_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    url = put_page(site, '<video src="/film.mp4"></video>')
    with pytest.raises(VideoError, match=r"a web page; .* pip install 'crosslmm\[web\]'"):
        content(url)
    assert site.seen == ["/watch"]


@pytest.fixture
def yt_dlp() -> None:
    pytest.importorskip("yt_dlp")


@pytest.mark.usefixtures("yt_dlp")
class TestWithYtDlp:
    def test_its_video_is_downloaded_and_kept(self, site: Site, tmp_path: Path) -> None:
        cache = FeatureCache(tmp_path / "cache")
        site.put("/film.mp4", b"a film", Content_Type="video/mp4", ETag='"1"')
        url = put_page(site, '<video src="/film.mp4"></video>')
        assert content(url, cache) == content(url, cache) == b"a film"
        site.put("/film.mp4", b"another", Content_Type="video/mp4", ETag='"2"')
        assert content(url, cache) == b"another"
        folder = cache.folder.with_name("videos")
        assert [path.read_bytes() for path in folder.glob("*-*")] == [b"another"]

    def test_a_page_of_another_server_is_followed(self, site: Site) -> None:
        site.put("/film.mp4", b"a film", Content_Type="video/mp4")
        put_page(site, '<video src="/film.mp4"></video>')
        assert content(site.redirect("/short", "/watch")) == b"a film"

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("no video here", "no video found"),
            ('<video src="/missing.mp4"></video>', "the server answered 404"),
            ('<video src="/watch"></video>', "a web page, not a video"),
            ('<video src="/list.m3u8"></video>', "no video found"),
            ('<video src="file:///etc/passwd"></video>', "no video found"),
            ('<video src="ftp://example.org/film.mp4"></video>', "no video found"),
        ],
    )
    def test_pages_without_a_video(self, site: Site, body: str, said: str) -> None:
        with pytest.raises(VideoError, match=said) as caught:
            content(put_page(site, body))
        assert len(str(caught.value).splitlines()) == 1

    def test_a_list_of_videos_is_refused(self, site: Site) -> None:
        body = '<video src="/one.mp4"></video><video src="/two.mp4"></video>'
        with pytest.raises(VideoError, match="a list of videos; give the address of one"):
            content(put_page(site, body))

    def test_an_answer_without_end(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(web_page, "MAX_PAGE_BYTES", 2**10)
        with pytest.raises(VideoError, match="answers over"):
            find_video(put_page(site, "x" * 2**20), USUAL)

    @pytest.mark.parametrize(
        "body",
        [
            f'<script type="{LD}">{{"@type":"VideoObject","name":[]}}</script>',
            f'<script type="{LD}">{{"@type":"VideoObject","hasPart":[1],"name":"a"}}</script>',
            '<meta property="og:video" content="http://[:">',
        ],
    )
    def test_what_yt_dlp_stumbles_over_is_told_in_a_line(self, site: Site, body: str) -> None:
        with pytest.raises(VideoError) as caught:
            find_video(put_page(site, body), USUAL)
        assert len(str(caught.value).splitlines()) == 1

    def test_a_page_leads_to_so_many_addresses(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(web_page, "MAX_PAGE_REQUESTS", 2)
        for number in range(9):
            put_page(
                site, f'<meta http-equiv="refresh" content="0; url=/{number + 1}">', f"/{number}"
            )
        url = put_page(site, '<meta http-equiv="refresh" content="0; url=/0">')
        with pytest.raises(VideoError, match="leads to over 2 addresses"):
            find_video(url, USUAL)
        assert len(site.seen) == 2

    def test_another_yt_dlp_is_refused(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        import yt_dlp

        monkeypatch.setattr(yt_dlp.YoutubeDL, "urlopen", lambda *_: None)
        with pytest.raises(VideoError, match="this version of yt-dlp is not supported"):
            find_video(put_page(site, '<video src="/film.mp4"></video>'), USUAL)
        assert site.seen == []

    def test_time(self, site: Site) -> None:
        url = put_page(site, '<video src="/film.mp4"></video>')
        site.wait = 5
        with pytest.raises(VideoError, match="file_timeout"):
            find_video(url, Sampling(file_timeout=0.2))

    @pytest.mark.parametrize("path", ["/film.mp4", "/embed"])
    def test_this_machine_is_not_even_connected_to(self, site: Site, path: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"https://127.0.0.1:{server.getsockname()[1]}{path}"
            body = f'<iframe src="{address}"></iframe><video src="{address}"></video>'
            with pytest.raises(VideoError, match="leads to an address of a private network"):
                content(put_page(site, body))
            server.settimeout(0.1)
            with pytest.raises(TimeoutError):
                server.accept()

    def test_cookies_of_a_page_stay_with_its_server(self, site: Site) -> None:
        site.put("/film.mp4", b"a film", Content_Type="video/mp4")
        body = PAGE.format('<video src="/film.mp4"></video>').encode()
        url = site.put("/watch", body, Content_Type="text/html", Set_Cookie="seen=1")
        assert [cookie.value for cookie in find_video(url, USUAL).cookies] == ["1"]
        assert (
            list(find_video(put_page(site, '<video src="/film.mp4"></video>'), USUAL).cookies) == []
        )

    def test_nothing_else_opens_a_connection_or_runs(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[object] = []
        connect = socket.create_connection

        def connecting(address: object, *rest: object) -> socket.socket:
            opened.append(address)
            return connect(address, *rest)  # type: ignore[arg-type]

        def running(*_: object, **__: object) -> None:
            raise AssertionError("a program was run")

        monkeypatch.setattr(https.socket, "create_connection", connecting)
        monkeypatch.setattr(subprocess.Popen, "__init__", running)
        monkeypatch.setenv("HOME", "/nonexistent")
        find_video(put_page(site, '<video src="/film.mp4"></video>'), USUAL)
        assert len(opened) == len(site.seen) > 0
