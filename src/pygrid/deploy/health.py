"""The health check of an image.

    python -m pygrid.deploy.health domain

The command asks the Domain of this container whether it is ready. It exits with 0, or with 1 and the reason. It imports
only the standard library, so it is fast.
"""

from __future__ import annotations

import http.client
import os
import sys

from pygrid.deploy.apps import HEALTH_PATH, LISTENING, App

TIMEOUT_S = 5.0
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def find_trouble(host: str, port: int, timeout_s: float = TIMEOUT_S) -> str | None:
    """The reason why the app at this address is not ready; None if it is ready."""
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
    """Check the app of this container; exit with the reason if it is not ready."""
    listening = LISTENING[app]
    sys.exit(find_trouble(os.environ.get(listening.host_variable, ""), listening.port(os.environ)))


if __name__ == "__main__":
    main("network" if sys.argv[1:] == ["network"] else "domain")
