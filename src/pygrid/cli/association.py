"""``pygrid association``: the Networks of a Domain, for those who run it."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from pygrid import codes
from pygrid.cli.common import UrlOption, friendly
from pygrid.cli.output import say, say_json
from pygrid.errors import InvalidInput

app = typer.Typer(help="The Networks of a Domain: join, look, leave.", no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
INVITATION_VARIABLE = "PYGRID_INVITATION"
_ANSWER_S = 10.0
_LOOK_S = 0.2


@app.command()
@friendly
def join(
    network: Annotated[str, typer.Argument(help="Address of the Network.")],
    invited: Annotated[
        bool, typer.Option("--invited", help=f"Hand in the invitation in {INVITATION_VARIABLE}, or asked for here.")
    ] = False,
    url: UrlOption = None,
) -> None:
    """Have the Domain ask a Network to let it in. It dials out, so it needs no open port. For Owners.

    With an invitation it is accepted at once; without, those who run the Network decide.

    Example: pygrid association join http://127.0.0.1:7000
    """
    from pygrid.client import connect
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
    # What a stranger's Network calls itself, and why it refuses.
    name, reason = printable(found.name or ""), printable(found.reason)
    if found.state == "accepted":
        say(f"the Domain belongs to {name} now ({found.network})")
    elif found.state == "pending":
        say(f"{name} has the request; the Domain belongs to it once those who run it accept")
    elif found.state == "joining":
        say(f"{found.network} was not reached yet ({reason or 'no answer'}); the Domain goes on trying")
    else:
        raise InvalidInput(f"{found.network} says {found.state}: {reason}", code=codes.ASSOCIATION_REFUSED)


@app.command("list")
@friendly
def list_associations(url: UrlOption = None, as_json: Json = False) -> None:
    """List the Networks of the Domain, and how it stands with each. For Owners.

    Example: pygrid association list
    """
    from pygrid.cli.output import print_table
    from pygrid.client import connect

    with connect(url) as domain:
        found = domain.associations()
    say_json(found) if as_json else print_table(found, "the Domain has joined no Network")


@app.command()
@friendly
def leave(
    network: Annotated[str, typer.Argument(help="Address or name of the Network, or the number of the association.")],
    url: UrlOption = None,
) -> None:
    """Leave a Network: it can search and reach the Domain no more. One that was left already is forgotten. For Owners.

    Example: pygrid association leave http://127.0.0.1:7000
    """
    from pygrid.client import connect

    with connect(url) as domain:
        left = domain.associations.leave(int(network) if network.isdecimal() else network)
    if left.state == "leaving":
        say(f"{left.network} can't be told now; it is answered no more, and told when it is there")
    else:
        say(f"the Domain has left {left.network}")
