"""A Hugging Face Hub on this machine, as much of it as a download uses."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def fake_hub(
    repositories: dict[str, Path],
    *,
    gated: tuple[str, ...] = (),
    break_after: int | None = None,
    stall_after: int | None = None,
    asked: list[str] | None = None,
) -> Iterator[str]:
    """Serve folders by Hub id and yield the address. With `break_after` every answer that is longer
    breaks off after that many bytes, once; with `stall_after` it goes on after a long time. `asked`
    gets the names of the files whose contents are sent."""
    broken: set[str] = set()
    released = Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._describe("/".join(parts[2:4]), parts[4])
            elif len(parts) >= 5 and parts[2] == "resolve":
                self._file("/".join(parts[:2]), "/".join(parts[4:]), body)
            else:
                self._send(404, b"", {})

        def _describe(self, name: str, what: str) -> None:
            if name in gated:
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif name not in repositories:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif what == "tree":
                files = [path for path in sorted(repositories[name].iterdir()) if path.is_file()]
                listing = [
                    {
                        "type": "file",
                        "path": path.name,
                        "size": path.stat().st_size,
                        "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                    }
                    for path in files
                ]
                self._send(200, json.dumps(listing).encode(), {})
            else:
                self._send(200, json.dumps({"id": name, "sha": COMMIT}).encode(), {})

        def _file(self, name: str, file: str, body: bool) -> None:
            data = (repositories[name] / file).read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            status = 200
            if body and asked is not None:
                asked.append(file)
            wanted = self.headers.get("Range")
            if wanted and body:
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                data, status = data[start:], 206
            self._send(status, data, headers, body=body, key=f"{name}/{file}")

        def _send(
            self,
            status: int,
            data: bytes,
            headers: dict[str, str],
            *,
            body: bool = True,
            key: str = "",
        ) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(header, value)
            self.end_headers()
            if not body:
                return
            if break_after is not None and len(data) > break_after and key not in broken:
                broken.add(key)
                self.wfile.write(data[:break_after])
                self.close_connection = True
                return
            if stall_after is not None and len(data) > stall_after:
                self.wfile.write(data[:stall_after])
                released.wait(60)
                self.close_connection = True
                return
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()
