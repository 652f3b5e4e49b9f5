"""The service as processes: sockets, workers, signals.

Belongs here: what uvicorn is told. Does not belong here: the application (`blyan.api.app`), arguments (`blyan.cli`).

SIGTERM and SIGINT: no new connection is taken, requests that were taken are answered for up to BLYAN_SERVE_DRAIN_S, live streams and
idle connections end at once.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from blyan.api.tokens import new_secret
from blyan.errors import SettingError
from blyan.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 1_024

KEEP_ALIVE_S = 65
"""Longer than the minute for which proxies keep a connection, so that it is they who close it."""

LIVE_BYTES = 64 << 10
"""Of one message that a client sends to a WebSocket."""

SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"


def serve(settings: Settings, *, host: str, port: int, workers: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: of the lake and of what is served; workers read them again from the environment.
        host: address to listen at.
        port: 0 means a free one.
        workers: processes.
        say: told where it listens.

    Raises:
        SettingError: the port cannot be had, or a file of TLS cannot be read.
    """
    from uvicorn import Config, Server
    from uvicorn.supervisors import Multiprocess

    from blyan.api.connections import PatientProtocol

    scheme = _scheme(settings)
    with _listening(host, port) as listener, tempfile.TemporaryDirectory(prefix="blyan-metrics-") as shared:
        if settings.token_secret is None:
            # Workers have to read each other's tokens.
            os.environ[f"{PREFIX}TOKEN_SECRET"] = new_secret()
        if workers > 1:
            os.environ[SHARED_METRICS] = shared
        config = Config(
            "blyan.api.serve:application",
            factory=True,
            workers=workers,
            http=PatientProtocol,
            ws="websockets-sansio",
            ws_max_size=LIVE_BYTES,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.serve_drain_s)),
            ssl_certfile=settings.serve_tls_certificate,
            ssl_keyfile=settings.serve_tls_key,
        )
        where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        say(f"serving {settings.lake} at {where}; its description is {where}/openapi.json")
        how = "everybody may read; more with a key" if settings.serve_anonymous else "callers need a key"
        say(f"{how}: `blyan keys create --role analyst` makes one")
        if workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            # uvicorn raises the signal once more when all is over, which would end this before it has tidied up.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: None)
            Server(config).run(sockets=[listener])
    say("ended")


def application() -> FastAPI:
    """The application of a worker, as uvicorn asks for it."""
    from blyan.api.app import create
    from blyan.api.connections import PatientProtocol
    from blyan.api.telemetry import log_to_stderr

    log_to_stderr()
    settings = load_settings()
    PatientProtocol.patience_s = settings.serve_patience_s
    made = create(settings)
    PatientProtocol.let_go = made.state.service.metrics.broken.labels("patience").inc
    return made


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingError(f"{host}:{port} cannot be listened at: {error.strerror}", where="--port", remedy="choose another port, or 0") from error


def _scheme(settings: Settings) -> str:
    """`https` where the files of TLS are given and can be used."""
    certificate, key = settings.serve_tls_certificate, settings.serve_tls_key
    if certificate is None and key is None:
        return "http"
    if certificate is None or key is None:
        raise SettingError("one of the two is not set", where="BLYAN_SERVE_TLS_CERTIFICATE, BLYAN_SERVE_TLS_KEY", remedy="set both, or neither")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(Path(certificate), Path(key))
    except (OSError, ssl.SSLError) as error:
        where = "BLYAN_SERVE_TLS_CERTIFICATE, BLYAN_SERVE_TLS_KEY"
        raise SettingError(f"they cannot be used: {error.strerror}", where=where, remedy="give PEM files of a certificate and its key") from error
    return "https"
