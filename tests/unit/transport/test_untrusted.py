"""Addresses that strangers supply: which are called, which are refused, and what an answer may be like.

Should happen: a public address is called, at the IP address that was checked; a good answer comes back.
Should not happen: a call to this machine, a private network or a link-local address, in whatever form it is written and
whatever a name resolves to a moment later; a redirect that is followed; an answer without end.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pygrid.errors import InvalidInput, PayloadTooLarge, PygridError, TooSlow, Unavailable
from pygrid.transport import untrusted
from pygrid.transport.untrusted import check_untrusted_address, fetch_untrusted, find_fault

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700::1111",
    "2a00:1450:4001::",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]
PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "fd00::1",
    "fc00::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
]
HERE = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
NEVER = [
    "0.0.0.0",
    "::",
    "169.254.169.254",
    "fe80::1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "fec0::1",
    "224.0.0.1",
    "239.255.255.255",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
    "::127.0.0.1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "2001:0:7f00:1::",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_called(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert find_fault(address, allow_private=False) is None
    assert find_fault(address, allow_private=True) is None


@pytest.mark.parametrize("text", PRIVATE + HERE)
def test_private_addresses_are_called_only_where_that_is_allowed(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert find_fault(address, allow_private=False)
    assert find_fault(address, allow_private=True) is None


@pytest.mark.parametrize("text", NEVER)
def test_some_addresses_are_never_called(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert find_fault(address, allow_private=False)
    if text not in ("2002:7f00:1::", "2001:0:7f00:1::", "::127.0.0.1"):
        assert find_fault(address, allow_private=True)


SPELLINGS = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://0/",
    "http://10.1.1.1/",
    "http://192.168.0.1:8080/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fe80::1%25lo]/",
    "http://[fd00::1]/",
    "https://172.20.0.1/",
]


@pytest.mark.parametrize("url", SPELLINGS)
async def test_every_spelling_of_an_inner_address_is_refused(url: str) -> None:
    for call in (fetch_untrusted(url), check_untrusted_address(url)):
        with pytest.raises(PygridError) as refused:
            await call
        # A spelling that the resolver does not take for an address is no way in either.
        assert refused.value.code in ("address_refused", "stranger_unreachable")
    assert refused.value.code == "address_refused" or url in ("http://LOCALHOST./", "http://[fe80::1%25lo]/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "8.8.8.8",
        "ftp://8.8.8.8/",
        "file:///etc/passwd",
        "gopher://8.8.8.8/",
        "unix:///run/docker.sock",
        "//8.8.8.8/",
        "http://",
        "http:///path",
        "http://user@8.8.8.8/",
        "http://:pw@8.8.8.8/",
        "http://8.8.8.8/#f",
        "http://8.8.8.8:0/",
        "http://8.8.8.8:99999/",
        "http://8.8.8.8:x/",
        "http://8.8.8.8/a b",
        "http://8.8.8.8/\r\nHost: x",
        "http://8.8.8.8\\@127.0.0.1/",
        "http://ex\0ample/",
        "http://exämple/",
        "http://[::1",
        "http://" + "a" * 300,
        "http://" + "a" * 80 + ".example/",
    ],
)
async def test_what_is_no_plain_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await fetch_untrusted(url, allow_private=True)
    assert refused.value.code == "address_refused"


@asynccontextmanager
async def server(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """Something on loopback that answers in any way."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        listening.close()


def say(text: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()

    return answer


async def test_a_good_answer_comes_back() -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()

    async with server(answer) as port:
        found = await fetch_untrusted(f"http://127.0.0.1:{port}/identity?nonce=a", allow_private=True)
    assert (found.status, found.body) == (200, b"hi")
    assert heard[0].startswith(b"GET /identity?nonce=a HTTP/1.1\r\n")
    assert b"authorization" not in heard[0].lower()


async def test_a_question_may_have_a_body() -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(9))
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with server(answer) as port:
        found = await fetch_untrusted(f"http://127.0.0.1:{port}/search", json={"a": [1]}, allow_private=True)
    assert (found.status, found.body) == (404, b"")
    assert heard[0].startswith(b"POST /search ")
    assert heard[0].endswith(b'{"a":[1]}')


async def test_a_redirect_is_not_followed() -> None:
    hits: list[int] = []

    async def inner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hits.append(1)

    async with server(inner) as target:
        moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % target
        async with server(say(moved)) as port:
            with pytest.raises(Unavailable, match="redirect"):
                await fetch_untrusted(f"http://127.0.0.1:{port}/", allow_private=True)
    assert hits == []


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"]
)
async def test_a_long_answer_is_cut_off(head: bytes) -> None:
    async with server(say(head + b"x" * 100_000)) as port:
        with pytest.raises(PayloadTooLarge) as refused:
            await fetch_untrusted(f"http://127.0.0.1:{port}/", allow_private=True)
    assert refused.value.code == "stranger_too_large"


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer that never ends, a byte at a time."""
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)  # a server that is slow


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("slow", [drip, silence])
async def test_a_slow_answer_is_given_up(slow: Any) -> None:
    async with server(slow) as port:
        with pytest.raises(TooSlow) as refused:
            await fetch_untrusted(f"http://127.0.0.1:{port}/", allow_private=True, timeout_s=0.3)
    assert refused.value.code == "stranger_too_slow"


@pytest.mark.parametrize(
    "text", [b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", b"\x00" * 100]
)
async def test_what_speaks_no_http_is_told(text: bytes) -> None:
    async with server(say(text)) as port:
        with pytest.raises(Unavailable) as refused:
            await fetch_untrusted(f"http://127.0.0.1:{port}/", allow_private=True)
    assert refused.value.code == "stranger_unreachable"


async def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unavailable) as refused:
        await fetch_untrusted(f"http://127.0.0.1:{port}/", allow_private=True)
    assert refused.value.code == "stranger_unreachable"


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with server(say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as port:
        assert (await fetch_untrusted(f"http://127.0.0.1:{port}/", allow_private=True)).status == 200


async def test_a_name_that_resolves_anew_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer of the resolver is public, every later one is this machine: the call goes to the first."""
    loop = asyncio.get_running_loop()
    asked: list[Any] = []
    dialled: list[str] = []

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = "93.184.216.34" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def connect_tcp(_self: Any, host: str, *_args: Any) -> Any:
        dialled.append(host)
        raise OSError("not in a test")

    monkeypatch.setattr(loop, "getaddrinfo", resolve, raising=False)
    monkeypatch.setattr("httpcore.AnyIOBackend.connect_tcp", connect_tcp)
    with pytest.raises(Unavailable):
        await fetch_untrusted("http://rebinding.example/")
    assert (asked, dialled) == (["rebinding.example"], ["93.184.216.34"])


async def test_a_name_with_one_inner_address_among_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        found = ["93.184.216.34", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    with pytest.raises(InvalidInput, match=r"127\.0\.0\.1"):
        await fetch_untrusted("http://mixed.example/")


async def test_checking_sends_nothing_and_drops_the_slash() -> None:
    assert await check_untrusted_address("http://127.0.0.1:1/", allow_private=True) == "http://127.0.0.1:1"
    assert untrusted.MAX_BYTES == 64 * 1024
