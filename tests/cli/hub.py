"""A hub on a real socket: as much of its HTTP API as the client asks for to find, describe and fetch a model."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"the only commit").hexdigest()


@dataclass
class Hub:
    """Repositories by name, each a folder, and what was asked for of their files."""

    folders: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    url: str = ""
    sent: list[tuple[str, int]] = field(default_factory=list)
    """(name of a file, bytes of it that were sent), in their order."""

    def bytes_of(self, name: str) -> int:
        """Bytes that were sent of all files of this name."""
        return sum(count for own, count in self.sent if own == name)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._describe("/".join(parts[2:4]), parts[4:], head)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), head)
        else:
            self._send(404, b"{}", {}, head)

    def _known(self, name: str, revision: str, head: bool) -> Path | None:
        """The folder of a repository, or None once it was said why there is none to see."""
        code = None
        if name not in self.hub.folders:
            code, status = "RepoNotFound", 404
        elif name in self.hub.gated:
            code, status = "GatedRepo", 403
        elif revision not in ("main", "v1", COMMIT):
            code, status = "RevisionNotFound", 404
        if code is None:
            return self.hub.folders[name]
        self._send(status, b'{"error": "no"}', {"X-Error-Code": code}, head)
        return None

    def _describe(self, name: str, rest: list[str], head: bool) -> None:
        revision = rest[1] if rest[:1] in (["revision"], ["tree"]) else "main"
        folder = self._known(name, revision, head)
        if folder is None:
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            listed = [_entry(folder, path) for path in files]
            self._send(200, json.dumps(listed).encode(), {}, head)
            return
        siblings = [{"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size} for path in files]
        about = {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings}
        self._send(200, json.dumps({**about, "tags": [], "downloads": 0, "likes": 0}).encode(), {}, head)

    def _file(self, name: str, revision: str, file: str, head: bool) -> None:
        folder = self._known(name, revision, head)
        if folder is None:
            return
        path = folder / file
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, head)
            return
        content, status = path.read_bytes(), 200
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        headers["Accept-Ranges"] = "bytes"
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            content, status = content[int(first) : end], 206
        if not head:
            self.hub.sent.append((file, len(content)))
        self._send(status, content, headers, head)

    def _send(self, status: int, content: bytes, headers: dict[str, str], head: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(content)


def _entry(folder: Path, path: Path) -> dict[str, object]:
    oid = hashlib.sha1(path.read_bytes()).hexdigest()
    return {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": oid}


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A hub, for as long as this lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def publish(hub: Hub, name: str, folder: Path, files: dict[str, object]) -> None:
    """Make a repository of files: objects are written as JSON, texts as they are."""
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    hub.folders[name] = folder
