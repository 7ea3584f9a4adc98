"""Tickets of Domains: good for one Network, one target and a minute; anything else is refused."""

from __future__ import annotations

import base64
import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygrid.errors import InvalidCredentials
from pygrid.transport.identity import Identity
from pygrid.transport.tickets import check_ticket, make_ticket, read_ticket

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
NETWORK, OTHER_NETWORK = Identity.make().key, Identity.make().key
DOMAIN, STRANGER = Identity.make(), Identity.make()


def ticket():
    return make_ticket(DOMAIN, NETWORK, "a", "b", NOW)


def refused_why(text, *, bearer=DOMAIN.key, network=NETWORK, target="b", now=NOW):
    with pytest.raises(InvalidCredentials) as refused:
        check_ticket(read_ticket(text), bearer, network, target, now)
    assert refused.value.code == "invalid_ticket"
    return refused.value.detail


def changed(**fields):
    content = json.loads(base64.urlsafe_b64decode(ticket().removeprefix("ticket.") + "=="))
    return "ticket." + base64.urlsafe_b64encode(json.dumps({**content, **fields}).encode()).decode().rstrip("=")


def test_a_ticket_opens_what_it_was_made_for():
    read = read_ticket(ticket())
    assert (read.domain, read.target) == ("a", "b")
    check_ticket(read, DOMAIN.key, NETWORK, "b", NOW)
    check_ticket(read, DOMAIN.key, NETWORK, "b", NOW + dt.timedelta(seconds=59))
    # Clocks that differ by less than some minutes do no harm.
    check_ticket(read, DOMAIN.key, NETWORK, "b", NOW - dt.timedelta(seconds=200))


def test_and_nothing_else():
    assert "another Domain" in refused_why(ticket(), target="c")
    assert "expired" in refused_why(ticket(), now=NOW + dt.timedelta(seconds=61))
    assert "expired" in refused_why(ticket(), now=NOW - dt.timedelta(seconds=300))
    assert "signature is not valid" in refused_why(ticket(), network=OTHER_NETWORK)
    assert "signature is not valid" in refused_why(ticket(), bearer=STRANGER.key)
    assert "signature is not valid" in refused_why(make_ticket(STRANGER, NETWORK, "a", "b", NOW))


def test_what_was_changed_is_noticed():
    assert "signature is not valid" in refused_why(changed(domain="x"))
    assert "signature is not valid" in refused_why(changed(target="c"), target="c")
    assert "signature is not valid" in refused_why(changed(expires=int(NOW.timestamp()) + 200))
    assert "signature has another form" in refused_why(changed(signature=""))
    assert "signature has another form" in refused_why(changed(signature="ä"))
    for expires in (-1, 2**53, "soon", None, 1.5):
        assert "another form" in refused_why(changed(expires=expires))
    assert "another form" in refused_why(changed(more=1))


@given(
    st.one_of(
        st.text(max_size=50),
        st.text(max_size=50).map("ticket.".__add__),
        st.binary(max_size=60).map(lambda data: "ticket." + base64.urlsafe_b64encode(data).decode()),
    )
)
def test_any_other_text_is_refused(text):
    with pytest.raises(InvalidCredentials):
        read_ticket(text)


def test_a_text_without_end_is_refused():
    with pytest.raises(InvalidCredentials):
        read_ticket("ticket." + "A" * 10_000_000)
