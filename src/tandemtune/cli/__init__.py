"""The command line: one file for each group of commands. Only these print, and only here errors become one readable message and
an exit code."""

from tandemtune.cli.app import main

__all__ = ["main"]
