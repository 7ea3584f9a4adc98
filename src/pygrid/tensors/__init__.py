"""Named arrays and their byte format, independent of what the arrays mean."""

from pygrid.tensors.params import Params, apply_diff, make_diff
from pygrid.tensors.safetensors import ArrayEntry, Layout, decode, encode, encode_pieces, parse_header, read_layout

__all__ = [
    "ArrayEntry",
    "Layout",
    "Params",
    "apply_diff",
    "decode",
    "encode",
    "encode_pieces",
    "make_diff",
    "parse_header",
    "read_layout",
]
