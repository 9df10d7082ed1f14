"""A Hugging Face Hub on this machine: as much of one as its client needs to download a model, with faults to choose."""

import dataclasses
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote


Act = Callable[["Request"], bool]
"""What a fault does with a request. It says whether it has answered it; if not, the Hub does."""
_DISABLED = "Access to this resource is disabled."


@functools.cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def commit_of(folder: Path) -> str:
    """The commit that a folder is on the Hub, by what is in it. Nothing in it may change after that."""
    listing = [(name, _sha256(path)) for name, path in _files(folder).items()]
    return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


@dataclasses.dataclass
class _Fault:
    pattern: re.Pattern[str]
    act: Act
    times: float


class Hub:
    """Repositories by their ids, each with folders by the names of its revisions.

    `requests` has what was asked for, as `GET /path` in the order of asking, and `ranges` what was asked for in part.
    `sizes` are bytes that the Hub says that a file has, in place of those that it has.
    """

    def __init__(self, repositories: Mapping[str, Mapping[str, Path]]) -> None:
        self.repositories = {repository: dict(revisions) for repository, revisions in repositories.items()}
        self.sizes: dict[str, int] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.stopping = threading.Event()
        self._commits = {
            repository: {commit_of(folder): folder for folder in revisions.values()}
            for repository, revisions in repositories.items()
        }
        self._faults: list[_Fault] = []
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        # Whoever waits for the end of the tests waits for a poll of this loop, half a second by default.
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, pattern: str, act: Act, times: float = float("inf")) -> None:
        """Let `act` answer the next `times` requests that are, whole, like `pattern`: `GET /a/b/resolve/.*`."""
        self._faults.append(_Fault(re.compile(pattern), act, times))

    def heal(self) -> None:
        """No faults any more, and nothing asked yet."""
        self._faults.clear()
        self.requests.clear()

    def downloads(self) -> list[str]:
        """The files whose contents were asked for, sorted: one that was asked for twice is there twice."""
        found = (re.fullmatch(r"GET /[^/]+/[^/]+/resolve/[^/]+/(.+)", request) for request in self.requests)
        return sorted(match[1] for match in found if match)

    def folder_of(self, repository: str, revision: str) -> Path | None:
        return self.repositories[repository].get(revision) or self._commits[repository].get(revision)

    def fault_for(self, line: str) -> Act | None:
        for fault in self._faults:
            if fault.times > 0 and fault.pattern.fullmatch(line):
                fault.times -= 1
                return fault.act
        return None


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        hub, path = self.server.hub, self.path.partition("?")[0]
        line = f"{self.command} {path}"
        hub.requests.append(line)
        act = hub.fault_for(line)
        if act is None or not act(self):
            self._answer(hub, [unquote(part) for part in path.split("/")[1:]])

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """The tests look at `Hub.requests`."""

    def _answer(self, hub: Hub, path: list[str]) -> None:
        match path:
            case ["api", "models", *name] if "revision" in name:
                at = name.index("revision")
                repository, revision, file = "/".join(name[:at]), "/".join(name[at + 1 :]), None
            case ["api", "models", *name]:
                repository, revision, file = "/".join(name), "main", None
            case [owner, name, "resolve", revision, *file] if file:
                repository, file = f"{owner}/{name}", "/".join(file)
            case _:
                return self.refuse(404)
        if repository not in hub.repositories:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if (folder := hub.folder_of(repository, revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files, commit = _files(folder), commit_of(folder)
        if file is None:
            return self.send(200, json.dumps(_listing(repository, commit, files, hub.sizes)).encode())
        if file not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        self.send_file(files[file], {"X-Repo-Commit": commit})

    def refuse(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None) -> None:
        said = {"X-Error-Code": code, "X-Error-Message": message}
        said = {name: value for name, value in said.items() if value}
        self.send(status, json.dumps({"error": message}).encode(), said | dict(headers or {}))

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(body))} | dict(headers or {})
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, path: Path, headers: Mapping[str, str], *, extra: int = 0, only: int | None = None) -> None:
        """A file, or the part of it that was asked for.

        Args:
            path: The file.
            headers: More of them.
            extra: Bytes that it is said to have and has not.
            only: Break the connection off where the file has this many bytes.
        """
        size = path.stat().st_size + extra
        begin, status, sent = 0, 200, {"ETag": f'"{_sha256(path)}"', "Accept-Ranges": "bytes"} | dict(headers)
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            self.server.hub.ranges.append(asked[0])
            begin, status = int(asked[1]), 206
            if begin >= size:
                return self.refuse(416, headers={"Content-Range": f"bytes */{size}"})
            sent["Content-Range"] = f"bytes {begin}-{size - 1}/{size}"
        self.send_response(status)
        for name, value in (sent | {"Content-Length": str(size - begin)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        left = max((size if only is None else only) - begin, 0)
        with path.open("rb") as file:
            file.seek(begin)
            while left and (block := file.read(min(left, 2**20))):
                self.wfile.write(block)
                left -= len(block)
        self.close_connection = only is not None

    def file(self) -> tuple[Path, dict[str, str]]:
        """The file that is asked for, which must be one, and its commit."""
        _, owner, name, _, revision, *rest = (unquote(part) for part in self.path.split("/"))
        folder = self.server.hub.folder_of(f"{owner}/{name}", revision)
        assert folder is not None, self.path
        return folder / "/".join(rest), {"X-Repo-Commit": commit_of(folder)}


def _listing(repository: str, commit: str, files: Mapping[str, Path], sizes: Mapping[str, int]) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for name, path in files.items():
        size = sizes.get(name, path.stat().st_size)
        sibling = {"rfilename": name, "size": size, "blobId": hashlib.sha1(name.encode()).hexdigest()}
        if path.suffix in (".msgpack", ".safetensors", ".bin", ".h5"):
            sibling["lfs"] = {"sha256": _sha256(path), "size": size, "pointerSize": 134}
        siblings.append(sibling)
    about = {"private": False, "gated": False, "disabled": False, "downloads": 1, "likes": 0, "tags": ["bart", "jax"]}
    return {"_id": "0", "id": repository, "modelId": repository, "sha": commit, "siblings": siblings} | about


def refusing(status: int, code: str = "", message: str = "") -> Act:
    """What the Hub says of what it does not give: its client goes by the code, or else by the message."""
    return lambda request: _done(request.refuse(status, code, message))


def disabled() -> Act:
    return refusing(403, message=_DISABLED)


def said(body: bytes, kind: str = "application/json") -> Act:
    """The same to whatever is asked."""
    return lambda request: _done(request.send(200, body, {"Content-Type": kind}))


def page() -> Act:
    """HTML, as the portal of a hotel's network answers."""
    return said(
        b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>", "text/html"
    )


def broken_off(only: int) -> Act:
    """The connection ends where the file has `only` bytes, be it asked for from the beginning or from there."""
    return lambda request: _done(request.send_file(*request.file(), only=only))


def longer(extra: int) -> Act:
    """A head that promises more bytes than come."""
    return lambda request: _done(request.send_file(*request.file(), extra=extra))


def silence() -> Act:
    """The connection stands, and nothing comes."""

    def act(request: Request) -> bool:
        request.server.hub.stopping.wait(60)
        request.close_connection = True
        return True

    return act


def moving(repository: str, revision: str, to: str) -> Act:
    """Before the request is answered, `revision` comes to be what `to` is."""

    def act(request: Request) -> bool:
        revisions = request.server.hub.repositories[repository]
        revisions[revision] = revisions[to]
        return False

    return act


def _done(_: None) -> bool:
    return True
