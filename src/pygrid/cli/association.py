"""``pygrid association``: the Networks that a Domain belongs to, for its Owner."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from pygrid import codes
from pygrid.cli.common import JsonOption, UrlOption, connect
from pygrid.cli.help import App
from pygrid.cli.output import say, say_json, say_table
from pygrid.errors import InvalidInput

app = App("Join and leave Networks with a Domain.\n\nExample: pygrid association list")

INVITATION_VARIABLE = "PYGRID_INVITATION"
_ANSWER_S = 10.0
_LOOK_S = 0.2


@app.command()
def join(
    network: Annotated[str, typer.Argument(metavar="URL", help="Address of the Network.")],
    invited: Annotated[
        bool, typer.Option("--invited", help=f"Use the invitation in {INVITATION_VARIABLE}, or prompt for it.")
    ] = False,
    url: UrlOption = None,
) -> None:
    """Join a Network with the Domain. Owners only.

    The Domain connects to the Network, so it needs no open port. With an invitation it is accepted at once; without
    one, an Owner or Administrator of the Network decides.

    Example: pygrid association join http://127.0.0.1:7000
    """
    from pygrid.plans.text import printable

    invitation = None
    if invited:
        invitation = os.environ.get(INVITATION_VARIABLE) or typer.prompt("Invitation", hide_input=True)
    with connect(url) as domain:
        found = domain.associations.join(network, invitation)
        give_up_at = time.monotonic() + _ANSWER_S
        while found.state == "joining" and not found.reason and time.monotonic() < give_up_at:
            time.sleep(_LOOK_S)
            found = domain.associations.get(found.id)
    # The name and the reason come from an untrusted Network.
    name, reason = printable(found.name or ""), printable(found.reason)
    if found.state == "accepted":
        say(f"the Domain belongs to {name} now ({found.network})")
    elif found.state == "pending":
        say(f"{name} has the request; the Domain belongs to it once an Owner or Administrator of the Network accepts")
    elif found.state == "joining":
        say(f"{found.network} cannot be reached ({reason or 'no answer'}); the Domain keeps trying")
    else:
        raise InvalidInput(f"{found.network} answered {found.state}: {reason}", code=codes.ASSOCIATION_REFUSED)


@app.command("list")
def list_associations(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """List the Networks of the Domain with the state of each association. Owners only.

    Example: pygrid association list
    """
    with connect(url) as domain:
        found = domain.associations()
    say_json(found) if as_json else say_table(found, "the Domain has joined no Network")


@app.command()
def leave(
    network: Annotated[str, typer.Argument(help="Address or name of the Network, or number of the association.")],
    url: UrlOption = None,
) -> None:
    """Leave a Network, which can then no longer search or reach the Domain. Owners only.

    An association that has ended already is deleted.

    Example: pygrid association leave http://127.0.0.1:7000
    """
    with connect(url) as domain:
        left = domain.associations.leave(int(network) if network.isdecimal() else network)
    if left.state == "leaving":
        say(f"{left.network} cannot be reached now; its calls are refused, and it is notified later")
    else:
        say(f"the Domain has left {left.network}")
