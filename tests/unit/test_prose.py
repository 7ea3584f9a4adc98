"""The rules of scripts/prose, and limits on what they find in each package."""

from __future__ import annotations

from collections import Counter

import prose
import pytest

LIMITS: dict[str, int] = {}
"""Hits of `scripts/prose --count` that a package may have; 0 for all others."""

EXAMPLES = {
    "P01": [
        ("Who searches there has each Domain asked.", "A search queries all Domains in parallel."),
        ("It ends: who asked may cancel it.", "Only the requester may cancel a job."),
        ("The requester may cancel, who holds the dataset decides on it.", "Only the data owner may decide on it."),
        ("Whose model is it", "Whose model is it?"),
    ],
    "P02": [
        (
            "PYGRID_INVITATION is no invitation: they are shorter",
            "PYGRID_INVITATION is longer than 200 characters, so it is not valid",
        ),
        ("a tensor that is none", "there is no tensor; it is no longer than 3"),
    ],
    "P03": [
        (
            "A coordinator that is away is tried for so long before a job says so",
            "How long to retry before the job reports it",
        ),
        ("it was lost so often", "so long as the job runs, and so much more"),
    ],
    "P04": [
        ("Gives bytes of a report, from an offset, so many.", "`(offset, count) -> bytes` of a report."),
        ("what it gives", "it gives up, and gives way"),
    ],
    "P05": [
        ("What is told of it.", "The fields that other users can see."),
        ("says whether it is open", "it says: open"),
    ],
    "P06": [("this machine can't lock a stranger's plan in", "This machine cannot sandbox an untrusted plan.")],
    "P07": [("A Worker that is let in no more.", "A Worker whose authorization was revoked.")],
    "P08": [
        ("Memory that a job may use beside the data", "Memory for a job, in addition to its data; besides, it is small")
    ],
    "P09": [("a log written anew as a whole would look the same", "rewriting the whole log would go unnoticed")],
    "P10": [("processes that are to be hosted later", "draft processes")],
    "P11": [
        ("73 % at epsilon 1", "73% at epsilon 1"),
        ("faster by 13.8 x", "13.8 times; shape 3 x 4"),
    ],
    "P12": [
        (
            "all of it, but for what `passed_on` lets through",
            "the complete environment, except the variables that `passed_on` allows",
        )
    ],
    "P13": [("Of the dataset in all.", "Total epsilon of the dataset.")],
    "P14": [
        (
            "what is under way with a Domain may take yet.",
            "Grace period for in-flight traffic of a leaving Domain; not yet done",
        )
    ],
    "P15": [("A hosted process in the hands of its owner.", "A hosted process, as its owner uses it.")],
}


def rules_of(text: str) -> list[str]:
    return [hit.rule for hit in prose.hits_of("page.md", prose.markdown_texts(text))]


@pytest.mark.parametrize("rule", prose.RULES)
def test_a_rule_finds_its_examples_and_no_corrected_sentence(rule):
    assert EXAMPLES[rule]
    for bad, good in EXAMPLES[rule]:
        assert rule in rules_of(bad)
        assert not rules_of(good)


def test_no_package_has_more_hits_than_its_limit():
    counts = Counter(prose.package_of(hit.path) for hit in prose.find_hits())
    above = {
        package: (count, LIMITS.get(package, 0)) for package, count in counts.items() if count > LIMITS.get(package, 0)
    }
    assert not above, f"more hits than allowed, see `scripts/prose PATH`: {above}"


def test_each_exception_hides_something():
    assert len(prose.EXCEPTIONS) <= 30
    for exception in prose.EXCEPTIONS:
        path = prose.ROOT / exception["path"]
        texts = list((prose.python_texts if path.suffix == ".py" else prose.markdown_texts)(path.read_text()))
        hidden = list(prose.hits_of(exception["path"], texts, [exception]))
        assert len(hidden) < len(list(prose.hits_of(exception["path"], texts))), exception
        assert exception["reason"]


def test_an_exception_hides_its_phrase_only():
    texts = [prose.Text(1, [""], "the server\ngives a number, and it gives more")]
    exceptions = [{"path": "a.py", "phrase": "server gives a number", "reason": "quoted"}]
    assert len(list(prose.hits_of("a.py", texts, exceptions))) == 1
    assert len(list(prose.hits_of("b.py", texts, exceptions))) == 2


SOURCE = '''
"""Module.

    Of the module. It
    gives `gives x` a number.
"""

import re  # beside it

# let it
# in, in two lines
NAME = "gives"
MESSAGE = (
    f"a {NAME} that is told "
    "of it"
)
COUNT = 3
"""Thus."""
'''


def test_python_texts_are_docstrings_comments_and_strings_with_their_lines():
    hits = [(hit.line, hit.rule) for hit in prose.hits_of("a.py", prose.python_texts(SOURCE))]
    assert sorted(hits) == [(4, "P13"), (5, "P04"), (8, "P08"), (10, "P07"), (14, "P05"), (18, "P09")]


PAGE = """
# What it gives

Text with `gives` and
a stranger in it.

    gives: code

```console
gives: code
```

| a | b |
|---|---|
| x | beside |

- item, and it
  gives code: <!-- of what follows -->

      gives: code
"""


def test_markdown_is_read_without_its_code():
    hits = [(hit.line, hit.rule) for hit in prose.hits_of("page.md", prose.markdown_texts(PAGE))]
    assert hits == [(2, "P04"), (5, "P06"), (15, "P08"), (18, "P04")]


def test_a_comment_with_a_reason_exempts_its_paragraph_or_the_next_block():
    assert not rules_of("it gives <!-- prose: ok quoted --> a number")
    assert rules_of("<!-- prose: ok quoted -->\n\n| it gives |\n|---|\n| thus |\n\nit gives") == ["P04"]
    assert rules_of("it gives <!-- prose: ok --> a number") == ["P04"], "a reason is needed"


def test_subjects_of_commits():
    assert not prose.subject_faults("Speed up the mean of many reports")
    assert not prose.subject_faults("Add " + "x" * 56)
    assert prose.subject_faults("Add " + "x" * 57) == ["at most 60 characters, not 61"]
    assert prose.subject_faults("Add a thing.") == ["no final period"]
    (fault,) = prose.subject_faults("Added a thing")
    assert fault.startswith("begin with one of Add, ")
    (fault,) = prose.subject_faults("Let no diff make a model infinite")
    assert "Speed up" in fault
