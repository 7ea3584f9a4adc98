"""SDK for model owners, data scientists and data owners::

    import pygrid.client

    domain = pygrid.client.connect("https://domain.example").login("ann@example.org", password)

Host a model, follow its training on devices, and download the result::

    process = domain.host(
        "digits", "1.0", model=params, plans={"training_plan": plan}, server_config={"num_cycles": 5}
    )
    process.watch()
    params = process.download()

Request a job on data that you cannot see::

    job = domain.submit(plan, dataset="patients", model=params, epochs=10, epsilon=3.0, delta=1e-6, reason="...")
    params = job.wait().params()

Serve a model, and request predictions::

    model = domain.serve("digits", "digits.onnx", allow_remote_inference=True)
    scores = model.predict({"x": images})["scores"]

Search all Domains of a Network, and open a result::

    network = pygrid.client.connect_network("https://network.example")
    found = network.search("age income", tags=["oncology"])
    dataset = found.datasets[0].open()

Train a model on the data of several owners::

    run = pygrid.client.federate(
        plan, params, [alice.datasets["cells"], bob.datasets["cells"]],
        coordinator=domain, rounds=20, epsilon=4.0, delta=1e-6, reason="...",
    )
    params = run.wait().model()
"""

from pygrid.client.credentials import Credentials, credentials_file
from pygrid.client.display.messages import register as _show_messages_in_notebooks
from pygrid.client.domain import DomainClient, connect
from pygrid.client.evaluation import HeldOut
from pygrid.client.federation.federate import federate, resume_federated
from pygrid.client.federation.run import FederatedRun
from pygrid.client.image_folders import ImageFolder
from pygrid.client.jobs import Job
from pygrid.client.models import HostedModel
from pygrid.client.network import NetworkClient, connect_network
from pygrid.client.process import Process
from pygrid.client.sql_query import SqlQuery
from pygrid.client.statistics import count, histogram, mean, quantile, variance
from pygrid.client.statistics import sum as sum  # not in __all__: a star import would hide Python's own
from pygrid.configuration import ClientConfig, ServerConfig
from pygrid.configuration.evaluation import EarlyStop

_show_messages_in_notebooks()

__all__ = [
    "ClientConfig",
    "Credentials",
    "DomainClient",
    "EarlyStop",
    "FederatedRun",
    "HeldOut",
    "HostedModel",
    "ImageFolder",
    "Job",
    "NetworkClient",
    "Process",
    "ServerConfig",
    "SqlQuery",
    "connect",
    "connect_network",
    "count",
    "credentials_file",
    "federate",
    "histogram",
    "mean",
    "quantile",
    "resume_federated",
    "variance",
]


def __dir__() -> list[str]:
    return sorted([*__all__, "sum"])
