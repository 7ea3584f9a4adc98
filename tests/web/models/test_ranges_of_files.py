"""Downloads of a part of a file, so that a broken download can be continued.

Should happen: one range answers 206 with exactly its bytes, for a file in memory and for one that is streamed. Should
not happen: parts of two different files are put together.
"""

from __future__ import annotations

import pytest
from test_models import Someone, owner  # noqa: F401 - a fixture

from pygrid.web import blobs
from support.plans.models import linear
from support.web import assert_problem

DOWNLOAD = "/data-centric/models/scores/download"


@pytest.fixture(params=["in memory", "streamed"])
async def served(owner: Someone, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Someone:  # noqa: F811
    if request.param == "streamed":
        monkeypatch.setattr(blobs, "SMALL_BYTES", 0)
        monkeypatch.setattr(blobs, "CHUNK_BYTES", 7)
    assert (await owner.serve(linear())).status_code == 200
    return owner


async def _get(who: Someone, **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await who.web.get(DOWNLOAD, headers={**who.headers, **named})


async def test_a_download_is_continued(served: Someone) -> None:
    data = linear()
    whole = await _get(served)
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, data, "bytes")
    rest = await _get(served, Range="bytes=20-", If_Range=whole.headers["etag"])
    assert (rest.status_code, rest.content) == (206, data[20:])
    assert rest.headers["content-range"] == f"bytes 20-{len(data) - 1}/{len(data)}"
    assert (rest.headers["content-length"], rest.headers["etag"]) == (str(len(data) - 20), whole.headers["etag"])
    assert (await _get(served, Range="bytes=3-25")).content == data[3:26]
    assert (await _get(served, Range="bytes=-9")).content == data[-9:]


async def test_a_changed_file_is_sent_whole(served: Someone) -> None:
    for condition in (f'"{"0" * 64}"', "Sun, 01 Nov 2026 10:00:00 GMT", 'W/"weak"'):
        answer = await _get(served, Range="bytes=20-", If_Range=condition)
        assert (answer.status_code, answer.content) == (200, linear())
        assert "content-range" not in answer.headers


async def test_several_ranges_are_not_served(served: Someone) -> None:
    answer = await _get(served, Range="bytes=0-1,4-5")
    assert (answer.status_code, answer.content) == (200, linear())


async def test_a_range_behind_the_end(served: Someone) -> None:
    size = len(linear())
    answer = await _get(served, Range=f"bytes={size}-")
    assert assert_problem(answer, 416, "range_not_satisfiable")["size"] == size
    assert answer.headers["content-range"] == f"bytes */{size}"


async def test_a_client_that_has_the_file_gets_no_range(served: Someone) -> None:
    etag = (await _get(served)).headers["etag"]
    assert (await _get(served, Range="bytes=2-3", If_None_Match=etag)).status_code == 304
