"""The video of a web page, found by yt-dlp (extra `web`), which asks servers only through `https`.

yt-dlp says where the file of a video is and downloads nothing. Of its own ways to the network none is
used: it is given one that knows https, the limits, and no private network.
"""

import io
from contextlib import ExitStack, suppress
from http.cookiejar import CookieJar
from typing import Any
from urllib.request import Request

from crosslmm.errors import VideoError
from crosslmm.inference.https import PageVideo, TimeLimit, as_video_error, send, shown
from crosslmm.limits import MAX_PAGE_BYTES, MAX_PAGE_REQUESTS
from crosslmm.options import Sampling
from crosslmm.video.source import over_time

_NOWHERE = "https://crosslmm.invalid/"  # asked for, to see that requests come this way
# One file with a picture, so neither a playlist of pieces nor two files to be merged.
_FORMAT = "bestvideo*[protocol~='^https?$'][height<=?720]"


def find_video(url: str, sampling: Sampling) -> PageVideo:
    """Raises VideoError where the page has none, and without yt-dlp."""
    try:
        import yt_dlp
        from yt_dlp.globals import plugin_dirs
    except ImportError:
        raise VideoError(
            f"{url}: a web page; yt-dlp finds its video, and is not installed: "
            "pip install 'crosslmm[web]'"
        ) from None
    plugin_dirs.value = []  # code of other packages, and of the user's folders
    with ExitStack() as stack:
        director = _Director(url, sampling, stack.enter_context(TimeLimit(sampling.file_timeout)))
        stack.callback(director.close)
        found = yt_dlp.YoutubeDL(_options(sampling))
        director.attach(found)
        try:
            return _video_of(url, found.extract_info(url, download=False), found.cookiejar)
        except VideoError:
            raise
        except Exception as error:  # a page may make yt-dlp fail in any way
            said = shown(str(error).removeprefix("ERROR: ") or type(error).__name__)
            raise director.refused or VideoError(f"{url}: no video found ({said})") from None


def _video_of(url: str, info: Any, cookies: CookieJar) -> PageVideo:
    """info: what yt-dlp makes of a page."""
    if not info or info.get("_type", "video") != "video":
        raise VideoError(f"{url}: a list of videos; give the address of one")
    if info.get("is_live"):
        raise VideoError(f"{url}: is live, and has no end")
    headers = {name: str(value) for name, value in (info.get("http_headers") or {}).items()}
    return PageVideo(str(info["url"]), headers | {"Accept-Encoding": "identity"}, cookies)


class _Silent:
    def debug(self, message: str) -> None: ...

    info = warning = error = debug


def _options(sampling: Sampling) -> dict[str, Any]:
    """No files of the user are read or written, and no programs are run to follow scripts of a page."""
    return {
        "format": _FORMAT,
        "noplaylist": True,
        "playlistend": 1,
        "extract_flat": "in_playlist",
        "check_formats": False,
        "cachedir": False,
        "js_runtimes": {},
        "extractor_retries": 0,
        "socket_timeout": sampling.deadline,
        "logger": _Silent(),
        "quiet": True,
        "color": "never",
    }


class _Director:
    """Stands for yt-dlp's `RequestDirector`; refused: what was the last request's error."""

    def __init__(self, url: str, sampling: Sampling, limit: TimeLimit) -> None:
        self.handlers: dict[str, Any] = {}  # yt-dlp looks here for what else it could do
        self.refused: VideoError | None = None
        self._url, self._sampling, self._limit = url, sampling, limit
        self._left, self._requests = MAX_PAGE_BYTES, MAX_PAGE_REQUESTS
        self._opened = ExitStack()
        self._attached = False

    def attach(self, downloader: Any) -> None:
        """Every request of `downloader` goes this way."""
        downloader.build_request_director = lambda *_: self
        self._headers = dict(downloader.params["http_headers"])
        self._cookies = downloader.cookiejar
        with suppress(Exception):  # another version may not come here
            downloader.urlopen(_NOWHERE)
        if not self._attached:
            raise VideoError(
                f"{self._url}: a web page, and this version of yt-dlp is not supported"
            )

    def send(self, asked: Any) -> Any:
        """asked: yt-dlp's `Request`; returns its `Response`, and raises its `RequestError`."""
        from yt_dlp.networking import Response
        from yt_dlp.networking.exceptions import HTTPError, TransportError

        if asked.url == _NOWHERE:
            self._attached = True
            raise TransportError("nowhere")
        headers = self._headers | dict(asked.headers) | {"Accept-Encoding": "identity"}
        self.refused = None
        try:
            if self._limit.expired:
                raise over_time(self._url, self._sampling)
            self._requests -= 1
            if self._requests < 0:
                raise VideoError(f"{self._url}: leads to over {MAX_PAGE_REQUESTS} addresses")
            with as_video_error(self._url, self._sampling, self._limit):
                request = Request(  # noqa: S310  `send` checks it
                    asked.url, asked.data, headers, method=asked.method
                )
            raw = send(self._url, request, self._sampling, self._limit, cookies=self._cookies)
        except VideoError as error:
            self.refused = error
            raise TransportError(str(error)) from error
        self._opened.callback(raw.close)
        self._left -= len(bytes(raw.headers))
        body = io.BufferedReader(_Body(self, raw))
        answer = Response(body, raw.url, raw.headers, raw.status, raw.reason)
        if raw.status >= 400:
            raise HTTPError(answer)
        return answer

    def read(self, raw: Any, size: int) -> bytes:
        """Of an answer. Raises VideoError where all together are too long."""
        try:
            with as_video_error(self._url, self._sampling, self._limit):
                piece = bytes(raw.read1(size))
            if not piece:
                raw.close()
            self._left -= len(piece)
            if self._left < 0:
                raise VideoError(
                    f"{self._url}: answers over {MAX_PAGE_BYTES / 2**20:g} MiB, and is no video"
                )
        except VideoError as error:
            self.refused = error
            raise
        return piece

    def close(self) -> None:
        self._opened.close()


class _Body(io.RawIOBase):
    def __init__(self, director: _Director, raw: Any) -> None:
        self._director, self._raw = director, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._director.read(self._raw, len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
