"""Reports that are refused by their key, on real sockets.

Should happen: a device that first sends all and then reads gets the refusal, and can go on with the connection.
Should not happen: the server closes while the device still sends, so the device sees a broken connection.
"""

from __future__ import annotations

import asyncio
import json
import socket

from support.large_reports import NUM_VALUES, Round, diff, started  # noqa: F401 - fixture


def _send_and_read(port: int, reports: list[tuple[str, bytes]]) -> list[bytes]:
    """The answers to reports over one connection, each of which is sent before its answer is read.

    Args:
        reports: a header and the body of each.
    """
    answers = []
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)  # else the kernel takes all of it
        client.settimeout(60)
        client.connect(("127.0.0.1", port))
        for header, body in reports:
            fields = f"Host: localhost\r\nContent-Length: {len(body)}\r\n{header}\r\n"
            client.sendall(f"POST /model-centric/report HTTP/1.1\r\n{fields}\r\n".encode() + body)
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                piece = client.recv(65_536)
                assert piece, answer
                answer += piece
            answers.append(answer)
    return answers


async def test_a_device_that_is_late_gets_its_answer(started: Round) -> None:  # noqa: F811
    keys = await started.device()
    (process,) = (await started.web.get("/model-centric/processes", headers=started.owner)).json()["processes"]
    finish = f"/model-centric/processes/{process['id']}/finish"
    assert (await started.web.post(finish, headers=started.owner)).is_success
    native = f"Authorization: Bearer {keys['request_key']}", bytes(4 * NUM_VALUES)
    published = "Accept: */*", json.dumps({**keys, "diff": diff(num_values=NUM_VALUES)}).encode()
    answers = await asyncio.to_thread(_send_and_read, started.port, [native, published, native])
    assert [answer.startswith(b"HTTP/1.1 410 Gone") for answer in answers] == [True, False, True]
    assert b"error" in answers[1]  # devices of 2020 get it with status 200
