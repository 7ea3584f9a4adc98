"""Whether an app is ready: the health check of an image.

    python -m pygrid.deploy.health domain

asks the Domain of this container, and ends with 0 or with what is wrong. It imports the standard library only, so it is
cheap.
"""

from __future__ import annotations

import http.client
import os
import sys

from pygrid.deploy.apps import HEALTH_PATH, LISTENING, App

TIMEOUT_S = 5.0
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def find_trouble(host: str, port: int, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why the app at this address is not ready, in a few words; None if it is."""
    connection = http.client.HTTPConnection(_EVERY_ADDRESS.get(host, host), port, timeout=timeout_s)
    try:
        connection.request("GET", HEALTH_PATH)
        answer = connection.getresponse()
        body = answer.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port}: {error}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"answers {answer.status}: {body}"


def main(app: App) -> None:
    """Ask the app of this machine that the environment describes; exit with what is wrong, if anything is."""
    listening = LISTENING[app]
    sys.exit(find_trouble(os.environ.get(listening.host_variable, ""), listening.port(os.environ)))


if __name__ == "__main__":
    main("network" if sys.argv[1:] == ["network"] else "domain")
