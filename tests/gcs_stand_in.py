"""A small stand-in of Google Cloud Storage, in memory: the parts that delta-rs and pyarrow use.

delta-rs speaks the XML API, where a conditional put is the header `x-goog-if-generation-match`; pyarrow speaks the JSON
API with resumable uploads. Both see the same objects. Run as a program, it prints its address and serves until its input ends.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

OBJECTS: dict[str, tuple[bytes, int, float]] = {}
"""`bucket/name` to content, generation and time."""

UPLOADS: dict[str, tuple[str, bytearray]] = {}
LOCK = threading.Lock()


def store(path: str, data: bytes, only_generation: str | None) -> bool:
    """Put an object; False where it has another generation than the caller demands."""
    with LOCK:
        _, generation, _ = OBJECTS.get(path, (b"", 0, 0.0))
        if only_generation is not None and int(only_generation) != generation:
            return False
        OBJECTS[path] = (data, max(generation + 1, time.time_ns()), time.time())
        return True


def described(path: str) -> dict[str, Any]:
    """An object as the JSON API tells it."""
    data, generation, moment = OBJECTS[path]
    bucket, _, name = path.partition("/")
    written = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(moment))
    return {
        "kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(data)), "generation": str(generation), "metageneration": "1",
        "timeCreated": written, "updated": written, "etag": f"e{generation}", "contentType": "application/octet-stream",
    }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def as_json(self, value: object, **headers: str) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        body = self.body()
        if url.path.startswith("/upload/"):
            self.upload(url.path, query, body)
        elif match := re.match(r"(?:/download)?/storage/v1/b/([^/]+)(/o(?:/(.*))?)?$", url.path):
            self.as_api(match, query)
        else:
            self.as_xml(unquote(url.path.lstrip("/")), query, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def content(self, path: str) -> None:
        if path not in OBJECTS:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        data, generation, moment = OBJECTS[path]
        headers = {
            "ETag": f'"{generation}"',
            "Last_Modified": formatdate(moment, usegmt=True),
            "x_goog_generation": str(generation),
            "Accept_Ranges": "bytes",
        }
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not span:
            self.answer(200, data, Content_Length=str(len(data)), **headers)
            return
        first = int(span[1]) if span[1] else max(len(data) - int(span[2]), 0)
        last = min(int(span[2]), len(data) - 1) if span[1] and span[2] else len(data) - 1
        if first > last:
            self.answer(416)
            return
        part = data[first : last + 1]
        self.answer(206, part, Content_Range=f"bytes {first}-{last}/{len(data)}", Content_Length=str(len(part)), **headers)

    def as_xml(self, path: str, query: dict[str, str], body: bytes) -> None:
        if "list-type" in query:
            self.listing(path.strip("/"), query)
        elif self.command in ("GET", "HEAD"):
            self.content(path)
        elif self.command == "DELETE":
            self.answer(204 if OBJECTS.pop(path, None) else 404)
        else:
            source = self.headers.get("x-goog-copy-source")
            data = OBJECTS[unquote(source.lstrip("/"))][0] if source else body
            done = store(path, data, self.headers.get("x-goog-if-generation-match"))
            self.answer(200 if done else 412, ETag=f'"{hashlib.md5(data).hexdigest()}"', x_goog_generation=str(OBJECTS[path][1]))

    def listing(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter, after = (query.get(name, "") for name in ("prefix", "delimiter", "start-after"))
        keys, folders = self.children(bucket, prefix, delimiter)
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{item['updated']}</LastModified><ETag>{item['etag']}</ETag><Size>{item['size']}</Size></Contents>"
            for key, item in ((key, described(f"{bucket}/{key}")) for key in keys if key > after)
        )
        rows += "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders)
        self.answer(200, f"<ListBucketResult>{rows}<IsTruncated>false</IsTruncated></ListBucketResult>".encode(), Content_Type="application/xml")

    def children(self, bucket: str, prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
        keys, folders = [], set()
        for path in sorted(OBJECTS):
            name = path.removeprefix(f"{bucket}/")
            if name != path and name.startswith(prefix):
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                else:
                    keys.append(name)
        return keys, sorted(folders)

    def as_api(self, match: re.Match[str], query: dict[str, str]) -> None:
        bucket, objects, name = match[1], match[2], match[3]
        path = f"{bucket}/{unquote(name or '')}"
        if not objects:
            self.as_json({"kind": "storage#bucket", "name": bucket, "id": bucket})
        elif not name:
            keys, folders = self.children(bucket, query.get("prefix", ""), query.get("delimiter", ""))
            self.as_json({"kind": "storage#objects", "items": [described(f"{bucket}/{key}") for key in keys], "prefixes": folders})
        elif self.command == "DELETE":
            self.answer(204 if OBJECTS.pop(path, None) else 404)
        elif query.get("alt") == "media":
            self.content(path)
        elif path in OBJECTS:
            self.as_json(described(path))
        else:
            self.answer(404, b'{"error": {"code": 404, "message": "Not Found"}}', Content_Type="application/json")

    def upload(self, path: str, query: dict[str, str], body: bytes) -> None:
        if "upload_id" not in query:
            bucket = path.split("/b/")[1].split("/")[0]
            name = query.get("name") or json.loads(body or b"{}")["name"]
            token = hashlib.md5(f"{name}{time.time_ns()}".encode()).hexdigest()
            UPLOADS[token] = (f"{bucket}/{unquote(name)}", bytearray())
            self.answer(200, Location=f"http://{self.headers['Host']}{path}?uploadType=resumable&upload_id={quote(token)}")
            return
        target, held = UPLOADS[query["upload_id"]]
        held.extend(body)
        total = self.headers.get("Content-Range", "*").rpartition("/")[2]
        if total == "*":
            self.answer(308, **({"Range": f"bytes=0-{len(held) - 1}"} if held else {}))
            return
        store(target, bytes(held), None)
        self.as_json(described(target))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        if len(sys.argv) > 1:
            print(self.command, self.path, format % args, file=sys.stderr)


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
