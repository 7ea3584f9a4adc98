"""``pygrid dataset``: upload datasets, find them, look at them, change them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrid.cli.common import UrlOption, friendly
from pygrid.cli.output import say, say_columns, say_json, say_lines
from pygrid.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pygrid.messages.datasets import Column, DatasetSummary

app = typer.Typer(
    help="Upload datasets, find them, look at them, change them.", no_args_is_help=True, add_completion=False
)

Name = Annotated[str, typer.Argument(help="Name of the dataset.")]
File = Annotated[Path, typer.Argument(help="CSV, Parquet, Arrow, NPZ or safetensors file; told from its content.")]
Version = Annotated[int | None, typer.Option(help="Number of the version; default: the newest.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Tag = Annotated[list[str] | None, typer.Option("--tag", "-t", help="A tag; can be given several times.")]
Visibility = Annotated[str | None, typer.Option(help="Who may know of it: private, listed or public.")]
Mock = Annotated[Path | None, typer.Option(help="A file with mock records; default: they are drawn from the schema.")]
Subject = Annotated[str | None, typer.Option(help="The column that says whom a record is about.")]
PerSubject = Annotated[int | None, typer.Option(help="Use at most so many records of one subject.")]
Skip = Annotated[
    list[str] | None, typer.Option(help="A column of the file that is not stored; can be given several times.")
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        "-c",
        help="What a column is: "
        "NAME[:DTYPE][,unit=..][,meaning=..][,min=..][,max=..][,categories=a|b|..][,source=p1|p*]"
        "[,has_missing=yes|no]; can be given several times.",
    ),
]
Note = Annotated[str, typer.Option(help="What is new in this version.")]
FreshBudget = Annotated[
    bool,
    typer.Option(
        "--fresh-budget", help="Add a version although another dataset of the same content has a privacy budget."
    ),
]

_COLUMN_KEYS = ("unit", "meaning", "description", "min", "max", "categories", "source", "has_missing")


@app.command("upload")
@friendly
def upload(
    file: File,
    name: Annotated[str | None, typer.Option(help="Name of the dataset; default: that of the file.")] = None,
    description: Annotated[str, typer.Option(help="What it is, for people.")] = "",
    tag: Tag = None,
    visibility: Visibility = None,
    column: ColumnOption = None,
    skip: Skip = None,
    subject: Subject = None,
    max_records_per_subject: PerSubject = None,
    mock: Mock = None,
    version_of: Annotated[str | None, typer.Option(help="Add a version to the dataset of this name instead.")] = None,
    note: Note = "",
    fresh_budget: FreshBudget = False,
    url: UrlOption = None,
) -> None:
    """Upload a dataset, or a new version of one.

    Example: pygrid dataset upload patients.csv --column age:float32,unit=years,min=0,max=120 --visibility listed
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
            "--fresh-budget needs --version-of; for a new dataset, write pygrid budget set NAME --fresh-budget"
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
@friendly
def list_datasets(url: UrlOption = None, as_json: Json = False) -> None:
    """List the datasets on a Domain that you may know of, newest first.

    Example: pygrid dataset list
    """
    from pygrid.client import connect

    with connect(url) as domain:
        _print_datasets(domain.datasets.list(), as_json, f"{domain.url} has no dataset that you may know of")


@app.command("search")
@friendly
def search(
    text: Annotated[str, typer.Argument(help="Words that all occur in what is said of it.")] = "",
    tag: Tag = None,
    schema: Annotated[str | None, typer.Option(help="A column it has: NAME, NAME:DTYPE or :DTYPE.")] = None,
    meaning: Annotated[str | None, typer.Option(help="Part of what that column means.")] = None,
    url: UrlOption = None,
    as_json: Json = False,
) -> None:
    """Find datasets by words, tags, and what a column is like.

    Example: pygrid dataset search digits --schema label:int32
    """
    from pygrid.client import connect

    with connect(url) as domain:
        found = domain.datasets.search(text, tags=tag or (), schema=schema, meaning=meaning)
    _print_datasets(found, as_json, "nothing fits")


@app.command("show")
@friendly
def show(name: Name, version: Version = None, url: UrlOption = None, as_json: Json = False) -> None:
    """Show what is said of a dataset: its columns and versions.

    Example: pygrid dataset show digits
    """
    from pygrid.client import connect

    with connect(url) as domain:
        info = domain.datasets[name].info(version)
    if as_json:
        say_json(info)
        return
    say(f"{info.name}, version {info.version}: {info.num_records:,} records, {info.visibility}")
    if info.description:
        say_lines(info.description, indent="  ", hanging="  ")
    if info.tags:
        say(f"tags: {', '.join(info.tags)}")
    if info.schema.subject is not None:
        num = "" if info.schema.num_subjects is None else f"{info.schema.num_subjects:,} subjects, "
        say(f"subject: {info.schema.subject}, {num}at most {info.schema.max_records_per_subject} records each")
    rows = [("COLUMN", "DTYPE", "SHAPE", "UNIT", "VALUES", "MEANING")]
    rows += [
        (c.name, c.dtype, "x".join(map(str, c.shape)) or "-", c.unit or "-", _values(c), c.meaning or c.description)
        for c in info.schema.columns
    ]
    say_columns(rows)
    for one in info.versions:
        when = f"{one.created_at:%Y-%m-%d %H:%M}"
        say(f"version {one.number}: {when}, {one.num_records:,} records, mock {one.mock}  {one.note}".rstrip())


@app.command("update")
@friendly
def update(
    name: Name,
    new_name: Annotated[str | None, typer.Option("--name", help="The new name.")] = None,
    description: Annotated[str | None, typer.Option(help="The new description.")] = None,
    tag: Tag = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all tags away.")] = False,
    visibility: Visibility = None,
    url: UrlOption = None,
) -> None:
    """Change what is said of a dataset; what is not given stays.

    Example: pygrid dataset update digits --visibility public --tag images
    """
    from pygrid.client import connect

    tags = [] if no_tags else tag or None
    with connect(url) as domain:
        changes: dict[str, Any] = {"name": new_name, "description": description, "tags": tags, "visibility": visibility}
        info = domain.datasets[name].update(**changes)
    say(f"{info.name} is {info.visibility}; tags: {', '.join(info.tags) or 'none'}")


@app.command("delete")
@friendly
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
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
            typer.confirm(f"Delete {info.name} with {len(info.versions)} versions for good?", abort=True)
        dataset.delete()
    say(f"{info.name} is deleted")


@app.command("mock")
@friendly
def mock(
    name: Name,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it: NAME.npz or NAME.csv.")],
    version: Version = None,
    url: UrlOption = None,
) -> None:
    """Download the mock twin of a dataset: records that are nobody's, to try a program on.

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
    """The fields of a column's declaration from ``NAME[:DTYPE][,key=value ...]``; a comma within a value is written
    ``\\,``.

    Raises:
        InvalidInput: names the part that is none of these.
    """
    parts = [part.replace("\0", ",") for part in text.replace("\\,", "\0").split(",")]
    name, _, dtype = parts[0].partition(":")
    declared: dict[str, Any] = {"name": name, **({"dtype": dtype} if dtype else {})}
    for part in parts[1:]:
        key, is_pair, value = part.partition("=")
        if not is_pair or key not in _COLUMN_KEYS:
            raise InvalidInput(f"--column {text!r}: {part!r} is none of {', '.join(f'{key}=' for key in _COLUMN_KEYS)}")
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


def _values(column: Column) -> str:
    return _bounds(column) + (", some missing" if column.has_missing else "")


def _bounds(column: Column) -> str:
    if column.num_categories is not None:
        return f"{column.num_categories} categories"
    if column.min is None and column.max is None:
        return "-"
    return f"{'' if column.min is None else f'{column.min:g}'}..{'' if column.max is None else f'{column.max:g}'}"


def _print_datasets(found: Sequence[DatasetSummary], as_json: bool, if_none: str) -> None:
    if as_json:
        say_json(found)
        return
    if not found:
        say(if_none)
        return
    rows = [("NAME", "VERSION", "RECORDS", "COLUMNS", "VISIBILITY", "TAGS")]
    rows += [
        (
            one.name,
            str(one.version),
            f"{one.num_records:,}",
            str(one.num_columns),
            one.visibility,
            ", ".join(one.tags) or "-",
        )
        for one in found
    ]
    say_columns(rows)
