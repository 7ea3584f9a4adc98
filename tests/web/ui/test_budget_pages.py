"""The pages of budgets, in process: what is spent, by whom and for which jobs; what a request would cost; grants.

Should happen: the sums of the page are those of the API; a price tells how many such jobs fit; a grant is for one.
Should not happen: what others spent on the page of a scientist; a grant by somebody who does not hold the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pygrid.core.access import DOMAIN_PERMISSIONS
from pygrid.settings import DomainSettings
from support.console import Browser, Page
from support.jobs import Person, Site, running_site

COUNT: dict[str, Any] = {"statistics": [{"kind": "count"}]}


@pytest.fixture
async def site(settings: DomainSettings) -> AsyncIterator[Site]:
    async with running_site(settings) as found:
        yield found


async def browser(site: Site, name: str) -> Browser:
    return await Browser(site.web).sign_in(f"{name}@example.org")


async def spend(site: Site, dataset: int, who: str = "scientist", epsilon: float = 0.5) -> str:
    person = getattr(site, who)
    job = await person.submit(dataset, "statistics", **COUNT, privacy={"epsilon": epsilon, "delta": 1e-6})
    await person.wait(job["id"], "released")
    return str(job["id"])


async def test_a_budget_is_shown_over_time_by_person_and_by_job(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset)
    ann, bob = await browser(site, "owner"), await browser(site, "scientist")
    empty = await ann.page(f"/admin/budgets/{dataset}")
    assert "Nothing was spent" in empty.text
    jobs = [await spend(site, dataset) for _ in range(2)]
    jobs.append(await spend(site, dataset, "stranger", 1.0))
    budget = (await site.owner.call("GET", f"/data-centric/datasets/{dataset}/budget")).json()
    page = await ann.page(f"/admin/budgets/{dataset}")
    (drawn,) = page.find("div", **{"data-chart": "spent"})
    series = json.loads(drawn["data-series"])
    assert series["time"] is True
    assert [one["label"] for one in series["series"]] == ["spent", "limit"]
    values = series["series"][0]["values"]
    assert len(values) == 5, "the opening, three jobs, and now"
    assert values[0] == 0
    assert values == sorted(values)
    assert values[-1] == pytest.approx(budget["spent"], rel=1e-9)
    assert re.search(r"stranger@example.org 0\.\d+ 4 1", page.text), page.text
    assert re.search(r"scientist@example.org 0\.\d+ 4 2", page.text)
    for job in jobs:
        assert page.find("a", href=f"/admin/jobs/{job}")
    assert "The whole dataset" in (await ann.page("/admin/budgets")).text
    # A scientist sees their own share alone.
    own = await bob.page(f"/admin/budgets/{dataset}")
    assert "stranger" not in own.text
    assert not own.find("a", href=f"/admin/jobs/{jobs[2]}")
    points = json.loads(own.find("div", **{"data-chart": "spent"})[0]["data-series"])["series"][0]["values"]
    share = (await site.scientist.call("GET", f"/data-centric/datasets/{dataset}/budget")).json()["yours"]
    assert points[-1] == pytest.approx(share, rel=1e-9)
    assert "Your share" in (await bob.page("/admin/budgets")).text
    assert (await bob.page(f"/admin/budgets/{dataset}?period=week")).find("div", **{"data-chart": "spent"})


async def test_a_price_says_how_many_such_jobs_fit(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, epsilon=2.0, epsilon_per_user=1.0)
    ann, bob = await browser(site, "owner"), await browser(site, "scientist")
    path = f"/admin/budgets/{dataset}?kind=statistics&epsilon=0.5"
    page = await bob.page(path)
    (fitting,) = re.findall(r"(\d+) such jobs fit in your share", page.text)
    assert "in the budget" not in page.text
    owned = (await ann.page(path)).text
    assert re.search(r"\d+ such jobs fit in the budget", owned)
    assert "A person has a share of 1, of which it takes" in owned
    assert f"{fitting} such jobs fit in a share of which nothing is spent" in owned
    assert "your share" not in owned
    for _ in range(int(fitting)):
        await spend(site, dataset)
    assert "0 such jobs fit in your share" in (await bob.page(path)).text
    refused = await site.scientist.call(
        "POST",
        "/data-centric/jobs",
        files={
            "config": json.dumps(
                {
                    "dataset": dataset,
                    "kind": "statistics",
                    "reason": "one more",
                    **COUNT,
                    "privacy": {"epsilon": 0.5, "delta": 1e-6},
                }
            ).encode()
        },
    )
    assert refused.json()["code"] == "budget_exhausted"
    training = await bob.page(f"/admin/budgets/{dataset}?kind=train&epsilon=0.5&epochs=2&batch_size=30")
    assert "in 20 rounds" in training.text
    part = await bob.get(f"{path}&part=price")
    assert part.text.strip().startswith("<div id=")
    for wrong, words in (("epsilon=much", "epsilon is 'much'"), ("kind=magic&epsilon=1", "choose statistics")):
        assert words in (await bob.page(f"/admin/budgets/{dataset}?{wrong}")).text


async def test_a_person_is_given_a_share_of_their_own(site: Site) -> None:
    dataset = await site.owner.upload()
    await site.owner.set_policy(dataset, epsilon=8.0, epsilon_per_user=1.0)
    ann, bob = await browser(site, "owner"), await browser(site, "scientist")
    path = f"/admin/budgets/{dataset}/grants"
    sent = {"email": "Scientist@example.org", "epsilon": "3"}
    assert (await bob.post(path, sent)).status_code == 403
    for wrong, words in (
        ({"epsilon": "9"}, "more than the 8 of the whole dataset"),
        ({"epsilon": "no"}, "the share is 'no'"),
        ({"email": "nobody@example.org"}, "nobody here has the e-mail"),
    ):
        answer = await ann.post(path, {**sent, **wrong})
        assert answer.status_code in (400, 404), answer.text
        assert words in Page.read(answer).text
    assert (await ann.post(path, sent)).status_code == 303
    budget = (await site.scientist.call("GET", f"/data-centric/datasets/{dataset}/budget")).json()
    assert budget["your_cap"] == 3.0
    page = await ann.page(f"/admin/budgets/{dataset}")
    assert "a share of their own" in page.text
    assert len([link for link in page.find("a") if link["href"].startswith("/admin/people/")]) == 1
    await spend(site, dataset, epsilon=2.5)
    assert (await site.stranger.call("GET", f"/data-centric/datasets/{dataset}/budget")).json()["your_cap"] == 1.0
    log = (await ann.page("/admin/audit?action=budget_granted")).text
    assert "scientist" in log or "share" in log


async def test_a_share_does_not_tell_who_has_an_account(site: Site) -> None:
    """A person who uploads data and may not see accounts gets one answer for an account and for none."""
    flags = dict.fromkeys((str(one) for one in DOMAIN_PERMISSIONS), False) | {"can_upload_data": True}
    role = await site.owner.call("POST", "/roles", json={"name": "Uploader", **flags})
    headers = await site.people.with_role(role.json()["role"]["id"], site.owner.headers, "uploader@example.org")
    uploader = Person(site.web, headers)
    dataset = await uploader.upload()
    await uploader.set_policy(dataset)
    eve, path = await browser(site, "uploader"), f"/admin/budgets/{dataset}/grants"
    answers = []
    for email in ("scientist@example.org", "uninvited@example.org"):
        answer = await eve.post(path, {"email": email, "epsilon": "2"})
        answers.append((answer.status_code, Page.read(answer).text.replace(email, "...")))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404
    assert "nobody with a request on your datasets has the e-mail" in answers[0][1]
    # Another person's dataset is no way to see somebody either.
    await site.scientist.submit(await site.owner.upload(), "statistics", **COUNT)
    assert (await eve.post(path, {"email": "scientist@example.org", "epsilon": "2"})).status_code == 404
    await spend(site, dataset)
    assert (await eve.post(path, {"email": "Scientist@example.org", "epsilon": "2"})).status_code == 303
    assert (await site.scientist.budget(dataset))["your_cap"] == 2.0
    assert (await eve.post(path, {"email": "uploader@example.org", "epsilon": "1"})).status_code == 303


async def test_without_a_budget_the_page_says_so(site: Site) -> None:
    dataset = await site.owner.upload()
    ann = await browser(site, "owner")
    assert "has no open budget" in (await ann.page(f"/admin/budgets/{dataset}", 404)).text
    assert "has no budget" in (await ann.page("/admin/budgets")).text
    hidden = await site.owner.upload(name="hidden", visibility="private")
    await site.owner.set_policy(hidden)
    bob = await browser(site, "scientist")
    assert (await bob.get(f"/admin/budgets/{hidden}")).status_code == 404
    assert "hidden" not in (await bob.page("/admin/budgets")).text
    await site.owner.set_policy(hidden, epsilon=8.7654, epsilon_per_user=2.34567)
    form = await ann.page(f"/admin/datasets/{hidden}?tab=budget")
    typed = [form.find("input", name=name)[0]["value"] for name in ("epsilon", "epsilon_per_user")]
    assert typed == ["8.7654", "2.34567"], "saving the form as it is changes nothing"
    assert (await bob.post(f"/admin/budgets/{hidden}/grants", {"email": "a@b.c", "epsilon": "1"})).status_code == 404
