"""The published interface of 2020 in one file: everything goes over one WebSocket at ``/``.

    pygrid domain                                                            in one terminal
    python examples/websocket_2020.py ws://127.0.0.1:5000/                   in another

It signs a model owner up, makes a group, hosts a process, and takes part in its training as a device. The first account
of a Domain is its Owner. If the Domain has an Owner, name that account; the script asks for its password:

    python examples/websocket_2020.py ws://127.0.0.1:5000/ owner@example.org
"""

from __future__ import annotations

import base64
import getpass
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

import digits_data
from pygrid.edge import load_data
from pygrid.plans import Plan
from pygrid.plans.runner import Runner
from pygrid.syft.states import write_state
from pygrid.tensors import encode

PASSWORD = "correct horse battery staple"
PLANS = Path(__file__).parent / "plans"


class Published:
    """Sends messages, and returns their answers."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.credentials: dict[str, str] = {}
        """``token`` and ``private-key``, which messages about accounts need."""

    def send(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a message with its fields at the top level."""
        self._socket.send(json.dumps({"type": kind, "request_id": secrets.token_hex(8), **self.credentials, **fields}))
        answer: dict[str, Any] = json.loads(self._socket.recv())
        refused = answer.get("data", answer)
        if "error" in refused:
            raise SystemExit(f"{kind}: {refused['error']}")
        return answer

    def send_data(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a model-centric message, which has its fields in ``data``."""
        answer: dict[str, Any] = self.send(f"model-centric/{kind}", data=fields)["data"]
        return answer


def sign_up(published: Published, url: str) -> dict[str, Any]:
    """Return the first account of the Domain, which is its Owner."""
    email = f"owner-{secrets.token_hex(4)}@example.org"
    user: dict[str, Any] = published.send("signup-user", email=email, password=PASSWORD)["user"]
    key = {"private-key": user["private_key"]}
    token = published.send("login-user", email=email, password=PASSWORD, **key)["token"]
    published.credentials = {"token": token, **key}
    if user["role"]["name"] != "Owner":
        published.send("delete-user", id=user["id"])
        raise SystemExit(
            f"the Domain has an Owner, so a new account cannot host; pass the e-mail of its Owner or an Administrator: "
            f"python examples/websocket_2020.py {url} owner@example.org"
        )
    return user


def log_in(published: Published, email: str, password: str) -> dict[str, Any]:
    """Return an account; later messages of this WebSocket need neither its token nor its private key."""
    published.send("authentication", username=email, password=password)
    (user,) = [one for one in published.send("search-users", email=email)["users"] if one["email"] == email]
    return dict(user)


def main(url: str, email: str = "", password: str = "") -> int:
    """Return the number of digits that the device trained on.

    Args:
        email: account of the model owner; empty: the script makes the first account of the Domain.
    """
    plan, weights = Plan.load(PLANS / "digits.plan"), load_data(PLANS / "digits.safetensors")
    name, version = "digits-2020", secrets.token_hex(4)
    with connect(url, max_size=None) as socket:
        published = Published(socket)

        # 1. The model owner.
        user = log_in(published, email, password) if email else sign_up(published, url)
        group = published.send("create-group", name=f"students-{version}")["group"]
        published.send("put-groups", id=user["id"], groups=[group["id"]])
        print(f"{user['email']} is {user['role']['name']}, in the group {group['name']}")

        # 2. Host a process: files are hexadecimal text.
        published.send_data(
            "host-training",
            model=encode(weights).hex(),
            plans={"training_plan": plan.data.hex()},
            protocols={},
            averaging_plan="",
            client_config={"name": name, "version": version, "epochs": 1, "batch_size": 8, "lr": 0.3},
            server_config={"num_cycles": 1, "cycle_length": 60, "max_diffs": 1},
        )

        # 3. The device: its data stays here. `wait_s` marks a client that runs plans of pygrid.
        published.credentials = {}
        device = published.send_data("authenticate", model_name=name, model_version=version)["worker_id"]
        cycle = published.send_data("cycle-request", worker_id=device, model=name, version=version, wait_s=0)
        images = digits_data.load()
        settings = cycle["client_config"]
        trained = Runner(plan).train(
            weights, {"x": images.x, "y": images.y}, batch_size=settings["batch_size"], hyper={"lr": settings["lr"]}
        )
        # A report is a State: the arrays in the order of the plan's parameters.
        inputs = [port.name for port in plan.manifest.graphs["train"].inputs]
        names = [name.removeprefix("params/") for name in inputs if name.startswith("params/")]
        diff = write_state([np.subtract(weights[name], trained.params[name]) for name in names])
        text = base64.b64encode(diff).decode()
        published.send_data("report", worker_id=device, request_key=cycle["request_key"], diff=text)
        print(f"the device trained on {trained.num_examples} digits and reported")
        return trained.num_examples


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], sys.argv[2], getpass.getpass(f"Password of {sys.argv[2]}: "))
    else:
        main(*sys.argv[1:] or ["ws://127.0.0.1:5000/"])
