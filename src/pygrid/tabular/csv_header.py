"""Finds the names of the columns of a CSV file, its delimiter, and where its records begin.

The names of a listed dataset are public, so a first record must never become names. The first line holds names only if
the owner says so, or if the records below it differ from it. A word above words can be a value, and a word above
numbers one that is missing: then a usual name of a column must be among the fields. A first line that cannot be told
from a record is refused, and the refusal quotes nothing of it.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pygrid import codes
from pygrid.core.datasets import MAX_NAME
from pygrid.errors import InvalidConfig, InvalidDataset
from pygrid.messages.datasets import CsvOptions
from pygrid.tabular.csv_diagnosis import advice
from pygrid.tabular.csv_faults import MAX_LINE_BYTES, Header, RowReader, TextFile
from pygrid.tabular.csv_kinds import FALSE_WORDS, TRUE_WORDS, Marks

SAMPLE_BYTES = 256 * 1024
SAMPLE_RECORDS = 2000
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = (";", "\t", "|", ",")
"""The delimiters that are found. Of two that split all lines equally well, the earlier one: a comma can be a decimal
mark."""
_OTHER_DELIMITERS = {
    " ": "spaces",
    ":": "colons",
    "~": "tildes",
    "^": "carets",
    "\x1f": "unit separators",
    "\x01": "Ctrl-A",
}
_UNNAMED = re.compile(r"(?:Unnamed: \d+(?:_level_\d+)?)?")
"""A missing name, or what pandas writes in its place when it has read it once."""
_GAP_WORDS = frozenset(
    re.split(" ", "? - -- . * / n/a na #n/a <na> #null! k.a. n.a. n.d. nd s/d nan -nan nat null (null) none nil unk")
) | frozenset(re.split(" ", r"unknown missing \n #div/0! #value! #ref! #num! #name? 1.#qnan -1.#ind"))
"""Usual marks of a missing value in lower case, of which only some are read as such. ``na`` can also be sodium."""
_FILLER = re.compile(
    "(?i:(?:not?|keine?|un|non)[ _-]?(?:known|data|done|info|entry|value|record|avail|appl|report|measur|test|given"
    r"|sure|clear|determin|specif|stated|assess|found|obtain|present|answer|bekannt|angabe|connu)\w*|x{2,})"
)
"""Other words in the place of a missing value."""
_ANSWERS = frozenset(
    re.split(
        " ", "yes no ja nein positive negative pos neg pending refused declined detected other div divers high low"
    )
)
"""Words in the place of a number; as a name they prove nothing."""
_ROMAN = re.compile(r"(?i:(?=..)M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3}))")
_USUAL = frozenset(Path(__file__).with_name("usual_names.txt").read_text(encoding="utf-8").split())
"""Parts of usual names of columns, without words that are names of people, too."""
_ABOVE_NUMBERS = _USUAL | frozenset(re.split(" ", "alter case class day hour max mean min month price rank rate speed"))
_DATE_OR_TIME = re.compile(
    r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ]\d.*)?|\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp]\.?[Mm]\.?)?|\d{8}T\d{4,6}Z?"
    r"|\d{1,2}[- ][A-Za-z]{3,9}\.?[- ]\d{2,4}"
)
_LIKE_NUMBER = re.compile(r"[+-]?[$€£]?\.?\d[\d.,' _\u00a0\u2019]*([eE][+-]?\d+)? ?[%€]?")
"""Numbers in any notation: the reader takes only some of them."""
_AMOUNT = re.compile(
    r"(?:(?:ca|circa|about|approx|Rs|[A-Z]{3})(?:\. ?| )|[^\w\s]{1,2} ?)?\d[\d.,'/ ]*(?:[eE][+-]?\d+)?"
    r"(?: [^\W\d_]{1,5}\.?| ?(?:[cmkµ]?[glmsM]|h|min|d|y|kr|[^\w\s]{1,2}))?"
)
"""A number with a sign, a unit or a currency, such as ``<5`` and ``12 mg``."""
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(?:\.\d{3})+")
_WORD = re.compile(r"[^\W\d]\w*")
_CODE = re.compile(r"[A-Z./-]*\d[A-Z\d./-]*")
_MOST = 0.9
_MAX_SHOWN = 20


@dataclass(frozen=True)
class _Sample:
    """The first record, and those below it that have as many fields."""

    first: list[str]
    below: list[list[str]]
    marks: Marks
    fault: InvalidDataset | None
    """The fault that ends the sample."""

    def values(self, index: int) -> list[str]:
        """The values of a column below the first line, without those that are missing or may stand for it."""
        return [value for row in self.below if not self.is_gap(value := row[index].strip())]

    def is_gap(self, value: str) -> bool:
        return value in self.marks.missing or value.lower() in _GAP_WORDS or bool(_FILLER.fullmatch(value))

    def is_typed(self, value: str) -> bool:
        """Whether a value is a number, a truth value, a date or a time."""
        return self.is_number(value) or value in TRUE_WORDS + FALSE_WORDS or bool(_DATE_OR_TIME.fullmatch(value))

    def is_above_numbers(self, index: int) -> bool:
        return _share(self.values(index), self.is_typed) >= _MOST

    def is_number(self, value: str) -> bool:
        return self.marks.is_number(value) or bool(_LIKE_NUMBER.fullmatch(value))


def read_header(file: TextFile, options: CsvOptions | None = None, known: Collection[str] = ()) -> Header:
    """The names of the columns and the place of the first record.

    Args:
        known: names that the owner uses elsewhere in the upload. If the first line has one, it holds names.
    Raises:
        InvalidDataset: ``dataset_header_unclear``: the first line can be a record. ``dataset_delimiter``: the fields
            are separated by a character that is not found. Others: as `RowReader.rows`.
        InvalidConfig: ``names`` does not fit the file.
    """
    options = options or CsvOptions()
    file.seek(0)
    begin = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    skip_lines = frozenset(options.skip_lines)
    sampled, fault = _sample_lines(file, begin, skip_lines)
    lines = [line for line in sampled if line.strip()]
    if options.header is None and not options.names and not skip_lines:
        _check_begin(sampled)
    delimiter = options.delimiter or _find_delimiter(lines)
    file.seek(begin)
    reader = RowReader(file, delimiter, skip_lines=skip_lines)
    rows = ([name.strip() for name in row] for row in reader.rows())
    first = next((row for row in rows if row != [""]), [])
    below = [row for row in _records(lines, delimiter)[1:] if len(row) == len(first)]
    sample = _Sample(first, below, Marks.of(options), fault)
    if first and not _is_header(sample, options, frozenset(known)):
        header = Header([f"column{number}" for number in range(1, len(first) + 1)], delimiter, begin, 0, skip_lines)
    else:
        header = Header(first, delimiter, begin + reader.position, reader.num_lines, skip_lines)
    return _named(header, options, sample, frozenset(known))


def _sample_lines(file: TextFile, begin: int, skip_lines: frozenset[int]) -> tuple[list[str], InvalidDataset | None]:
    """The first lines with their ends, and the fault after them, if they are not UTF-8."""
    file.seek(begin)
    data = file.read(SAMPLE_BYTES)
    if len(data) == SAMPLE_BYTES:  # its last line can be cut
        if data.count(b"\n") < 2:
            data += file.read(MAX_LINE_BYTES)
        data = data[: data.rfind(b"\n") + 1] or data
    lines: list[str] = []
    try:
        for line in RowReader(io.BytesIO(data), ",", skip_lines=skip_lines).lines():
            lines.append(line)
    except InvalidDataset as error:
        return lines, error
    return lines, None


def _check_begin(lines: Sequence[str]) -> None:
    """Refuse what other programs write before the names: comments, and Excel's line of the delimiter."""
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), 0)
    what = f"{count} lines of comments (#)" if count > 1 else "a line of comment (#)"
    if lines and re.fullmatch(r'"?sep=.?"?', lines[0].strip()):
        count, what = 1, "a line that only names the delimiter (sep=)"
    elif count == 1 and len({len(row) for row in _records(lines[:2], _find_delimiter(lines[1:]))}) == 1:
        return  # the names begin with a number sign
    if count:
        skipped = ", ".join(map(str, range(1, count + 1)))
        raise InvalidDataset(
            f"the file begins with {what}; pass skip_lines=[{skipped}], or header=True if its first line holds names",
            code=codes.DATASET_HEADER_UNCLEAR,
        )


def _records(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The records of the sample, up to the first that cannot be read."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter, strict=True):
            rows.append(row)
            if len(rows) > SAMPLE_RECORDS:
                break
    except csv.Error:
        pass
    return [row for row in rows if row]


def _find_delimiter(lines: Sequence[str]) -> str:
    """The usual delimiter that splits all first lines into as many fields; else the one that the first has most of.

    Raises:
        InvalidDataset: ``dataset_delimiter``: an unusual one does.
    """
    lines = lines[:50]
    if not lines:
        return ","
    fields = {one: [len(row) for row in _records(lines, one)] for one in (*_DELIMITERS, *_OTHER_DELIMITERS)}
    even = {one: found[0] for one, found in fields.items() if found and found[0] > 1 and len(set(found)) == 1}
    if usual := [one for one in _DELIMITERS if one in even]:
        return max(usual, key=even.__getitem__)
    first = lines[0]
    if any(delimiter in first for delimiter in _DELIMITERS):
        return max((",", ";", "\t", "|"), key=first.count)
    for one, words in _OTHER_DELIMITERS.items():
        if one in even and len(fields[one]) > 1 and _has_number(_records(lines, one)[1:]):
            raise InvalidDataset(
                f"the fields of this file seem to be separated by {words}; pass delimiter={one!r}, or delimiter=',' if "
                "it has one column",
                code=codes.DATASET_DELIMITER,
            )
    return ","


def _has_number(rows: Sequence[Sequence[str]]) -> bool:
    return any(re.fullmatch(r"[+-]?\d+([.,]\d+)?", field) for row in rows for field in row)


def _is_header(sample: _Sample, options: CsvOptions, known: frozenset[str]) -> bool:
    """Whether the first line holds names. Raises InvalidDataset: ``dataset_header_unclear``."""
    if options.header is not None:
        return options.header
    first = sample.first
    if known & set(first) or tuple(first) == options.names or not sample.below:
        return True
    signs = [f"field {index + 1:,} {sign}" for index in range(len(first)) if (sign := _sign_of_record(sample, index))]
    unclear = _unclear_fields(sample)
    is_clear = not signs and not unclear
    if is_clear or options.names:
        return is_clear
    if sample.fault is not None:
        raise sample.fault
    why = (
        f"looks like a record and not like names: {', '.join(signs[:3])}"
        if signs
        else f"can be names or a record: field {unclear[0] + 1:,} can be a value of its column"
    )
    raise InvalidDataset(
        f"the first line {why}. Names can be public, so pass header=True if it holds the names of the columns, "
        "header=False if it is a record (the columns are then column1, column2 ...), or all names as names=",
        code=codes.DATASET_HEADER_UNCLEAR,
    )


def _sign_of_record(sample: _Sample, index: int) -> str:
    """Why a field of the first line cannot be a name; quotes nothing of it."""
    field = sample.first[index]
    if _UNNAMED.fullmatch(field):
        is_trailing = index > 0 and index == len(sample.first) - 1 and not sample.values(index)
        return "" if index == 0 or is_trailing else "is empty"
    if sample.is_number(field):
        return "is a number"
    if sample.is_gap(field):
        return "" if field.isalpha() else "stands for a missing value"
    if sample.is_typed(field):
        return "is a date, a time or a truth value"
    if len(field) > MAX_NAME or not field.isprintable():
        return "is too long for a name" if field.isprintable() else "has a character that no name has"
    values = set(sample.values(index))
    if field in values:
        return "occurs below it too"
    if field not in ("#", "%") and re.fullmatch(r"[!-/:-@\[-`{-~ ]+", field):
        return "has no letter"
    if _AMOUNT.fullmatch(field) and _share(values, sample.is_typed) > 0.5:
        return "is an amount"
    form = _form(field)
    if re.search(r"[^\w\s]|\d", field) and len(values) > 1 and _share(values, lambda value: _form(value) == form) > 0.5:
        return "has the form of the values below it"
    return ""


def _unclear_fields(sample: _Sample) -> list[int]:
    """The fields that can be a value; none if the line as a whole can only hold names."""
    fields = range(len(sample.first))
    if not any(_is_name(sample, index) for index in fields):
        return [*fields]
    if any(_is_usual(sample, index) for index in fields) or all(re.fullmatch(r"[A-Za-z]\d*", n) for n in sample.first):
        return []
    return [
        index
        for index in fields
        if sample.values(index) and not sample.is_above_numbers(index) and not _is_name(sample, index, by_case=False)
    ]


def _is_usual(sample: _Sample, index: int) -> bool:
    """Whether a field is a usual name, or above numbers has the form of one: ``log_fc``, ``petalLength``."""
    field, is_above = sample.first[index], sample.is_above_numbers(index)
    if sample.is_gap(field):
        return False
    if is_above and re.fullmatch(r"[a-z]{2,}(_\w+|[A-Z]\w*)", field):
        return True
    words = [word.lower() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])", field)]
    usual = [word in (_ABOVE_NUMBERS if is_above else _USUAL) for word in words]
    is_phrase = " " in field and not is_above
    return bool(usual) and (usual[0] and usual[-1] if is_phrase else usual[0] or usual[-1])


def _is_name(sample: _Sample, index: int, *, by_case: bool = True) -> bool:
    """Whether the values below a field of the first line show that it is not one of them.

    Args:
        by_case: also if they begin with capital letters, and the field does not.
    """
    field, values = sample.first[index], sample.values(index)
    if not field or not values or sample.is_gap(field) or field.lower() in _ANSWERS or _ROMAN.fullmatch(field):
        return False
    if sample.is_above_numbers(index):
        return True
    if len(values) < 2:
        return False
    if " " not in field and _share(values, lambda value: value.count(" ") > 2) >= _MOST:
        return True  # a word above sentences
    # Good-Turing: the probability that one more record has a value that the others do not have.
    once = sum(count == 1 for count in Counter(values).values())
    is_many = len(values) >= 20
    if is_many and once / len(values) < 0.05:
        return True
    digits = re.compile(r"\d").search
    if is_many and not digits(field) and _share(values, lambda value: bool(digits(value))) >= _MOST:
        return True
    if not _WORD.fullmatch(field):
        return False
    return _is_word_above(field, values) or (by_case and _is_lower_above(field, values, sample.first))


def _is_word_above(field: str, values: Sequence[str]) -> bool:
    """Whether a word is written in another way than all values, which can be few."""
    lengths = {len(value) for value in values}
    is_upper = all(value.isupper() for value in values)
    most = 3 if is_upper and not field.isupper() else 2
    if len(lengths) == 1 and max(lengths) <= most and len(field) >= (4 if field.isupper() else 3):
        return True  # codes such as f and m
    if field.isupper() or re.search(r"\d", field):
        return False
    return _share(values, lambda value: bool(_CODE.fullmatch(value))) >= _MOST


def _is_lower_above(field: str, values: Sequence[str], first: Sequence[str]) -> bool:
    if field.isupper() or not all(value[:1].isupper() for value in values):
        return False
    return "_" in field or (len(values) >= 3 and field.islower() and not any(name[:1].isupper() for name in first))


def _form(text: str) -> str:
    """The text with each run of digits as 9 and each run of letters as a."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text))


def _share(values: Collection[str], fits: Callable[[str], bool]) -> float:
    return sum(map(fits, values)) / max(1, len(values))


def _named(header: Header, options: CsvOptions, sample: _Sample, known: frozenset[str]) -> Header:
    """The header with the names that the owner wants, without columns that only count the records."""
    num_columns = len(header.names)
    if options.names:
        if len(options.names) != num_columns:
            raise InvalidConfig(
                f"names has {len(options.names):,} names, and the first line of the file has {num_columns:,} fields",
                code=codes.INVALID_DATASET_CONFIG,
                field="names",
            )
        return header.renamed(list(options.names))
    unnamed = [index for index, name in enumerate(header.names) if _UNNAMED.fullmatch(name)]
    names = [f"column{index + 1}" if index in unnamed else name for index, name in enumerate(header.names)]
    if options.index is not None:
        if unnamed[:1] != [0] and num_columns:
            raise InvalidConfig(
                "index names a first column without a name, and this file has none",
                code=codes.INVALID_DATASET_CONFIG,
                field="index",
            )
        names[0], unnamed = options.index, unnamed[1:]
    dropped = [index for index in unnamed if names[index] not in known and _is_idle(sample, index)]
    notes = [
        f"column {index + 1:,} has no name and "
        + (
            f"{'counts the records' if index == 0 else 'no values'}, so it is not stored"
            + (" (to store it, name it with index=)" if index == 0 else "")
            if index in dropped
            else f"is stored as {names[index]!r} (to leave it out, skip it by this name)"
        )
        for index in unnamed
    ]
    kept = [index for index in range(num_columns) if index not in dropped and names[index] not in known]
    notes += [f"column {names[index]!r} {note}" for index in kept if (note := _why_text(sample, index, header))]
    return header.renamed(names, frozenset(dropped), notes)


def _why_text(sample: _Sample, index: int, header: Header) -> str:
    """Why numbers are stored as texts, or perhaps as other numbers; empty if they are not."""
    marks = sample.marks
    values = [row[index] for row in sample.below if not marks.is_missing(row[index])]
    odd = [value for value in values if not marks.is_number(value)]
    grouped = [value for value in values if "." in value]
    if not odd:
        is_grouped = header.delimiter in ";\t" and len(grouped) > 1 and all(map(_GROUPED.fullmatch, grouped))
        return (
            "has three digits after each point; pass decimal=',' and thousands='.' if the point groups digits"
            if is_grouped and (marks.decimal, marks.thousands) == (".", None)
            else ""
        )
    likely = [value for value in odd if sample.is_gap(text := value.strip()) or _LIKE_NUMBER.fullmatch(text)]
    num_numbers = sum(sample.is_number(value.strip()) for value in values)
    if not num_numbers or (len(likely) < len(odd) and num_numbers <= len(values) / 2):
        return ""
    why = f"is stored as text, because {odd[0][:_MAX_SHOWN]!r} is not a number"
    is_first = len(odd) == 1 and odd == [row[index] for row in sample.below[:1]]
    if is_first and odd[0].strip().isalpha() and not sample.is_typed(odd[0]):
        return f"{why}; pass skip_lines=[{header.num_lines + 1}] if that line holds units"
    return why + advice(odd[0], marks)


def _is_idle(sample: _Sample, index: int) -> bool:
    """Whether a column only counts the records, from 0 or 1, or is the last one and empty."""
    values = [row[index].strip() for row in sample.below]
    if index == 0:
        return bool(values) and values in ([str(number) for number in range(low, low + len(values))] for low in (0, 1))
    return index == len(sample.first) - 1 and not any(values)
