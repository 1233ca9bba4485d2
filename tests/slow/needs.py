"""What a test needs of the machine beside Python."""

import os
import shutil
from typing import NoReturn

import pytest


def lack(reason: str) -> NoReturn:
    """Skip the test with this line; fail it in CI, where all that is needed is installed."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    raise AssertionError(reason)


def need(command: str, package: str = "") -> str:
    """The path of a command that a package of Debian brings, by default the one of its name."""
    found = shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return found or lack(f"{command} is not installed; `apt-get install {package or command}` brings it")
