"""A mirror of the hub on this machine: folders of repositories served over HTTP, as HF_ENDPOINT."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


@dataclass
class Repository:
    """Commits of a repository: revision name to commit, commit to files by path."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        name = hashlib.sha1(b"".join(key.encode() + value for key, value in sorted(files.items()))).hexdigest()
        self.commits[name] = files
        self.branches[branch] = name
        return name

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


class Mirror:
    """Repositories by ``models/owner/name`` or ``datasets/owner/name``, and what was asked of them."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        mirror = self

        class Handler(_Handler):
            pass

        Handler.mirror = mirror
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, kind: str, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit files to a repository; returns the commit."""
        return self.repositories.setdefault(f"{kind}/{name}", Repository()).commit(files, branch)

    def add_folder(self, kind: str, name: str, folder: Path) -> str:
        files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        return self.add(kind, name, files)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        self._answer(body=True, posted=self.rfile.read(length).decode())

    def _answer(self, *, body: bool, posted: str = "") -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.mirror.requests.append(f"{self.command} /{'/'.join(parts)}")
        if parts[0] == "api" and len(parts) >= 4:
            self._api(parts[1], "/".join(parts[2:4]), parts[4:], posted)
        elif "resolve" in parts:
            at = parts.index("resolve")
            kind = "datasets" if parts[0] == "datasets" else "models"
            self._file(f"{kind}/{'/'.join(parts[at - 2 : at])}", parts[at + 1], "/".join(parts[at + 2 :]), body)
        else:
            self._send(404, b"{}")

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, body: bool = True) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _missing(self, code: str, body: bool = True) -> None:
        self._send(404, b'{"error": "not found"}', {"X-Error-Code": code, "X-Error-Message": "not found"}, body)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _api(self, kind: str, name: str, rest: list[str], posted: str) -> None:
        repository = self.mirror.repositories.get(f"{kind}/{name}")
        if repository is None:
            return self._missing("RepoNotFound")
        action, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        commit = repository.resolve(revision)
        if commit is None:
            return self._missing("RevisionNotFound")
        files = repository.commits[commit]
        if action == "revision":
            siblings = [{"rfilename": path} for path in sorted(files)]
            return self._json({"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []})
        if action == "tree":
            return self._json(_tree(files, "/".join(rest[2:]), "recursive=True" in self.path or "=true" in self.path))
        if action == "paths-info":
            asked = json.loads(posted)["paths"] if posted.startswith("{") else parse_qs(posted).get("paths", [])
            return self._json([entry for path in asked for entry in _entries(files, path)])
        return self._missing("EntryNotFound")

    def _file(self, key: str, revision: str, path: str, body: bool) -> None:
        repository = self.mirror.repositories.get(key)
        if repository is None:
            return self._missing("RepoNotFound", body)
        commit = repository.resolve(revision)
        if commit is None:
            return self._missing("RevisionNotFound", body)
        content = repository.commits[commit].get(path)
        if content is None:
            return self._missing("EntryNotFound", body)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        asked = self.headers.get("Range")
        if asked and body:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last) if last else len(content) - 1, len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
            return self._send(206, content[int(first) : end + 1], headers)
        return self._send(200, content, headers, body)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _entries(files: dict[str, bytes], path: str) -> list[dict[str, Any]]:
    if path in files:
        return [_entry(path, files[path])]
    folder = any(name.startswith(f"{path}/") for name in files)
    return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40}] if folder else []


def _tree(files: dict[str, bytes], below: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{below}/" if below else ""
    inside = {path: content for path, content in files.items() if path.startswith(prefix)}
    direct = [_entry(p, c) for p, c in sorted(inside.items()) if recursive or "/" not in p.removeprefix(prefix)]
    folders = {prefix + p.removeprefix(prefix).split("/")[0] for p in inside if "/" in p.removeprefix(prefix)}
    return direct + [{"type": "directory", "path": p, "size": 0, "oid": "0" * 40} for p in sorted(folders)]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    served = Mirror()
    yield served
    served.close()


@pytest.fixture
def python(mirror: Mirror, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code in a process of its own that knows the mirror as the hub, with a cache of its own."""

    def run(code: str, *, offline: bool = False, args: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "EW2S_"))}
        environ = {
            **keep,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "HF_ENDPOINT": mirror.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
            **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        }
        return subprocess.run(
            [sys.executable, "-c", code, *args], capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=120
        )

    return run
