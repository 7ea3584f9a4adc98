"""Variants of plans, run with numpy in order to check them. No part of a device uses it."""

from pygrid.plans.dialects.interpreter import ActionProgram
from pygrid.plans.dialects.tfjs import tfjs_program
from pygrid.plans.dialects.torch_list import list_program
from pygrid.syft.plans import PlanMessage


def program_of(dialect: str, message: PlanMessage) -> ActionProgram:
    """The program of a list of actions in the dialect ``tfjs`` or ``list``."""
    return tfjs_program(message) if dialect == "tfjs" else list_program(message)
