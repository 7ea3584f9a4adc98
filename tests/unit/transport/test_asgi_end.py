"""The end of a process with an application in it that was not closed.

Should happen: the application ends as with `close`, while its pools of threads still take work.
Should not: a traceback of a task that goes on without them.
"""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, json
from pygrid.transport import AsgiTransport, Request

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print(await asyncio.to_thread(lambda: "ended in a thread"))
        await send({"type": "lifespan.shutdown.complete"})
        return
    await asyncio.to_thread(len, "a thread is ready")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})

left_open = AsgiTransport(app)
with left_open.send(Request("GET", "/")) as answer:
    print(answer.status)
"""


def test_an_application_that_was_not_closed_ends_before_the_threads_that_it_uses() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split("\n"), done.stderr, done.returncode) == (["200", "ended in a thread", ""], "", 0)
