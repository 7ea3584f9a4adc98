"""``pygrid dataset``: upload, find, show and change datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pygrid.cli.common import JsonOption, UrlOption, YesOption, handle_errors
from pygrid.cli.help import App
from pygrid.cli.output import say, say_facts, say_json, say_table
from pygrid.errors import InvalidInput

app = App("Upload, find, show and change datasets.\n\nExample: pygrid dataset list")

Name = Annotated[str, typer.Argument(help="Name of the dataset.")]
File = Annotated[Path, typer.Argument(metavar="PATH", help="CSV, Parquet, Arrow, NPZ or safetensors file.")]
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
        help="Description of a column: NAME[:DTYPE], then ,unit=TEXT ,meaning=TEXT ,min=X ,max=X ,categories=a|b "
        ",source=p1|p* or ,has_missing=yes; repeatable.",
    ),
]
Note = Annotated[str, typer.Option(metavar="TEXT", help="Changes of this version.")]
FreshBudget = Annotated[
    bool,
    typer.Option("--fresh-budget", help="Add a version even if another dataset of this content has a budget."),
]

_COLUMN_KEYS = ("unit", "meaning", "description", "min", "max", "categories", "source", "has_missing")


@app.command("upload")
@handle_errors
def upload(
    file: File,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the dataset; default: that of the file.")
    ] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="Description for people.")] = "",
    tag: Tag = None,
    visibility: Visibility = None,
    column: ColumnOption = None,
    skip: Skip = None,
    subject: Subject = None,
    max_records_per_subject: PerSubject = None,
    mock: Mock = None,
    version_of: Annotated[str | None, typer.Option(metavar="NAME", help="Dataset that gets a new version.")] = None,
    note: Note = "",
    fresh_budget: FreshBudget = False,
    url: UrlOption = None,
) -> None:
    """Upload a dataset, or a new version of one.

    Example:
        pygrid dataset upload patients.csv --column age:float32,min=0,max=120
    """
    from pygrid.client import connect
    from pygrid.client.display.units import size

    given: dict[str, Any] = {
        "columns": [read_column(text) for text in column or []],
        "skip": tuple(skip or ()),
        "subject": subject,
        "max_records_per_subject": max_records_per_subject,
        "note": note,
    }
    if fresh_budget and version_of is None:
        raise InvalidInput(
            "--fresh-budget needs --version-of; for a new dataset, use pygrid budget set NAME --fresh-budget"
        )
    with connect(url) as domain:
        if version_of is not None:
            info = domain.datasets[version_of].new_version(file, mock=mock, fresh_budget=fresh_budget, **given)
        else:
            more: dict[str, Any] = {
                "description": description,
                "tags": tag or (),
                "visibility": visibility or "private",
            }
            info = domain.datasets.upload(name or file.stem, file, mock=mock, **more, **given).info()
    what = f"{info.num_records:,} records, {info.num_columns} columns, {size(info.size_bytes)}"
    say(f"{info.name}, version {info.version}: {what}")


@app.command("list")
@handle_errors
def list_datasets(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the datasets of a Domain that are visible to you, newest first.

    Example: pygrid dataset list
    """
    from pygrid.client import connect

    with connect(url) as domain:
        found = domain.datasets.list()
        empty = f"{domain.url} has no dataset that is visible to you"
    say_json(found) if as_json else say_table(found, empty)


@app.command("search")
@handle_errors
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
    from pygrid.client import connect

    with connect(url) as domain:
        found = domain.datasets.search(text, tags=tag or (), schema=schema, meaning=meaning)
    say_json(found) if as_json else say_table(found, "no dataset matches")


@app.command("show")
@handle_errors
def show(name: Name, version: Version = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show a dataset with its columns and versions.

    Example: pygrid dataset show digits
    """
    from pygrid.cli.tables import DatasetColumns, DatasetVersions
    from pygrid.client import connect

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
    say_facts((name, value) for name, value in facts if value)
    for table in (DatasetColumns(info.schema.columns), DatasetVersions(info.versions)):
        say()
        say_table(table)


@app.command("update")
@handle_errors
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
    from pygrid.client import connect

    tags = [] if no_tags else tag or None
    with connect(url) as domain:
        changes: dict[str, Any] = {"name": new_name, "description": description, "tags": tags, "visibility": visibility}
        info = domain.datasets[name].update(**changes)
    say(f"{info.name} is {info.visibility}; tags: {', '.join(info.tags) or 'none'}")


@app.command("delete")
@handle_errors
def delete(
    name: Name,
    yes: YesOption = False,
    url: UrlOption = None,
) -> None:
    """Delete a dataset with all its versions.

    Example: pygrid dataset delete digits --yes
    """
    from pygrid.client import connect

    with connect(url) as domain:
        dataset = domain.datasets[name]
        info = dataset.info()
        if not yes:
            typer.confirm(f"Delete {info.name} with {len(info.versions)} versions permanently?", abort=True)
        dataset.delete()
    say(f"{info.name} is deleted")


@app.command("mock")
@handle_errors
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

    from pygrid.client import connect
    from pygrid.client.datasets import save_csv, save_npz

    if output.suffix not in (".npz", ".csv"):
        raise InvalidInput(f"{output} ends neither in .npz nor in .csv")
    with connect(url) as domain:
        columns = domain.datasets[name].mock(version)
    (save_csv if output.suffix == ".csv" else save_npz)(columns, output)
    say(f"{output}: {len(columns)} columns, {len(next(iter(columns.values()), np.empty(0))):,} mock records")


def read_column(text: str) -> dict[str, Any]:
    """The fields of a column's declaration from ``NAME[:DTYPE][,key=value ...]``; ``\\,`` is a comma within a value.

    Raises:
        InvalidInput: names the part that is not valid.
    """
    parts = [part.replace("\0", ",") for part in text.replace("\\,", "\0").split(",")]
    name, _, dtype = parts[0].partition(":")
    declared: dict[str, Any] = {"name": name, **({"dtype": dtype} if dtype else {})}
    for part in parts[1:]:
        key, is_pair, value = part.partition("=")
        if not is_pair or key not in _COLUMN_KEYS:
            raise InvalidInput(
                f"--column {text!r}: {part!r} is not valid; use {', '.join(f'{key}=' for key in _COLUMN_KEYS)}"
            )
        if key in ("categories", "source"):
            declared[key] = value.split("|")
        elif key == "has_missing":
            if value not in ("yes", "no"):
                raise InvalidInput(f"--column {text!r}: has_missing is {value!r}; write yes or no")
            declared[key] = value == "yes"
        elif key in ("min", "max"):
            try:
                declared[key] = float(value)
            except ValueError:
                raise InvalidInput(f"--column {text!r}: {value!r} is not a number") from None
        else:
            declared[key] = value
    return declared
