"""A sandbox for this process, which it cannot leave; enter it before any untrusted bytes are read."""

from pygrid.sandbox.linux import (
    NOBODY,
    Layers,
    Limits,
    Output,
    apply,
    close_descriptors,
    die_with_parent,
    open_empty_folder,
)

__all__ = ["NOBODY", "Layers", "Limits", "Output", "apply", "close_descriptors", "die_with_parent", "open_empty_folder"]
