"""Texts as tokens: the tokenizers, columns of tokens, and the plans that take them.

Should happen: a text has the same tokens at the Domain, for an author and on a device; a plan names its tokenizer, and
gets the tokens of no other.
Should not happen: texts are stored; a vocabulary changes unnoticed between plan and data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pygrid
from pygrid.client.binding import complete_binding
from pygrid.core.job_checks import check_binding
from pygrid.core.mocks import draw_mock
from pygrid.errors import AuthoringError, InvalidConfig, InvalidInput, InvalidPlan
from pygrid.messages.datasets import Column, Schema
from pygrid.messages.jobs import JobRequest
from pygrid.plans import DataPort
from pygrid.plans.ports import check_manifest
from pygrid.plans.tokenizers import Tokenizer
from support.plans.handmade import logistic_plan
from support.sdk import owner_of, running_domain
from support.tables import store

WORDS = ("the", "dog", "barks", "!", "ä1_")
NAME = "words:" + hashlib.sha256("the\ndog\nbarks\n!\nä1_".encode()).hexdigest()
TEXTS = ["The dog barks!", "a cat", "", "Ä1_ the-the NA"]


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.integers(1, 20))
def test_bytes_are_those_of_the_text(text: str, length: int) -> None:
    (tokens,) = pygrid.tokenize([text], length)
    data = text.encode()[:length]
    assert tokens.tolist() == [*data, *[0] * (length - len(data))]
    assert tokens.dtype == np.int64


def test_words_are_numbers_of_the_vocabulary(tmp_path: Path) -> None:
    wanted = [[2, 3, 4, 5, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [6, 2, 1, 2, 1]]
    assert pygrid.tokenize(TEXTS, 5, WORDS).tolist() == wanted
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    assert pygrid.tokenize(TEXTS, 5, tmp_path / "words.txt").tolist() == wanted
    assert (Tokenizer(WORDS).name, Tokenizer(WORDS).num_tokens) == (NAME, 7)
    for text in TEXTS:  # one at a time, as a device has them
        assert pygrid.tokenize([text], 5, WORDS).tolist() == [wanted[TEXTS.index(text)]]


@pytest.mark.parametrize("words", [(), ("a", "a"), ("A",), ("two words",), ("",), ("x" * 101,), ("a-b",)])
def test_vocabularies_that_are_not_valid(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        Tokenizer(words)


def csv_of(texts: list[str]) -> bytes:
    return ("text,y\n" + "".join(f'"{text}",{number % 2}\n' for number, text in enumerate(texts))).encode()


def test_columns_of_tokens() -> None:
    schema, records = store(csv_of(TEXTS), {"text": "text,tokens=bytes:6"})
    assert schema.columns[0] == Column("text", "uint8", (6,), min=0.0, max=255.0, tokenizer="bytes")
    assert records["text"] == pygrid.tokenize(TEXTS, 6).tolist()
    declared = {"dtype": "text", "tokens": {"length": 5, "words": WORDS}}
    schema, records = store(csv_of(TEXTS), {"text": declared})
    assert schema.columns[0] == Column("text", "int32", (5,), min=0.0, max=6.0, tokenizer=NAME)
    assert records["text"] == pygrid.tokenize(TEXTS, 5, WORDS).tolist()
    assert "dog" not in str(schema)


def test_there_can_be_any_number_of_texts() -> None:
    texts = [f"text number {number}" for number in range(20_000)]
    schema, records = store(csv_of(texts), {"text": "text,tokens=bytes:24"})
    assert records["text"][-1] == pygrid.tokenize(texts[-1:], 24)[0].tolist()
    assert schema.num_records == 20_000
    with pytest.raises(InvalidInput, match="line 3"):  # a fault of another column is named
        store(csv_of(TEXTS).replace(b",1", b",x", 1), {"text": "text,tokens=bytes:6", "y": "int32"})


@pytest.mark.parametrize(
    "said",
    ["float32,tokens=bytes:4", "text,tokens=bytes:0", "text,tokens=bytes:9000", "text,tokens=bytes:4,min=0",
     "category,categories=a|b,tokens=bytes:4"],
)  # fmt: skip
def test_declarations_that_are_not_valid(said: str) -> None:
    from pygrid.core.datasets import check_version_request
    from pygrid.messages.column_text import read_column
    from pygrid.messages.datasets import VersionRequest

    request = msgspec.convert({"columns": [read_column("text", said)]}, VersionRequest)
    with pytest.raises(InvalidConfig, match=r"tokens|texts"):
        check_version_request(request)


def test_plans_name_their_tokenizer() -> None:
    port = pygrid.Text(64).port()
    assert (port.dtype, port.shape, port.num_classes, port.tokenizer) == ("int64", (64,), 256, "bytes")
    port = pygrid.Text(64, WORDS).port()
    assert (port.num_classes, port.tokenizer) == (7, NAME)
    assert msgspec.json.decode(msgspec.json.encode(port), type=DataPort) == port
    with pytest.raises(AuthoringError):
        pygrid.Text(64, "no/such/file")
    with pytest.raises(AuthoringError):
        pygrid.Text(0)
    manifest = logistic_plan().manifest
    for wrong in (
        DataPort("int64", (4,), num_classes=256, tokenizer="gpt"),
        DataPort("int64", (), num_classes=256, tokenizer="bytes"),
        DataPort("int64", (4,), tokenizer="bytes"),
    ):
        with pytest.raises(InvalidPlan, match="token"):
            check_manifest(msgspec.structs.replace(manifest, data={"x": wrong}))


def test_a_plan_gets_tokens_of_its_own_tokenizer_only() -> None:
    schema = Schema(
        (
            Column("bytes", "uint8", (5,), min=0, max=255, tokenizer="bytes"),
            Column("words", "int32", (5,), min=0, max=6, tokenizer=NAME),
            Column("plain", "int32", (5,), min=0, max=6),
        ),
        9,
    )
    for spec, column in ((pygrid.Text(5), "bytes"), (pygrid.Text(5, WORDS), "words")):
        ports = {"x": spec.port()}
        assert complete_binding(ports, schema, {}) == {"x": column}
        for other in ("bytes", "words", "plain"):
            request = JobRequest(dataset=1, kind="train", reason="r", binding={"x": other})
            if other == column:
                check_binding(request, ports, schema)
                continue
            with pytest.raises(InvalidInput, match="takes tokens of") as refused:
                check_binding(request, ports, schema)
            assert refused.value.code == "invalid_binding"
    _, arrays = draw_mock(schema, 20, 0)
    assert arrays["words"].max() <= 6


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running_domain(tmp_path_factory.mktemp("domain")) as transport:
        yield owner_of(transport)


def test_from_a_file_of_words_to_a_version(domain: Any, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (tmp_path / "texts.csv").write_bytes(csv_of(TEXTS))
    columns = {"text": f"text,tokens={tmp_path / 'words.txt'}:5"}
    dataset = domain.datasets.upload("texts", tmp_path / "texts.csv", mock=tmp_path / "texts.csv", columns=columns)
    assert dataset.preview().columns["text"] == pygrid.tokenize(TEXTS, 5, WORDS).tolist()
    assert dataset.mock()["text"].tolist() == pygrid.tokenize(TEXTS, 5, WORDS).tolist()
    with pytest.raises(InvalidConfig, match="declare the column again"):
        dataset.new_version(tmp_path / "texts.csv")
    assert dataset.new_version(tmp_path / "texts.csv", columns=columns).version == 2
    with pytest.raises(InvalidInput, match="cannot be read"):
        domain.datasets.dry_run(tmp_path / "texts.csv", columns={"text": "text,tokens=nowhere.txt:5"})
    of_bytes = domain.datasets.upload("bytes", tmp_path / "texts.csv", columns={"text": "text,tokens=bytes:8"})
    info = of_bytes.new_version(tmp_path / "texts.csv")
    assert (info.version, info.schema.columns[0].tokenizer) == (2, "bytes")
