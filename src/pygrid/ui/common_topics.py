"""What pages of a Domain and of a Network can follow live."""

from __future__ import annotations

from litestar.datastructures import State

from pygrid.core.access import Permission, Principal
from pygrid.storage.signals import audit_topic, people_topic
from pygrid.ui.feed import Topic
from pygrid.ui.pages.people import SEE_PEOPLE
from pygrid.ui.pages.supervision import SEE_AUDIT
from pygrid.ui.sampling import Sampler
from pygrid.web.services import service


def find_common_topic(state: State, principal: Principal, name: str) -> Topic | None:
    """Return a topic of every app; None: it is unknown, or not for this principal."""
    if name == "audit" and any(map(principal.may, SEE_AUDIT)):
        return Topic((audit_topic(),))
    if name == "people" and any(map(principal.may, SEE_PEOPLE)):
        return Topic((people_topic(),))
    if name == "health" and principal.may(Permission.EDIT_SETTINGS):
        sampler = service(state, Sampler)
        return Topic((), look=lambda: sampler.newest)
    return None
