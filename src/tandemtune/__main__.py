"""``python -m tandemtune``."""

from tandemtune.cli import main

main()
