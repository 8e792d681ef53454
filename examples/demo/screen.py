"""The screen: plain lines; colours only on a terminal, and not where NO_COLOR asks for none."""

import os
import sys

COLOURED = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(code: int, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOURED else text


def bold(text: str) -> str:
    return paint(1, text)


def dim(text: str) -> str:
    return paint(2, text)


def red(text: str) -> str:
    return paint(31, text)


def green(text: str) -> str:
    return paint(32, text)


def say(text: str = "") -> None:
    """One line, at once: several processes write here in turn."""
    print(text, flush=True)


def verdict(good: bool) -> str:  # noqa: FBT001  # what it is about stands before it on the line
    return green("ok") if good else red("LOST")
