"""Calls to a Network that are sent twice under one ``Idempotency-Key``: each is done once, and no secret is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.network import running_network
from support.web import assert_problem


async def test_each_call_is_done_once(tmp_path: Path) -> None:
    async with running_network(tmp_path) as net:

        async def post(path: str, body: dict[str, Any], key: str = "one") -> Any:
            return await net.web.post(path, json=body, headers={**net.owner, "Idempotency-Key": key})

        node = {"node-id": "bob", "node-address": "http://127.0.0.1:5000"}
        first, again = await post("/join", node), await post("/join", node)
        assert (first.status_code, again.status_code, again.content) == (200, 200, first.content)
        assert (await post("/join", node, "two")).status_code == 409
        first, again = (
            await post("/domains/bob/revoke", {"reason": "x"}),
            await post("/domains/bob/revoke", {"reason": "x"}),
        )
        assert (first.status_code, again.content) == (200, first.content), first.text
        assert_problem(await post("/domains/bob/revoke", {"reason": "y"}), 409, "idempotency_key_reused")
        assert (await post("/invitations", {"max_uses": 1, "expires_in_s": 60})).status_code == 201
        assert_problem(
            await post("/invitations", {"max_uses": 1, "expires_in_s": 60}), 409, "idempotency_answer_not_kept"
        )
        invitations = await net.web.get("/invitations", headers=net.owner)
        assert len(invitations.json()["invitations"]) == 1


async def test_every_route_that_creates_takes_a_key(tmp_path: Path) -> None:
    without = {
        "/users",
        "/users/login",
        "/users/logout",
        "/users/me/private-key",  # it replaces the key, and the answer holds a secret
        # These replace what was made before, or take a code that can be used once; answers hold secrets.
        "/users/invitations",
        "/users/invitations/accept",
        "/users/browser-link",
        "/users/login/code",
        "/users/{user_id}/password-reset",
        "/users/password-reset",
        "/users/me/tokens",
        "/users/search",
        "/network/search",
        "/search",
        "/search-model",
        "/search-encrypted-model",
    }
    async with running_network(tmp_path) as net:
        paths = net.app.openapi_schema.to_schema()["paths"]
    for path, operations in paths.items():
        if "post" in operations:
            names = {parameter["name"] for parameter in operations["post"].get("parameters", [])}
            assert ("Idempotency-Key" in names) is (path not in without), path
