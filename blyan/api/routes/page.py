"""The page: a console in a browser, over what the other routes answer.

Belongs here: sending its files (`blyan/api/page`), and what a browser is told about them. Does not belong here: data, which the page asks
of the other routes with the reader's key, as anybody does.

The files are read and compressed once. `/` is looked at again each time; all else is named by the digest of all files together, and kept by
browsers for good. Nothing is loaded from elsewhere, and nothing in the page may become code: no inline script or style, no `innerHTML`
(Trusted Types, of which there is no policy).
"""

from __future__ import annotations

import gzip
import hashlib
import html
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from blyan.api.problems import NOT_FOUND, RequestError
from blyan.api.service import service_of

router = APIRouter(include_in_schema=False)

KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Media types by suffix; a file of another kind is not sent."""

FRONT = "index.html"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content-Security-Policy of the page."""

HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "vary": "accept-encoding",
}

LOOK_AGAIN = "no-cache"

FOR_GOOD = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is sent: its media type, its bytes, and the same compressed."""

    kind: str
    plain: bytes
    gzipped: bytes
    tag: str

    @classmethod
    def of(cls, name: str, body: bytes) -> File:
        """The file of a name."""
        kind = KINDS[name[name.rindex(".") :]]
        return cls(kind, body, gzip.compress(body, mtime=0), f'"{hashlib.sha256(body).hexdigest()[:32]}"')


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page itself."""
    settings = service_of(request).settings
    return _sent(request, _front(str(settings.dagster_url or ""), settings.serve_anonymous), LOOK_AGAIN)


@router.api_route("/page/{digest}/{name}", methods=["GET", "HEAD"])
async def file(request: Request, digest: str, name: str) -> Response:
    """A file that the page asks for. Files of another version of the page are not here: a reload asks for those that are."""
    found = _files().get(name) if digest == _digest() else None
    if found is None:
        raise RequestError(NOT_FOUND, f"nothing is served at {request.url.path}", remedy="load the page again")
    return _sent(request, found, FOR_GOOD)


def _sent(request: Request, file: File, caching: str) -> Response:
    headers = {**HEADERS, "etag": file.tag, "cache-control": caching}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.tag in known:
        return Response(status_code=304, headers=headers)
    accepted = request.headers.get("accept-encoding", "").replace(" ", "")
    if "gzip" in accepted and "gzip;q=0" not in accepted:
        return Response(file.gzipped, media_type=file.kind, headers={**headers, "content-encoding": "gzip"})
    return Response(file.plain, media_type=file.kind, headers=headers)


@cache
def _files() -> dict[str, File]:
    """Every file of the page, by name."""
    return {file.name: File.of(file.name, file.read_bytes()) for file in files("blyan.api").joinpath("page").iterdir() if _is_sent(file.name)}


def _is_sent(name: str) -> bool:
    return any(name.endswith(suffix) for suffix in KINDS)


@cache
def _digest() -> str:
    """Names all files together."""
    told = hashlib.sha256()
    for name, file in sorted(_files().items()):
        told.update(f"{name}\0{len(file.plain)}\0".encode() + file.plain)
    return told.hexdigest()[:16]


@cache
def _front(dagster_url: str, anonymous: bool) -> File:
    """The page with what it has to know of the service before it asks anything."""
    text = _files()[FRONT].plain.decode()
    known = {"@FILES@": f"/page/{_digest()}", "@DAGSTER@": dagster_url.rstrip("/"), "@ANONYMOUS@": str(anonymous).lower()}
    for name, value in known.items():
        text = text.replace(name, html.escape(value))
    return File.of(FRONT, text.encode())
