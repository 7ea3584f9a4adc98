"""Bytes on the local disk, named by their content."""
