"""A file at an https address: opened and read within limits, and never from this machine's own network
because somebody else's server says so."""

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from http.cookiejar import CookieJar
from typing import IO, Any
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import (
    HTTPCookieProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from crosslmm.errors import VideoError, first_line
from crosslmm.limits import MAX_GIVEN_BYTES
from crosslmm.options import Sampling
from crosslmm.video.source import over_time

SCHEMES = ("https",)  # tests have a server that speaks http
_REDIRECTS = 5
_PIECE = 2**20
_LENGTH = re.compile(r"[0-9]{1,15}")
# Addresses whose last four bytes are one of version 4: translated by a gateway, and an old form.
_HOLD_VERSION_4 = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")))
# Which Python takes for global ones, or some of them.
_NOT_GLOBAL = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "5f00::/16"))
)
_TRANSLATED_HERE = ipaddress.IPv6Network("64:ff9b:1::/48")
_PAGES = ("text/html", "application/xhtml+xml")
_LONGEST_TEXT = 100  # characters of what a server says that are shown


_REDIRECTIONS = (301, 302, 303, 307, 308)
_FOR_ANY_SERVER = ("User-agent", "Accept", "Accept-encoding", "Accept-language", "Content-type")


class WebPage(VideoError):
    """A server answered with a page."""


class _PrivateAddress(Exception):
    pass


class TimeLimit:
    """Ends the connections of a download when its time is over, whatever is being read of them."""

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._end)
        self._timer.daemon = True

    def __enter__(self) -> "TimeLimit":
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        for each in self._sockets:
            each.close()

    def watch(self, connected: socket.socket) -> None:
        self._sockets.append(connected.dup())  # TLS takes the socket itself over
        if self.expired:  # while it was being connected
            self._end()

    def _end(self) -> None:
        self.expired = True
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Guarded:
    """A connection that a time limit can end. With `public` nothing is sent to an address that is not on
    the public network, not even a greeting, unless through a proxy."""

    def __init__(self, *arguments: Any, limit: TimeLimit, public: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limit, self._public = limit, public
        self._create_connection = self._connect  # where http.client opens a socket, before TLS

    def set_tunnel(self, *arguments: Any, **options: Any) -> None:
        super().set_tunnel(*arguments, **options)  # type: ignore[misc]
        self._public = False  # what a proxy connects to is its to refuse

    def _connect(self, address: tuple[str, int], *arguments: Any) -> socket.socket:
        found = find_addresses(*address, public=self._public)
        for each in found:
            if self._limit.expired:
                raise TimeoutError
            try:
                connected = socket.create_connection(each, *arguments)
            except OSError:
                if each == found[-1]:
                    raise
            else:
                self._limit.watch(connected)
                return connected
        raise AssertionError


class _SecureConnection(_Guarded, HTTPSConnection):
    pass


class _PlainConnection(_Guarded, HTTPConnection):
    pass


class _SecureHandler(HTTPSHandler):
    def __init__(self, **guard: Any) -> None:
        super().__init__()
        self._guard = guard

    def https_open(self, request: Request) -> Any:
        context = ssl.create_default_context()
        return self.do_open(_SecureConnection, request, context=context, **self._guard)  # type: ignore[arg-type]


class _PlainHandler(HTTPHandler):
    def __init__(self, **guard: Any) -> None:
        super().__init__()
        self._guard = guard

    def http_open(self, request: Request) -> Any:
        return self.do_open(_PlainConnection, request, **self._guard)  # type: ignore[arg-type]


def find_addresses(host: str, port: int, *, public: bool) -> list[tuple[str, int]]:
    """Those of a host. Raises OSError, and with `public` _PrivateAddress where any is of this machine or
    of a private network."""
    found = [info[4] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if public and not all(is_public(str(address[0])) for address in found):
        raise _PrivateAddress
    return [(str(address[0]), port) for address in found]


def is_public(address: str) -> bool:
    """Whether an IP address is on the public network, also where it stands for one of version 4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.is_site_local or ip in _TRANSLATED_HERE:
            return False
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and any(ip in network for network in _HOLD_VERSION_4):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    held = any(ip in network for network in _NOT_GLOBAL)
    return ip.is_global and not ip.is_multicast and not held


class RemoteFile:
    """The answer of a server, to be read once. version: what tells this content of the address from an
    earlier one, empty where the server does not say."""

    def __init__(self, url: str, response: Any, sampling: Sampling, limit: TimeLimit) -> None:
        """Raises VideoError for an answer of which a part cannot be told from all of it."""
        self.url, self._response, self._sampling, self._limit = url, response, sampling, limit
        headers: HTTPMessage = response.headers
        tag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
        lengths = headers.get_all("Content-Length") or [""]
        length = lengths[0] if len(lengths) == 1 and _LENGTH.fullmatch(lengths[0]) else ""
        if response.status >= 400:
            said = shown(response.reason)
            raise VideoError(f"{url}: the server answered {response.status} {said}")
        if headers.get_content_type() in _PAGES:
            raise WebPage(f"{url}: a web page, not a video")
        if response.status != 200:
            raise VideoError(f"{url}: the server answered {response.status}, not with the file")
        if not length and not response.chunked:
            raise VideoError(f"{url}: the server does not say how long the file is")
        self.size = 0 if response.chunked else int(length)
        self.version = f"{tag} {date} {length}" if tag or date else ""
        if self.size > MAX_GIVEN_BYTES:
            raise VideoError(f"{url}: {self._too_large}")

    @property
    def _too_large(self) -> str:
        return f"holds over {MAX_GIVEN_BYTES / 2**30:g} GiB, the most that is downloaded"

    def copy(self, target: IO[bytes], report: Any) -> None:
        """To a file; report: called with the bytes so far. Raises VideoError, OSError of the disk."""
        began, copied = time.monotonic(), 0
        while piece := self._read():
            copied += len(piece)
            if copied > MAX_GIVEN_BYTES:
                raise VideoError(f"{self.url}: {self._too_large}")
            if time.monotonic() - began > self._sampling.file_timeout:
                raise over_time(self.url, self._sampling)
            target.write(piece)
            report(copied)
        if self._limit.expired:
            raise over_time(self.url, self._sampling)
        if copied < self.size:
            raise VideoError(
                f"{self.url}: the connection ended after {copied:,} bytes of {self.size:,}"
            )
        if not copied:
            raise VideoError(f"{self.url}: is empty")

    def _read(self) -> bytes:
        with as_video_error(self.url, self._sampling, self._limit):
            return bytes(self._response.read1(_PIECE))


@dataclass(frozen=True)
class PageVideo:
    """What a page says of its video: an address, and what it wants to be sent along."""

    address: str
    headers: Mapping[str, str]
    cookies: CookieJar


@contextmanager
def open_url(url: str, sampling: Sampling, source: PageVideo | None = None) -> Iterator[RemoteFile]:
    """The file at an address, within `deadline` and `file_timeout` of `sampling`. source: where that
    of a page is. Raises VideoError, and WebPage for a page."""
    request = Request(url)  # noqa: S310  `send` checks it
    cookies = None
    if source is not None:
        with as_video_error(url, sampling, None):
            request = Request(source.address, headers=dict(source.headers))  # noqa: S310  as above
        cookies = source.cookies
    with TimeLimit(sampling.file_timeout) as limit:
        response = send(url, request, sampling, limit, cookies=cookies, own=source is None)
        with response:
            yield RemoteFile(url, response, sampling, limit)


def send(
    url: str,
    request: Request,
    sampling: Sampling,
    limit: TimeLimit,
    *,
    cookies: CookieJar | None = None,
    own: bool = False,
) -> Any:
    """What a server answers, of any status, where `request` has redirected to; on behalf of `url`.

    own: `request` is for `url` as the user gave it, which may be on a private network; what it redirects
    to may not. Raises VideoError."""
    hops = 0
    while True:
        address = request.full_url
        check_address(url, address)
        if not request.has_header("User-agent"):
            request.add_header("User-Agent", "crosslmm")
        opener = _opener(limit, public=not own or hops > 0, cookies=cookies)
        with as_video_error(url, sampling, limit):
            response: Any = opener.open(request, timeout=sampling.deadline)
        target = response.headers.get("Location")
        if response.status not in _REDIRECTIONS or not target:
            return response
        response.close()
        if (hops := hops + 1) > _REDIRECTS:
            raise VideoError(f"{url}: redirects over {_REDIRECTS} times")
        with as_video_error(url, sampling, limit):
            request = _redirected(request, urljoin(address, target), response.status)


def _redirected(request: Request, address: str, status: int) -> Request:
    """A body goes along only where the server says so, and what is meant for one server not to another.
    The password of a proxy, which urllib adds, goes nowhere."""
    here = urlsplit(request.full_url).netloc == urlsplit(address).netloc
    headers = {
        name: value
        for name, value in request.headers.items()
        if name != "Proxy-authorization" and (here or name in _FOR_ANY_SERVER)
    }
    data = request.data if status in (307, 308) else None
    if data is None:
        headers.pop("Content-type", None)
    return Request(address, data, headers)  # noqa: S310  `send` checks it


def check_address(url: str, address: str) -> None:
    """Raises VideoError for one that is not downloaded from."""
    via = "" if address == url else " leads to what"
    try:
        parts = urlsplit(address)
        scheme, host, secret = parts.scheme, parts.hostname, parts.username
        assert parts.port is None or parts.port
    except (ValueError, AssertionError):
        raise VideoError(f"{url}:{via} is not an address") from None
    if scheme not in SCHEMES:
        raise VideoError(f"{url}:{via} is not https, and only that is downloaded")
    if not host or any(character <= " " or character > "~" for character in address):
        raise VideoError(f"{url}:{via} is not an address; special characters are escaped as %20")
    if secret is not None:
        named = url.replace(
            f"{urlsplit(url).netloc.rpartition('@')[0]}@", "", 1
        )  # not its password
        raise VideoError(f"{named}:{via} holds a user name, which is not sent")


def _opener(limit: TimeLimit, *, public: bool, cookies: CookieJar | None = None) -> OpenerDirector:
    """Opens https and nothing else, without following a redirect."""
    opener = OpenerDirector()
    handlers: list[Any] = [ProxyHandler()]
    if cookies is not None:
        handlers.append(HTTPCookieProcessor(cookies))
    handlers.append(_SecureHandler(limit=limit, public=public))
    if "http" in SCHEMES:
        handlers.append(_PlainHandler(limit=limit, public=False))
    for handler in handlers:
        opener.add_handler(handler)
    return opener


@contextmanager
def as_video_error(url: str, sampling: Sampling, limit: TimeLimit | None) -> Iterator[None]:
    """Turns what the network may raise into VideoError."""
    try:
        yield
    except _PrivateAddress:
        raise VideoError(
            f"{url}: leads to an address of a private network; download it first"
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        if limit is not None and limit.expired:
            raise over_time(url, sampling) from None
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            said = f"no answer within {sampling.deadline:g} s"
        elif isinstance(cause, BaseException):
            said = getattr(cause, "strerror", None) or first_line(cause)
        else:
            said = cause
        raise VideoError(f"{url}: cannot be downloaded ({shown(said)})") from None


def shown(text: object) -> str:
    """What a server says, without control codes."""
    return "".join(c if c.isprintable() else "?" for c in str(text))[:_LONGEST_TEXT]
