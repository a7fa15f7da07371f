"""The command ``arc``, in this interpreter's process."""

import signal
import sys

from arc_encoder._native import command_line


def main() -> int:
    """Does what the command line says, and returns the exit code."""
    # Python would note a Ctrl-C and act on it after the command; the command line has a handler of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return command_line(sys.argv[1:], [sys.executable, "-m", "arc_encoder"])
