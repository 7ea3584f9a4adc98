"""The configuration of a process: what the Domain does in a cycle, and what devices do.

    server       `ServerConfig`: how the Domain runs the cycles
    client       `ClientConfig`: how devices train in a cycle
    schedules    `Schedule`: a value for each cycle

Each class is used in Python and describes the JSON object of the same fields. `read_server_config` and
`read_client_config` read that.
"""

from pygrid.aggregation.optimizers import ServerOptimizer
from pygrid.aggregation.rules import Aggregation
from pygrid.configuration.client import ClientConfig, read_client_config
from pygrid.configuration.evaluation import EarlyStop, Evaluation
from pygrid.configuration.schedules import Schedule
from pygrid.configuration.server import Authentication, ServerConfig, read_server_config

__all__ = [
    "Aggregation",
    "Authentication",
    "ClientConfig",
    "EarlyStop",
    "Evaluation",
    "Schedule",
    "ServerConfig",
    "ServerOptimizer",
    "read_client_config",
    "read_server_config",
]
