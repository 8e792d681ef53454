"""The reference pages that are made from the code say what the code says."""

from pathlib import Path

import pytest

from tools import reference

PAGES = Path(__file__).parent.parent / "docs" / "reference"


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_made_from_the_code_is_current(name):
    made = reference.PAGES[name]()

    assert made == (PAGES / name).read_text(), "run: python tools/reference.py"


def test_every_option_is_described_and_placed_in_its_phases():
    page = (PAGES / "options.md").read_text()

    assert [] == [name for name in reference.Options.__slots__ if page.count(f"\n| `{name}` |") != 2]


def test_every_error_stands_on_its_page():
    from earnorm import errors

    page = (PAGES / "errors.md").read_text()

    assert [] == [name for name in errors.__all__ if name != "Fault" and name not in page]
