"""The speed of the connection to a Domain."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from pygrid.transport import Api, Request, Response
from pygrid.transport.base import BytesBody

_NUM_PINGS = 4
_DOWNLOAD_BYTES = 16 * 1024 * 1024
_UPLOAD_BYTES = (128 * 1024, 4 * 1024 * 1024)
_MAX_SECONDS = 3.0
_PATH = "/model-centric/speed-test"


@dataclass(frozen=True)
class Speed:
    """Round trip in milliseconds; speeds in Mbit/s (10^6 bit)."""

    ping: float
    download: float
    upload: float


def measure_speed(api: Api, client_id: str) -> Speed:
    """Measure the connection to the Domain: about 20 MB of traffic, and a few seconds except on very slow lines."""
    query = {"worker_id": client_id, "random": secrets.token_hex(8)}
    return Speed(_ping_ms(api, query), _download(api, query), _upload(api, query))


def _ping_ms(api: Api, query: dict[str, str]) -> float:
    fastest = float("inf")
    for _ in range(_NUM_PINGS):  # the first one opens the connection
        begin = time.perf_counter()
        api.get(_PATH, dict, query={**query, "is_ping": "1"})
        fastest = min(fastest, time.perf_counter() - begin)
    return fastest * 1000


def _download(api: Api, query: dict[str, str]) -> float:
    def read(response: Response) -> float:
        begin = time.perf_counter()
        num_bytes = 0
        for chunk in response.chunks():
            num_bytes += len(chunk)
            if time.perf_counter() - begin > _MAX_SECONDS:
                break
        return _mbit_per_s(num_bytes, time.perf_counter() - begin)

    return api.exchange(Request("GET", _PATH, {**query, "size_bytes": str(_DOWNLOAD_BYTES)}), read)


def _upload(api: Api, query: dict[str, str]) -> float:
    speed = 0.0
    for num_bytes in _UPLOAD_BYTES:  # the small upload shows whether the large one is too slow
        if speed and num_bytes * 8e-6 / speed > _MAX_SECONDS:
            break
        body = BytesBody(secrets.token_bytes(num_bytes))  # random, so that nothing compresses it on the way
        request = Request("POST", _PATH, query, {"Content-Type": "application/octet-stream"}, body)
        begin = time.perf_counter()
        api.exchange(request, lambda response: response.read(1024), idempotent=True)
        speed = _mbit_per_s(num_bytes, time.perf_counter() - begin)
    return speed


def _mbit_per_s(num_bytes: int, seconds: float) -> float:
    return num_bytes * 8e-6 / max(seconds, 1e-6)
