"""What a Domain tells a Network of its datasets, models and processes.

Should happen: public things are found by words, tags, columns, ids and kinds; each public change changes the version.
Should not happen: a word of what is private or listed shows anywhere; an answer that is larger than a frame; a query
that is a program.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar

from pygrid.core.discovery import MAX_ANSWER_BYTES, check_foreign
from pygrid.domain import build_domain
from pygrid.errors import InvalidInput
from pygrid.features.catalog.service import CatalogService
from pygrid.messages.discovery import CatalogAnswer, CatalogSummary, SearchQuery
from pygrid.settings import load_settings
from pygrid.web.services import service
from support.discovery import CSV, Holder
from support.web import running


@pytest.fixture
async def holder(web: httpx.AsyncClient) -> Holder:
    return await Holder.first(web)


@pytest.fixture
def catalog(domain: Litestar) -> CatalogService:
    return service(domain.state, CatalogService)


async def ask(catalog: CatalogService, **query: Any) -> CatalogAnswer:
    """The answer as a Network reads it: through the handler, and checked."""
    payload = await catalog.handlers()["search"](query)
    answer = msgspec.convert(payload, CatalogAnswer)
    check_foreign(answer)
    return answer


async def names(catalog: CatalogService, **query: Any) -> list[str]:
    answer = await ask(catalog, **query)
    return [
        *(one.name for one in answer.datasets),
        *(one.id for one in answer.models),
        *(one.name for one in answer.processes),
    ]


async def test_datasets_are_found_by_what_is_said_of_them(holder: Holder, catalog: CatalogService) -> None:
    age = {"name": "age", "dtype": "int32", "unit": "years", "meaning": "age at diagnosis"}
    await holder.upload("Patients", tags=["Oncology", "EU"], description="Of two hospitals", columns=[age])
    await holder.upload("other", data=b"income\n1\n2\n", tags=["eu"])
    for query in (
        {"text": "patients"},
        {"text": "HOSPITAL two"},
        {"text": "diagnosis"},
        {"tags": ["oncology"]},
        {"tags": ["ONCOLOGY", "eu"]},
        {"column": "AGE"},
        {"column": "age", "dtype": "int32", "meaning": "Diagnosis"},
        {"text": "onco", "column": "age", "kinds": ["dataset"]},
    ):
        assert await names(catalog, **query) == ["Patients"], query
    for query in (
        {"text": "patients income"},
        {"tags": ["oncology", "us"]},
        {"column": "ag"},
        {"column": "age", "dtype": "text"},
    ):
        assert await names(catalog, **query) == [], query
    assert await names(catalog) == ["other", "Patients"]
    found = (await ask(catalog, text="patients")).datasets[0]
    assert (found.num_records, found.num_columns, found.version, found.tags) == (3, 2, 1, ["Oncology", "EU"])
    assert [(column.name, column.dtype, column.unit) for column in found.columns] == [
        ("name", "text", ""),
        ("age", "int32", "years"),
    ]


async def test_models_and_processes_are_found(holder: Holder, catalog: CatalogService) -> None:
    await holder.serve("digits", description="Scores of ten digits")
    await holder.serve("digits-2")
    await holder.host("digits", "1.0")
    model = (await ask(catalog, model="digits")).models
    assert [one.id for one in model] == ["digits"]
    assert (model[0].allow_remote_inference, model[0].allow_download, len(model[0].sha256)) == (True, False, 64)
    assert await names(catalog, text="digits") == ["digits", "digits-2", "digits"]
    assert await names(catalog, text="ten scores") == ["digits"]
    assert await names(catalog, text="digits", kinds=["process"]) == ["digits"]
    assert (await ask(catalog, kinds=["process"])).processes[0].state == "active"


async def test_only_what_is_public_shows(holder: Holder, catalog: CatalogService) -> None:
    said = {
        "description": "secretword1",
        "tags": ["secretword2"],
        "columns": [{"name": "age", "meaning": "secretword3"}],
    }
    for visibility in ("private", "listed"):
        await holder.upload(f"secretword4-{visibility}", visibility=visibility, **said)
    await holder.serve("secretword5", description="secretword6", visibility="listed")
    await holder.host("secretword7", visibility="listed")
    await holder.host("secretword8", authentication={"secret": "s" * 32})
    everything = [msgspec.json.encode(await ask(catalog)), msgspec.json.encode(await catalog.summary())]
    for number in range(1, 9):
        word = f"secretword{number}"
        for query in (
            {"text": word},
            {"text": word[:4]},
            {"tags": [word]},
            {"meaning": word},
            {"model": word},
            {"column": word},
        ):
            assert await names(catalog, **query) == [], query
    assert await names(catalog, column="age") == []
    assert not [text for text in everything if b"secretword" in text]
    await holder.host("known", authentication={"secret": "s" * 32}, visibility="public")
    assert await names(catalog) == ["known"]


async def test_it_is_so_on_either_database(database_url: str, tmp_path: Path) -> None:
    app = build_domain(load_settings({}, data_dir=tmp_path / "data", database_url=database_url))
    async with running(app) as web:
        holder, catalog = await Holder.first(web), service(app.state, CatalogService)
        await holder.upload("Straße 100%", tags=["Ünï"], description="under_score")
        await holder.upload("secret", visibility="listed", tags=["Ünï"])
        await holder.host("process")
        for query in ({"text": "STRASSE"}, {"text": "100%"}, {"text": "r_s"}, {"tags": ["üNÏ"]}, {"column": "age"}):
            assert await names(catalog, **query) == ["Straße 100%"], query
        for text in ("1%0", "r%s", "under.score", "secret"):
            assert await names(catalog, text=text) == [], text
        assert await names(catalog, kinds=["process"]) == ["process"]
        assert list((await catalog.summary()).tags) == ["Ünï"]


WORDS = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=4, max_size=10)
THINGS = st.lists(
    st.tuples(
        st.sampled_from(["private", "listed", "public"]), WORDS, st.lists(WORDS, max_size=3, unique=True), WORDS, WORDS
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda thing: thing[1],
)


@pytest.mark.slow
def test_no_word_of_what_is_not_public_finds_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is uploaded, and whatever it is called."""

    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(things=THINGS)
    def check(things: list[Any]) -> None:
        asyncio.run(_upload_and_search(tmp_path_factory.mktemp("site"), things))

    check()


async def _upload_and_search(folder: Path, things: list[Any]) -> None:
    app = build_domain(load_settings({}, data_dir=folder))
    async with running(app) as web:
        holder, catalog = await Holder.first(web), service(app.state, CatalogService)
        for visibility, name, tags, description, meaning in things:
            column = {"name": "age", "meaning": meaning}
            said = {"tags": tags, "description": description, "columns": [column]}
            await holder.upload(name, visibility=visibility, **said)
        public = {
            name: " ".join((name, *tags, description, meaning))
            for kind, name, tags, description, meaning in things
            if kind == "public"
        }
        for _, name, tags, description, meaning in things:
            for word in (name, *tags, description, meaning):
                expected = sorted(known for known, said in public.items() if word in said)
                assert sorted(await names(catalog, text=word)) == expected
                by_tag = [known for kind, known, theirs, _, _ in things if kind == "public" and word in theirs]
                assert sorted(await names(catalog, tags=[word])) == sorted(by_tag)
        assert sorted(await names(catalog)) == sorted(public)
        assert list((await catalog.summary()).tags) == sorted(
            {tag for kind, _, tags, _, _ in things if kind == "public" for tag in tags}
        )


async def test_what_was_found_in_the_data_is_not_told(holder: Holder, catalog: CatalogService) -> None:
    await holder.upload("people")
    told = msgspec.json.encode(await ask(catalog))
    assert b"people" in told
    for value in (b"ann", b"bob", b"cleo"):
        assert value in CSV
        assert value not in told


async def test_each_public_change_is_a_new_version(holder: Holder, catalog: CatalogService) -> None:
    seen = [catalog.version]

    async def changed(step: Any) -> Any:
        result = await step
        seen.append(catalog.version)
        return result

    dataset = await changed(holder.upload("people"))
    await changed(holder.change(dataset, tags=["x"]))
    await changed(holder.change(dataset, visibility="private"))
    await changed(holder.change(dataset, visibility="public"))
    await changed(holder.delete(f"datasets/{dataset['id']}"))
    await changed(holder.serve("digits"))
    await changed(holder.delete("models/digits"))
    process = await changed(holder.host("digits"))
    assert len(set(seen)) == len(seen) == 9
    private = await holder.upload("mine", visibility="private")
    await holder.change(private, tags=["x"], visibility="listed")
    await holder.delete(f"datasets/{private['id']}")
    await holder.serve("listed", visibility="listed")
    assert catalog.version == seen[-1]
    assert (await ask(catalog)).version == seen[-1]
    assert (await ask(catalog)).processes[0].state == "active"
    await changed(holder.web.post(f"/model-centric/processes/{process['id']}/finish", headers=holder.headers))
    assert seen[-1] != seen[-2]
    assert (await ask(catalog)).processes[0].state == "finished"


async def test_a_description_can_not_spoil_the_answer(holder: Holder, catalog: CatalogService) -> None:
    await holder.upload("people", description="\x1b[31mred\x01\u202e " + "long " * 1000)
    found = (await ask(catalog)).datasets[0]
    assert len(found.description) == 500
    assert "\x1b" not in found.description


async def test_answers_fit_into_a_frame(holder: Holder, catalog: CatalogService) -> None:
    columns = [{"name": f"c{i}", "meaning": "m" * 200, "unit": "u" * 200} for i in range(100)]
    data = (",".join(f"c{i}" for i in range(100)) + "\n" + ",".join(["1"] * 100) + "\n").encode()
    for number in range(15):
        await holder.upload(
            f"wide-{number}", data=data, columns=columns, tags=[f"{number}-{i:02}" + "t" * 40 for i in range(50)]
        )
    answer = await ask(catalog)
    assert answer.more
    assert 0 < len(answer.datasets) < 15
    assert len(msgspec.json.encode(answer)) <= MAX_ANSWER_BYTES
    assert len(answer.datasets[0].columns) == 50
    assert answer.datasets[0].num_columns == 100
    summary = msgspec.convert(await catalog.handlers()["summary"]({}), CatalogSummary)
    check_foreign(summary)
    assert len(summary.tags) == 750
    assert not (await ask(catalog, text="wide-3")).more


async def test_more_than_a_hundred_are_told_to_be_more(holder: Holder, catalog: CatalogService) -> None:
    for number in range(101):
        await holder.host(f"process-{number}")
    answer = await ask(catalog)
    assert (len(answer.processes), answer.more) == (100, True)
    assert not (await ask(catalog, text="process-10")).more


@pytest.mark.parametrize(
    "query",
    [
        {"text": "x" * 1001},
        {"text": "a\0b"},
        {"text": " ".join(map(str, range(21)))},
        {"tags": ["x"] * 21},
        {"tags": [[]]},
        {"kinds": "dataset"},
        {"unknown": 1},
        {"dtype": "object"},
    ],
)
async def test_wrong_queries_are_refused(
    web: httpx.AsyncClient, catalog: CatalogService, query: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await catalog.handlers()["search"](query)
    assert caught.value.code == "invalid_search"


@pytest.mark.parametrize("text", ["(a+)+$", "%", "_", "'; DROP TABLE datasets; --", "\\", "[a-z]", "*"])
async def test_a_strangers_text_is_only_text(holder: Holder, catalog: CatalogService, text: str) -> None:
    await holder.upload("aaaaaaaaaaaaaaaaaaaaaaaaaaaaab")
    assert await names(catalog, text=text) == []
    assert await names(catalog, tags=[text]) == []
    assert await names(catalog) == ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaab"]


async def test_an_answer_is_never_newer_than_its_version_says(holder: Holder, catalog: CatalogService) -> None:
    """Content that is newer than the version does no harm, as the version is about to change; older content
    would stay.
    """
    before = catalog.version
    answer = await catalog.search(SearchQuery())
    assert (answer.version, list(answer.datasets)) == (before, [])
    await holder.upload("people")
    answer = await catalog.search(SearchQuery())
    assert answer.version == catalog.version != before
    assert [one.name for one in answer.datasets] == ["people"]
