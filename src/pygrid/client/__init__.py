"""SDK for model owners: host a model and its plans on a Domain, watch the training, download what came of it.

import pygrid.client

domain = pygrid.client.connect("https://domain.example").login("ann@example.org", password)
process = domain.host("digits", "1.0", model=params, plans={"training_plan": plan}, server_config={"num_cycles": 5, ...})
process.watch()
params = process.download()
"""

from pygrid.client.credentials import Credentials, credentials_file
from pygrid.client.domain import DomainClient, connect
from pygrid.client.process import Process

__all__ = ["Credentials", "DomainClient", "Process", "connect", "credentials_file"]
