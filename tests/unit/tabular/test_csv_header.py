"""The first line of a CSV file: names, or a record that must not become names.

Should happen: usual tables are read without a question; where names are found, the owner can overrule it.
Should not happen: a part of a record becomes a name, or stands in a refusal.
"""

from __future__ import annotations

import io
import re
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrid.errors import InvalidInput, PygridError
from pygrid.messages.datasets import CsvOptions
from pygrid.tabular.csv_header import Header, read_header
from support.thorough import examples


def header_of(text: str, **options: Any) -> Header:
    return read_header(io.BytesIO(text.encode()), CsvOptions(**options))


@pytest.mark.parametrize(
    "text",
    [
        "Miller,1961-04-02,C50.9\nJensen,1970-01-01,C61\nOkafor,1955-12-24,C34\n",
        "Miller,34\nJensen,51\n",
        "Miller,Anna\nJensen,Bob\n",
        "Miller,female,breast\nJensen,male,lung\nOkafor,female,lung\n",
        "Miller,,f\nJensen,51,m\n",
        "Miller,?\nJensen,51\n",
        "Miller,unknown\nJensen,lost\n",
        "Miller;02.04.1961;70,5\nJensen;01.01.1970;81,2\n",
        "Miller\t12:30\nJensen\t13:45\n",
        "ann@a.org\nbob@b.org\n",
        '"Miller, Anna"\n"Jensen, Bob"\n',
        "A12,x y\nB13,z\n",
        "true,Miller\nfalse,Jensen\n",
        "Miller,3 Main St\nJensen,7 High St\n",
        "Miller,Rose Cottage\nJensen,3 Main St\nOkafor,7 High St\n",
        "Anna,Miller\nBob,Jensen\nEva,Okafor\n",
        "Miller,AB+\nJensen,A-\nOkafor,O+\n",
        "Miller,<5\nJensen,51\n",
        "Miller,ca. 1961\nJensen,1970\n",
        "Miller,12 mg\nJensen,51\n",
        "Miller,#DIV/0!\nJensen,51\n",
        "Miller,positive\nJensen,1\n",
        "Miller,NaT\nJensen,2024-01-31\n",
        "Miller,+\nJensen,51\n",
        "van der berg\nMiller\nJensen\nOkafor\n",
        "ann_miller,Oslo\nbob,Rome\neva,Bern\n",
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_record_is_refused_and_not_quoted(text: str, end: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        header_of(text.replace("\n", end))
    assert refused.value.code == "dataset_header_unclear"
    told = str(refused.value.to_problem())
    assert all(
        word not in told
        for word in ("Miller", "1961", "C50", "female", "ann@", "Anna", "A12", "Main", "ann_", "Rose", "mg")
    )
    assert "header=False" in told


@pytest.mark.parametrize(
    "text",
    [
        "name,age\nann,30\nbob,41\n",
        "age;height\n34;1,70\n51;1,82\n",
        "day\tvalue\n2024-01-31\t1\n",
        "name,sex\nann,f\nbob,m\n",
        "icd,first_name\nC50.9,Ann\nC61,Bob\n",
        "name,city\nAnn,Oslo\nBob,Rome\nEva,Bern\n",
        "Na,K,Cl\n140,4.1,101\n138,3.9,\n",
        "label," + ",".join(f"pixel{n}" for n in range(9)) + "\n" + "1," * 9 + "1\n",
        "1stFlrSF,PHQ9,#\n856,12,1\n920,7,2\n",
        "iso,lang\nUSA,en\nDEU,de\n",
        "kind\n" + "alpha\nbeta\ngamma\n" * 10,
    ],
)
def test_usual_names_are_found(text: str) -> None:
    header = header_of(text)
    assert header.names == text.split("\n")[0].replace(";", ",").replace("\t", ",").split(",")
    assert header.num_lines == 1


def _people(first: str, column: str = "{number}", names: str = "Jensen Okafor Lee Smith") -> str:
    """A first line, and four records below it."""
    rows = [
        f"{name}," + column.format(number=number) for number, name in zip((7, 12, 9, 15), names.split(), strict=True)
    ]
    return "\n".join([first, *rows]) + "\n"


ODD_WORDS = (
    *("XIV", "xx", "XXX", "unclear", "Unsure", "twelve", "lost", "strange", "Alpha", "Rossi", "mild", "tbd", "n_a"),
    *("MISSING", "illegible", "weiblich", "oui", "uncertain", "unbek", "not known", "not_known", "notKnown", "no data"),
)
RECORDS = [
    *(_people(f"Miller,{word}") for word in ODD_WORDS),
    *(
        _people(f"{name},unclear")
        for name in ("miller", "MILLER", "de Vries", "van_dyk", "McDonald", "O'Neil", "Ann Lee")
    ),
    *(_people(f"{name},xx") for name in ("Price", "Day", "Case", "Lang", "Ward", "Max", "jane_miller", "Rose Street")),
    *(_people(f"Miller,{word}", "1970-01-{number:02}") for word in ("unborn", "long ago", "Easter")),
    *(_people(f"Miller,{words}", "{number},{number}.5") for words in ("xx,XIV", "strange,odd", "Alpha,Beta", "no,yes")),
    *(_people(f"Miller,{word},strange", "m,{number}") for word in ("divers", "unk", "other")),
    _people("miller,strange", names="jensen okafor lee smith"),
    _people("MILLER,STRANGE", names="JENSEN OKAFOR LEE SMITH"),
    _people("xx,XIV", names="1 2 3 4"),
    _people("Ann Miller,odd", names="A1 B2 C3 D4"),
    "Miller,strange\nJensen,7\n",
    "xx\n1\n2\n",
    "not known\n1\n2\n",
]
HEADERS = [
    *(_people(names) for names in ["name,age", "Name,Age", "NAME,AGE", "Surname,Visits", "Nachname,Alter"]),
    *(
        _people(names)
        for names in (
            "Patient name,Age (years)",
            "patient_name,bmi",
            "plant,petalLength",
            "text,label",
            "Name,Date of birth",
        )
    ),
    *(_people(names) for names in ["city,population", "customer,amount", "gene,log_fc", "who,price"]),
    *(_people(names, "{number},{number}.5") for names in ("Country,Year,GDP", "subject,dose_mg,weight", "x,y,value")),
    *(_people(names, "m,{number}") for names in ("Name,Sex,Age", "surname,sex,years", "last_name,sex,n")),
    _people("a,b", names="1 2 3 4"),
    _people("x1,Y"),
    _people("kin,age", names="1970-01-01 1970-01-02 1970-01-03 1970-01-04"),
    "review,good\nIt was fine by me,1\nThe food came very cold,0\nNever go there again please,0\n",
]


@pytest.mark.parametrize("text", RECORDS)
def test_words_above_numbers_can_be_a_record(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        header_of(text)
    assert refused.value.code == "dataset_header_unclear"
    words = re.split(r"[\W_]+", text.split("\n")[0])
    assert not {word for word in words if len(word) > 3} & set(re.split(r"\W+", refused.value.detail))


@pytest.mark.parametrize("text", HEADERS)
def test_usual_names_above_records_need_no_question(text: str) -> None:
    assert ",".join(header_of(text).names) == text.split("\n")[0]


def test_the_owner_decides() -> None:
    text = "Miller,Anna\nJensen,Bob\n"
    assert header_of(text, header=True).names == ["Miller", "Anna"]
    without = header_of(text, header=False)
    assert (without.names, without.position) == (["column1", "column2"], 0)
    named = header_of(text, names=("last", "first"))
    assert (named.names, named.position) == (["last", "first"], 0)
    assert header_of(text, names=("Miller", "Anna")).num_lines == 1, "these are the names of the file"
    replaced = header_of("a,b\n1,2\n", names=("x", "y"))
    assert (replaced.names, replaced.num_lines) == (["x", "y"], 1)
    assert header_of(text, header=True, names=("last", "first")).num_lines == 1
    with pytest.raises(InvalidInput, match="names has 3 names"):
        header_of(text, names=("a", "b", "c"))
    assert read_header(io.BytesIO(text.encode()), None, {"Anna"}).num_lines == 1, "the owner declared a column Anna"


def test_columns_without_a_name() -> None:
    counting = header_of(",age,sex\n0,34,f\n1,51,m\n2,47,f\n")
    assert (counting.names, counting.dropped) == (["column1", "age", "sex"], {0})
    assert "not stored" in counting.notes[0]
    kept = header_of(",age,sex\n0,34,f\n1,51,m\n", index="id")
    assert (kept.names, kept.dropped, kept.notes) == (["id", "age", "sex"], frozenset(), [])
    again = header_of("Unnamed: 0,Unnamed: 0.1,age\n0,0,34\n1,1,51\n", header=True)
    assert (again.names, again.dropped) == (["column1", "Unnamed: 0.1", "age"], {0})
    other = header_of(",age\nx,34\ny,51\n")
    assert (other.names, other.dropped) == (["column1", "age"], frozenset())
    assert "stored as 'column1'" in other.notes[0]
    trailing = header_of("age,sex,\n34,f,\n51,m,\n")
    assert (trailing.names, trailing.dropped) == (["age", "sex", "column3"], {2})
    with pytest.raises(InvalidInput, match="this file has none"):
        header_of("age,sex\n34,f\n", index="id")


@pytest.mark.parametrize(("sign", "word"), [(" ", "spaces"), (":", "colons"), ("~", "tildes"), ("\x01", "Ctrl-A")])
def test_an_unusual_delimiter_is_named(sign: str, word: str) -> None:
    text = "a,b\n1,2\n3,4\n".replace(",", sign)
    with pytest.raises(InvalidInput, match=word) as refused:
        header_of(text)
    assert refused.value.code == "dataset_delimiter"
    assert header_of(text, delimiter=sign).names == ["a", "b"]


def test_a_decimal_comma_is_no_delimiter() -> None:
    assert header_of("34;1,5;2,7\n35;1,6;2,8\n", header=False).delimiter == ";"
    assert header_of("a\tb\n1,5\t2,5\n").delimiter == "\t"


def test_lines_that_are_not_read() -> None:
    text = "Export of 2024, made by Miller\n\nage,height\nyears,cm\n34,170\n51,182\n"
    header = header_of(text, skip_lines=(1, 4))
    assert (header.names, header.num_lines) == (["age", "height"], 3)


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        ("# made by Miller\n", "a line of comment (#); pass skip_lines=[1]"),
        ("# made by Miller\n# at home\n", "2 lines of comments (#); pass skip_lines=[1, 2]"),
        ("sep=;\n", "a line that only names the delimiter (sep=); pass skip_lines=[1]"),
        ('"sep=;"\n', "a line that only names the delimiter (sep=); pass skip_lines=[1]"),
    ],
)
def test_lines_before_the_names_are_counted(begin: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        header_of(begin + "age;height\n34;1\n51;2\n")
    assert refused.value.code == "dataset_header_unclear"
    assert words in refused.value.detail
    assert "Miller" not in refused.value.detail
    skipped = tuple(range(1, begin.count("\n") + 1))
    assert header_of(begin + "age;height\n34;1\n51;2\n", skip_lines=skipped).names == ["age", "height"]
    assert header_of("#age;height\n34;1\n51;2\n").names == ["#age", "height"]


def test_why_numbers_are_texts() -> None:
    (note,) = header_of("age,b\n34,1\n?,2\n51,3\n").notes
    assert note == (
        "column 'age' is stored as text, because '?' is not a number; pass missing=['?'] if it stands for a missing "
        "value"
    )
    (comma,) = header_of("age;b\n34;1\n1,5;2\n").notes
    assert comma.endswith("'1,5' is not a number; pass decimal=',' if the comma is a decimal mark")
    (units, _) = header_of("mass,height\nkg,m\n70,1.8\n80,1.7\n").notes
    assert units.endswith("'kg' is not a number; pass skip_lines=[2] if that line holds units")
    (grouped,) = header_of("a;b\n1.024;1\n2.500;2\n").notes
    assert grouped == (
        "column 'a' has three digits after each point; pass decimal=',' and thousands='.' if the point groups digits"
    )
    assert not header_of("a;b\n1.024;1\n2.50;2\n").notes
    assert not header_of("age, b\n34, 1\n51, NA\n").notes
    assert not header_of("age,b\n34,1\nNA,2\n").notes
    assert not header_of("age,b\n34,1\n?,2\n", missing=("?",)).notes
    assert not header_of("icd,b\n34,1\nC50,2\n").notes
    assert not read_header(io.BytesIO(b"age,b\n34,1\n?,2\n"), None, {"age"}).notes, "its type is declared"


WORDS = st.text(string.ascii_letters, min_size=1, max_size=12)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.tuples(WORDS, st.integers(10, 99), st.dates()), min_size=2, max_size=8))
def test_no_record_with_a_number_becomes_names(rows: list[tuple[Any, ...]]) -> None:
    text = "".join(f"{name},{number},{day}\n" for name, number, day in rows)
    with pytest.raises(PygridError) as refused:
        header_of(text)
    assert refused.value.code == "dataset_header_unclear"
