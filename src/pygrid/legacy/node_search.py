"""Queries a node of 2020 by its own routes. A Network knows only its address.

These routes return tags and ids of models. So data found there has no name, and a model only its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from pygrid import codes
from pygrid.core.discovery import asks_for, mentions
from pygrid.errors import InvalidInput, Unavailable
from pygrid.features.discovery.registry import DomainRegistry, SearchTarget
from pygrid.messages.decoding import decode_json
from pygrid.messages.discovery import MAX_NAMES, CatalogAnswer, CatalogSummary, FoundDataset, FoundModel, SearchQuery
from pygrid.transport.untrusted import fetch_untrusted

MODELS_PATH = "/data-centric/models/"
TAGS_PATH = "/data-centric/dataset-tags"


class _Models(msgspec.Struct):
    models: list[str]


class LegacyNode:
    """A `SearchTarget` that is a node of 2020.

    Args:
        member: the Network's record of the node, with an address.
        allow_private: whether the address may be in a private network or on this machine.
    """

    catalog = ""
    """Empty: the node reports no versions, so its answers are not cached."""
    identity = ""

    def __init__(self, member: SearchTarget, *, allow_private: bool) -> None:
        self._member = member
        self._allow_private = allow_private

    @property
    def name(self) -> str:
        return self._member.name

    @property
    def state(self) -> str:
        return self._member.state

    @property
    def address(self) -> str:
        return self._member.address

    async def request(self, type: str, payload: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Return the answer in the form of a Domain's.

        Raises:
            Unavailable: ``connection_failed``. TooSlow: the node did not answer in time.
            InvalidInput: this Network must not call the address, or the answer is not that of a node.
        """
        query = msgspec.convert(payload, SearchQuery) if type == "search" else SearchQuery()
        wants_models, wants_data = asks_for(query, "model"), asks_for(query, "dataset")
        models, tags = await _together(
            self._fetch(MODELS_PATH, _Models, timeout_s) if wants_models else _none(_Models([])),
            self._fetch(TAGS_PATH, list[str], timeout_s) if wants_data else _none([]),
        )
        answer: CatalogSummary | CatalogAnswer
        if type == "summary":
            answer = CatalogSummary("", tuple(tags[:MAX_NAMES]), tuple(models.models[:MAX_NAMES]))
        else:
            answer = CatalogAnswer("", _find_data(query, tags), _find_models(query, models.models))
        fields: dict[str, Any] = msgspec.to_builtins(answer)
        return fields

    async def _fetch(self, path: str, kind: Any, timeout_s: float) -> Any:
        try:
            answer = await fetch_untrusted(self.address + path, allow_private=self._allow_private, timeout_s=timeout_s)
        except Unavailable as error:
            raise Unavailable(error.detail, code=codes.CONNECTION_FAILED) from error
        try:
            if answer.status == 200:
                return msgspec.convert(decode_json(answer.body), kind)
        except (InvalidInput, msgspec.ValidationError) as error:
            raise _no_node(self.name, str(error)) from error
        raise _no_node(self.name, f"status {answer.status}")


class WithLegacy:
    """A `DomainRegistry` in which members without a key are queried as nodes of 2020."""

    def __init__(self, domains: DomainRegistry, *, allow_private: bool) -> None:
        self._domains = domains
        self._allow_private = allow_private

    def members(self) -> Sequence[SearchTarget]:
        return [
            member if member.identity else LegacyNode(member, allow_private=self._allow_private)
            for member in self._domains.members()
        ]


async def _together(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Return the results of the calls; if one fails, the others are cancelled."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _none(value: Any) -> Any:
    return value


def _find_data(query: SearchQuery, tags: list[str]) -> tuple[FoundDataset, ...]:
    """Return one entry for all data of the node, if its tags match."""
    asks_for_columns = bool(query.column or query.dtype or query.meaning)
    known = {tag.casefold() for tag in tags}
    if not tags or asks_for_columns or not set(query.tags) <= known or not mentions(tags, query.text.split()):
        return ()
    wanted = (*query.tags, *query.text.split())
    shown = sorted(
        (tag for tag in tags if len(tag) <= 50), key=lambda tag: not any(word in tag.casefold() for word in wanted)
    )
    return (
        FoundDataset(
            id=0,
            name="",
            description="a node of 2020 has data with these tags",
            tags=tuple(shown[:50]),
            version=0,
            num_records=0,
            num_columns=0,
            columns=(),
            updated_at=None,
        ),
    )


def _find_models(query: SearchQuery, model_ids: list[str]) -> tuple[FoundModel, ...]:
    words = query.text.split()
    return tuple(
        FoundModel(
            id=model_id,
            description="",
            inputs=(),
            outputs=(),
            allow_download=False,
            allow_remote_inference=False,
            num_parameters=0,
            size_bytes=0,
            sha256="",
        )
        for model_id in model_ids[:MAX_NAMES]
        if (not query.model or model_id == query.model) and mentions((model_id,), words)
    )[:100]


def _no_node(name: str, why: str) -> InvalidInput:
    return InvalidInput(f"{name} does not answer as a node of 2020: {why}", code=codes.INVALID_ANSWER)
