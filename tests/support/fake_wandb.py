"""A minimal W&B server on the loopback interface. It can reject runs, or accept a run and then stop answering.

It has one sweep, whose agents get ``commands`` one after the other.
"""

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
"""Not a real key; only its length is valid."""


class FakeWandb(ThreadingHTTPServer):
    """Keeps the history rows that it receives in ``rows``, and what starts a run in ``runs``."""

    daemon_threads = True

    def __init__(self, behaviour: Literal["accepts", "rejects", "stalls"]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.closing = threading.Event()
        self.rows: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.sweep, self.commands = "", list[dict[str, Any]]()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Ignore errors of clients that were killed."""


@contextmanager
def serve(behaviour: Literal["accepts", "rejects", "stalls"]) -> Iterator[FakeWandb]:
    with FakeWandb(behaviour) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closing.set()
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
        if self.server.behaviour == "rejects":
            self._send({"errors": [{"message": "no such key"}]}, 401)
        elif self.path.startswith("/graphql"):
            self._send({"data": self._answer(json.loads(body))})
        elif self.server.behaviour == "stalls":
            self.server.closing.wait()
        else:
            if "file_stream" in self.path:
                lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
                self.server.rows += map(json.loads, lines)
            self._send({"exitcode": None, "limits": {}})

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        variables = request.get("variables") or {}
        if operation and operation[1] == "UpsertBucket":
            self.server.runs.append(variables)
            project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "me"}}
            names = {"name": variables.get("name"), "displayName": variables.get("displayName"), "description": None}
            bucket = {"id": "b", **names, "config": None, "sweepName": None, "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation and operation[1] == "CreateRunFiles":
            files = [
                {"name": name, "uploadUrl": f"{self.server.url}/put/{name}"} for name in variables.get("files") or []
            ]
            return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        if operation and operation[1] == "SweepWithRuns":
            return {"project": {"sweep": {"config": self.server.sweep, "runs": {"edges": []}}}}
        if operation and operation[1] == "CreateAgent":
            return {"createAgent": {"agent": {"id": "a"}}}
        if operation and operation[1] == "Heartbeat":
            waits = any(json.loads(variables["runState"]).values())
            commands = [] if waits else [self.server.commands.pop(0)] if self.server.commands else [{"type": "exit"}]
            return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}
        if "viewer" in request["query"]:
            return {
                "viewer": {
                    "id": "u",
                    "entity": "me",
                    "username": "me",
                    "email": "",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }
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
