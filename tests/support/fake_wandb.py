"""As much of a W&B server as a run needs, on the loopback; it can refuse runs, or take one and then say no more."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "c0ffee" * 6 + "c0ff"
"""Made up; as long as theirs."""


class FakeWandb(ThreadingHTTPServer):
    """``rows``: what it was sent of the history."""

    daemon_threads = True

    def __init__(self, mood: Literal["takes", "refuses", "stalls"]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mood = mood
        self.over = threading.Event()
        self.rows: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that was killed is none."""


@contextmanager
def serve(mood: Literal["takes", "refuses", "stalls"]) -> Iterator[FakeWandb]:
    with FakeWandb(mood) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeWandb

    def do_GET(self) -> None:
        self._send({})

    def do_PUT(self) -> None:
        self._body()
        self._send({})

    def do_POST(self) -> None:
        body = self._body()
        if self.server.mood == "refuses":
            self._send({"errors": [{"message": "no such key"}]}, 401)
        elif self.path.startswith("/graphql"):
            self._send({"data": self._answer(json.loads(body))})
        elif self.server.mood == "stalls":
            self.server.over.wait()
        else:
            if "file_stream" in self.path:
                lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
                self.server.rows += map(json.loads, lines)
            self._send({"exitcode": None, "limits": {}})

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        told = asked.get("variables") or {}
        if found and found[1] == "UpsertBucket":
            project = {"id": "p", "name": told.get("project"), "entity": {"id": "e", "name": "me"}}
            names = {"name": told.get("name"), "displayName": told.get("displayName"), "description": None}
            bucket = {"id": "b", **names, "config": None, "sweepName": None, "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if found and found[1] == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.server.url}/put/{name}"} for name in told.get("files") or []]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        return {"model": None}

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, answer: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
