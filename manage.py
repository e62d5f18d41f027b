#!/usr/bin/env python
"""Django's command line, for this project."""

import os
import signal
import sys
from typing import NoReturn


def stop_at_once(*_: object) -> NoReturn:
    """Ctrl-C before there is anything to drain. Raised as an exception, it would end in a traceback
    out of whichever library is being imported."""
    os.write(2, b"llmapi: Stopped.\n")
    os._exit(0)


def main() -> None:
    if sys.argv[1:2] == ["serve"] and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop_at_once)  # until there is a server
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
