"""``python -m pygrid`` is ``pygrid``."""

from pygrid.cli import main

main()
