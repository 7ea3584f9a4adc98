"""The messages of PySyft 0.2 that edge clients of 2020 exchange with a Domain: State and Plan, in protobuf.

Source: the definitions of syft-proto 0.4.9 and 0.5.3 (``syft_proto.execution.v1``, ``syft_proto.types``). Fields that
are not listed there are skipped. Nothing is ever unpickled.
"""

from pygrid.syft.plans import Action, PlanMessage, Ref, read_plan, write_plan
from pygrid.syft.states import read_state, state_pieces, write_state

__all__ = ["Action", "PlanMessage", "Ref", "read_plan", "read_state", "state_pieces", "write_plan", "write_state"]
