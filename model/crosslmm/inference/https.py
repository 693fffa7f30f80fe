"""A file at an https address: opened and read within limits, and never from this machine's own network
because somebody else's server says so."""

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPSConnection
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from crosslmm.errors import VideoError, first_line
from crosslmm.limits import MAX_GIVEN_BYTES
from crosslmm.options import Sampling

SCHEMES = ("https",)  # tests have a server that speaks http
_REDIRECTS = 5
_PIECE = 2**20


class _PrivateAddress(Exception):
    pass


class _PublicConnection(HTTPSConnection):
    """Sends nothing to a machine that is not on the public network, unless through a proxy."""

    def connect(self) -> None:
        super().connect()
        if not self._proxied:
            check_public(self.sock)

    def set_tunnel(self, *arguments: Any, **options: Any) -> None:
        super().set_tunnel(*arguments, **options)
        self._proxied = True

    _proxied = False


class _PublicHandler(HTTPSHandler):
    def https_open(self, request: Request) -> Any:
        return self.do_open(_PublicConnection, request, context=ssl.create_default_context())


def check_public(connected: socket.socket) -> None:
    """Raises _PrivateAddress for a socket that is connected to this machine, or to a network like it."""
    if not ipaddress.ip_address(connected.getpeername()[0].partition("%")[0]).is_global:
        raise _PrivateAddress


class RemoteFile:
    """The answer of a server, to be read once. version: what tells this content of the address from an
    earlier one, empty where the server does not say."""

    def __init__(self, url: str, response: Any, sampling: Sampling) -> None:
        self.url, self._response, self._sampling = url, response, sampling
        headers: HTTPMessage = response.headers
        tag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
        length = headers.get("Content-Length", "")
        self.size = int(length) if length.isdecimal() else 0
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
                raise VideoError(
                    f"{self.url}: took over {self._sampling.file_timeout:g} s; raise `file_timeout`"
                )
            target.write(piece)
            report(copied)
        if copied < self.size:
            raise VideoError(
                f"{self.url}: the connection ended after {copied:,} bytes of {self.size:,}"
            )
        if not copied:
            raise VideoError(f"{self.url}: is empty")

    def _read(self) -> bytes:
        with _errors(self.url, self._sampling):
            return bytes(self._response.read1(_PIECE))


@contextmanager
def open_url(url: str, sampling: Sampling) -> Iterator[RemoteFile]:
    """The file at an address, within `deadline` and `file_timeout` of `sampling`. Raises VideoError."""
    address, hops = url, 0
    while True:
        check_address(url, address)
        opener = _opener(redirected=hops > 0)
        request = Request(address, headers={"User-Agent": "crosslmm"})  # noqa: S310
        with _errors(url, sampling):
            try:
                response: Any = opener.open(request, timeout=sampling.deadline)
            except HTTPError as error:
                target = error.headers.get("Location")
                error.close()
                if error.code not in (301, 302, 303, 307, 308) or not target:
                    raise
                if (hops := hops + 1) > _REDIRECTS:
                    raise VideoError(f"{url}: redirects over {_REDIRECTS} times") from None
                address = urljoin(address, target)
                continue
        with response:
            yield RemoteFile(url, response, sampling)
        return


def check_address(url: str, address: str) -> None:
    """Raises VideoError for one that is not downloaded from."""
    via = "" if address == url else " redirects to what"
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
        raise VideoError(f"{url}:{via} holds a user name, which is not sent")


def _opener(*, redirected: bool) -> OpenerDirector:
    """Opens https and nothing else, without following a redirect."""
    opener = OpenerDirector()
    handlers: list[Any] = [ProxyHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor()]
    handlers.append(_PublicHandler() if redirected else HTTPSHandler())
    if "http" in SCHEMES:
        handlers.append(HTTPHandler())
    for handler in handlers:
        opener.add_handler(handler)
    return opener


@contextmanager
def _errors(url: str, sampling: Sampling) -> Iterator[None]:
    """Turns what the network may raise into VideoError."""
    try:
        yield
    except _PrivateAddress:
        raise VideoError(
            f"{url}: redirects to an address of a private network; download it first"
        ) from None
    except HTTPError as error:
        raise VideoError(f"{url}: the server answered {error.code} {error.reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, TimeoutError):
            said = f"no answer within {sampling.deadline:g} s"
        elif isinstance(cause, BaseException):
            said = getattr(cause, "strerror", None) or first_line(cause)
        else:
            said = cause
        raise VideoError(f"{url}: cannot be downloaded ({said})") from None
