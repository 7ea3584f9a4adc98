"""``pygrid dataset``: upload, find, show and change datasets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli import csv_options
from pygrid.cli import dataset_sources as sources
from pygrid.cli.common import JsonOption, UrlOption, YesOption, confirm, connect
from pygrid.cli.help import App
from pygrid.cli.output import say, say_facts, say_json, say_table
from pygrid.errors import InvalidInput
from pygrid.messages.datasets import DatasetInfo, UploadTrial

if TYPE_CHECKING:
    from pygrid.client import DomainClient
    from pygrid.messages.preparations import Preparation

app = App("Upload, find, show and change datasets.\n\nExample: pygrid dataset list")

Name = Annotated[str, typer.Argument(help="Name of the dataset.")]
File = Annotated[
    Path | None,
    typer.Argument(metavar="PATH", help="CSV, Parquet, Arrow, NPZ or safetensors file, or a folder of images."),
]
Version = Annotated[int | None, typer.Option(metavar="N", help="Number of the version; default: the newest.")]
Tag = Annotated[list[str] | None, typer.Option("--tag", "-t", metavar="TAG", help="Tag; repeatable.")]
Visibility = Annotated[str | None, typer.Option(metavar="WORD", help="Visibility: private, listed or public.")]
Mock = Annotated[
    Path | None, typer.Option(metavar="PATH", help="File with mock records; default: drawn from the schema.")
]
Subject = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column that identifies the subject of a record.")]
PerSubject = Annotated[
    int | None, typer.Option(metavar="N", help="Largest number of records of one subject that are used.")
]
Skip = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Column of the file that is not stored; repeatable.")
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        "-c",
        metavar="COLUMN",
        help="Description of a column: NAME[:TYPE], then ,unit=TEXT ,meaning=TEXT ,min=X ,max=X ,categories=a|b "
        ",source=p1|p* ,format=%d.%m.%Y or ,has_missing=yes. Types: float32, float64, int32, int64, uint8, bool, "
        "text, category, date, datetime; repeatable.",
    ),
]
Note = Annotated[str, typer.Option(metavar="TEXT", help="Changes of this version.")]
FreshBudget = Annotated[
    bool, typer.Option("--fresh-budget", help="Add a version even if another dataset of this content has a budget.")
]

PrepareOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prepare",
        "-p",
        metavar="COLUMN",
        help="Column that the Domain computes: NAME:SOURCE, then ,fill=VALUE ,clip=LOW..HIGH ,standardize "
        ",bucketize=EDGE|EDGE or ,one_hot; repeatable.",
    ),
]

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the schema, and store nothing.")]


@app.command("add")
def add(
    file: File = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the dataset; default: that of the file.")
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="Description for people.")] = "",
    tag: Tag = None,
    visibility: Visibility = None,
    column: ColumnOption = None,
    prepare: PrepareOption = None,
    skip: Skip = None,
    subject: Subject = None,
    max_records_per_subject: PerSubject = None,
    mock: Mock = None,
    version_of: Annotated[str | None, typer.Option(metavar="NAME", help="Dataset that gets a new version.")] = None,
    note: Note = "",
    fresh_budget: FreshBudget = False,
    header: csv_options.Header = None,
    names: csv_options.Names = None,
    index: csv_options.Index = None,
    delimiter: csv_options.Delimiter = None,
    decimal: csv_options.Decimal = None,
    thousands: csv_options.Thousands = None,
    missing: csv_options.Missing = None,
    skip_line: csv_options.SkipLine = None,
    encoding: csv_options.Encoding = None,
    sql: sources.Sql = None,
    query: sources.Query = None,
    image: sources.ImageShape = None,
    fit: sources.FitOption = "exact",
    labels: sources.Labels = None,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
) -> None:
    """Upload a dataset, or a new version of one.

    Example:
        pygrid dataset add patients.csv --column age:float32,min=0,max=120
    """
    words = {"delimiter": delimiter, "decimal": decimal, "thousands": thousands, "encoding": encoding, "index": index}
    given: dict[str, Any] = {
        **csv_options.read(header, names, words, missing, skip_line),
        "columns": [read_column(text) for text in column or []],
        "skip": tuple(skip or ()),
        "subject": subject,
        "max_records_per_subject": max_records_per_subject,
        "note": note,
        "mock": mock,
    }
    if prepare:
        given["prepare"] = read_prepare(prepare)
    if fresh_budget:
        given["fresh_budget"] = _confirmed(version_of)
    source = sources.read_source(file, (sql, query), (image, fit, labels))
    if dry_run:
        _try_upload(source, given, url)
        return
    if version_of is None:
        given |= {"description": description, "tags": tag or (), "visibility": visibility or "private"}
    _add(source, (name or sources.name_of(source, version_of), version_of), given, url)


def _confirmed(version_of: str | None) -> bool:
    if version_of is None:
        raise InvalidInput(
            "--fresh-budget needs --version-of; for a new dataset, use pygrid budget set NAME --fresh-budget"
        )
    return True


def _add(source: sources.Table, names: tuple[str, str | None], given: dict[str, Any], url: str | None) -> None:
    """Upload a table as the dataset, or as a version of the dataset, of these names."""
    with connect(url) as domain:
        send = partial(_send, domain, names, source, **given)
        info = csv_options.send_or_ask(send, source if isinstance(source, Path) else None)
    _say_upload(f"{info.name}, version {info.version}", info)


def _send(domain: DomainClient, names: tuple[str, str | None], source: sources.Table, **given: Any) -> DatasetInfo:
    name, version_of = names
    if version_of is not None:
        return domain.datasets[version_of].new_version(source, **given)
    dataset = domain.datasets.upload(name, source, **given)
    info = dataset.info()
    info.notes = dataset.notes
    return info


def _try_upload(source: sources.Table, given: dict[str, Any], url: str | None) -> None:
    with connect(url) as domain:
        send = partial(domain.datasets.dry_run, source, **given)
        trial = csv_options.send_or_ask(send, source if isinstance(source, Path) else None)
    _say_upload("nothing is stored; an upload would store", trial)


def _say_upload(what: str, info: DatasetInfo | UploadTrial) -> None:
    from pygrid.cli.tables import DatasetColumns
    from pygrid.units import size

    columns = info.schema.columns
    say(f"{what}: {info.schema.num_records:,} records, {len(columns)} columns, {size(info.size_bytes)}")
    say_table(DatasetColumns(columns))
    for note in info.notes:
        say(f"note: {csv_options.as_options(note)}")


@app.command("refresh")
def refresh(
    name: Name, sql: sources.Sql = None, query: sources.Query = None, note: Note = "", url: UrlOption = None
) -> None:
    """Run the query of a dataset again, and add its result as a version.

    Example:
        pygrid dataset refresh visits --sql postgresql://db.example.org/clinic
    """
    with connect(url) as domain:
        info = domain.datasets[name].refresh(sql, None if query is None else sources.query_text(query), note=note)
    _say_upload(f"{info.name}, version {info.version}", info)


@app.command("prepare")
def prepare_columns(
    name: Name,
    prepare: PrepareOption = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Prepared column to leave out; repeatable.")
    ] = None,
    note: Note = "",
    fresh_budget: FreshBudget = False,
    url: UrlOption = None,
) -> None:
    """Add a version with columns that the Domain computes from the others.

    Example:
        pygrid dataset prepare visits --prepare age_std:age,clip=0..120,standardize
    """
    columns = read_prepare(prepare or [])
    with connect(url) as domain:
        dataset = domain.datasets[name]
        info = dataset.prepare(columns, remove=remove or (), note=note, fresh_budget=fresh_budget)
    _say_upload(f"{info.name}, version {info.version}", info)


@app.command("list")
def list_datasets(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the datasets of a Domain that are visible to you, newest first.

    Example: pygrid dataset list
    """
    with connect(url) as domain:
        found = domain.datasets.list()
        empty = f"{domain.url} has no dataset that is visible to you"
    say_json(found) if as_json else say_table(found, empty)


@app.command("search")
def search(
    text: Annotated[str, typer.Argument(help="Words that all occur in its name, description, tags or columns.")] = "",
    tag: Tag = None,
    schema: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column that it has: NAME, NAME:DTYPE or :DTYPE.")
    ] = None,
    meaning: Annotated[str | None, typer.Option(metavar="TEXT", help="Part of the meaning of that column.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find datasets by words, tags and columns.

    Example: pygrid dataset search digits --schema label:int32
    """
    with connect(url) as domain:
        found = domain.datasets.search(text, tags=tag or (), schema=schema, meaning=meaning)
    say_json(found) if as_json else say_table(found, "no dataset matches")


@app.command("show")
def show(name: Name, version: Version = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show a dataset with its columns and versions.

    Example: pygrid dataset show digits
    """
    from pygrid.cli.tables import DatasetColumns, DatasetVersions

    with connect(url) as domain:
        info = domain.datasets[name].info(version)
    if as_json:
        say_json(info)
        return
    facts: list[tuple[str, object]] = [
        ("dataset", f"{info.name}, version {info.version}"),
        ("records", f"{info.num_records:,}"),
        ("visibility", info.visibility),
        ("description", info.description),
        ("tags", ", ".join(info.tags)),
    ]
    if info.schema.subject is not None:
        num = "" if info.schema.num_subjects is None else f"{info.schema.num_subjects:,} subjects, "
        facts.append(
            ("subject", f"{info.schema.subject}, {num}at most {info.schema.max_records_per_subject} records each")
        )
    if info.schema.origin is not None:
        facts += [("database", info.schema.origin.database), ("query", info.schema.origin.query)]
    say_facts((name, value) for name, value in facts if value)
    for table in (DatasetColumns(info.schema.columns), DatasetVersions(info.versions)):
        say()
        say_table(table)


@app.command("update")
def update(
    name: Name,
    new_name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="New name.")] = None,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="New description.")] = None,
    tag: Tag = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Remove all tags.")] = False,
    visibility: Visibility = None,
    url: UrlOption = None,
) -> None:
    """Change the name, description, tags or visibility of a dataset.

    Example: pygrid dataset update digits --visibility public --tag images
    """
    tags = [] if no_tags else tag or None
    with connect(url) as domain:
        changes: dict[str, Any] = {"name": new_name, "description": description, "tags": tags, "visibility": visibility}
        info = domain.datasets[name].update(**changes)
    say(f"{info.name} is {info.visibility}; tags: {', '.join(info.tags) or 'none'}")


@app.command("rename")
def rename(
    name: Name,
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="New name of the dataset.")],
    url: UrlOption = None,
) -> None:
    """Rename a dataset. Jobs and budgets stay with it.

    Example: pygrid dataset rename digits digits-2025
    """
    with connect(url) as domain:
        info = domain.datasets[name].rename(new_name)
    say(f"{name} is named {info.name}")


@app.command("delete")
def delete(name: Name, yes: YesOption = False, url: UrlOption = None) -> None:
    """Delete a dataset with all its versions.

    Example: pygrid dataset delete digits --yes
    """
    with connect(url) as domain:
        dataset = domain.datasets[name]
        info = dataset.info()
        if not yes:
            confirm(f"Delete {info.name} with {len(info.versions)} versions permanently?")
        dataset.delete()
    say(f"{info.name} is deleted")


@app.command("mock")
def mock(
    name: Name,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="PATH", help="File to write: NAME.npz or NAME.csv.")
    ],
    version: Version = None,
    url: UrlOption = None,
) -> None:
    """Download the mock dataset: synthetic records to test a program with.

    Example: pygrid dataset mock digits -o mock.npz
    """
    import numpy as np

    from pygrid.client.table_files import save_csv, save_npz

    if output.suffix not in (".npz", ".csv"):
        raise InvalidInput(f"{output} ends neither in .npz nor in .csv")
    with connect(url) as domain:
        columns = domain.datasets[name].mock(version)
    (save_csv if output.suffix == ".csv" else save_npz)(columns, output)
    say(f"{output}: {len(columns)} columns, {len(next(iter(columns.values()), np.empty(0))):,} mock records")


def read_column(text: str) -> dict[str, Any]:
    """The fields of a column's declaration from ``NAME[:TYPE][,key=value ...]``; see `pygrid.messages.column_text`.

    Raises:
        InvalidInput: names the part that is not valid.
    """
    from pygrid.messages import column_text

    place = min(found for found in (text.find(":"), text.find(","), len(text)) if found >= 0)
    return column_text.read_column(text[:place], text[place:].removeprefix(":"))


def read_prepare(texts: Sequence[str]) -> list[Preparation]:
    """Prepared columns from ``NAME:SOURCE,STEP[,STEP ...]``; see `pygrid.messages.preparation_text`.

    Raises:
        InvalidInput: names the part that is not valid.
    """
    from pygrid.messages import preparation_text

    return [preparation_text.read_preparation(*_parted(text)) for text in texts]


def _parted(text: str) -> tuple[str, str]:
    name, _, said = text.partition(":")
    return name, said
