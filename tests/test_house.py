"""The house keeps its own rules: short files, named doors, nothing of one machine, types that ship."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import earnorm.events

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "earnorm"
ROOMS = ("src", "tests", "examples", "benchmarks", "docs", "tools", "changelog.d", ".ci")

LONGEST = 400
LONG_FOR_A_REASON = {"errors.py": "the error tree is one page, so that all of it is seen at once"}

# Put together from pieces, so that this file is not its own first finding.
HOSTS = [".".join(pieces) for pieces in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))]
PLACES = [f"/{folder}/" for folder in ("work", "root", "home")]
FOREIGN = re.compile("|".join([re.escape(word) for word in HOSTS] + [rf"(?<![\w.~]){place}" for place in PLACES]))

SWITCHED_OFF = re.compile(r"#\s*(?:type: ignore|pyright: ignore|noqa)\b(?P<rest>.*)")
REASON = re.compile(r"(?:\[[\w\-, ]+\]|:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)\s{2,}(?:#\s*)?\S+")


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def public_modules() -> list[Path]:
    return [path for path in sources() if speaks(path) if path.name == "__init__.py" or not path.name.startswith("_")]


def speaks(path: Path) -> bool:
    """Whether a file holds more than its opening sentence: a package may be no more than a folder with a name."""
    return len(ast.parse(path.read_text()).body) > 1


def files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and (path.suffix in {".md", ".toml", ".yml"}))
    yield from (ROOT / "Makefile", ROOT / ".gitignore")
    for room in ROOMS:
        yield from (p for p in (ROOT / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def name(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def exported(path: Path) -> list[str] | None:
    for statement in ast.parse(path.read_text()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                return list(ast.literal_eval(value))
    return None


def constants_classes_functions(word: str) -> tuple[bool, bool, str]:
    return (not word.isupper(), not word.lstrip("_")[:1].isupper(), word)


@pytest.mark.parametrize("path", sources(), ids=name)
def test_a_module_opens_by_saying_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", sources(), ids=name)
def test_a_module_ends_before_it_tires_the_reader(path):
    lines = len(path.read_text().splitlines())

    assert lines <= LONGEST or name(path) in LONG_FOR_A_REASON


def test_the_event_words_stand_in_the_specs_own_module_too():
    words = {word for word in earnorm.__all__ if not _is_of_models(getattr(earnorm, word))} - {"EarnORMError"}

    assert words == set(earnorm.events.__all__)
    assert all(getattr(earnorm, word) is getattr(earnorm.events, word) for word in words)


def _is_of_models(word: object) -> bool:
    return getattr(word, "__module__", "earnorm.orm").startswith(("earnorm.orm", "earnorm.tenant"))


@pytest.mark.parametrize("path", public_modules(), ids=name)
def test_a_public_module_lists_what_it_offers_in_order(path):
    offered = exported(path)

    assert offered is not None
    assert sorted(set(offered), key=constants_classes_functions) == offered


def test_every_public_name_stands_in_the_reference():
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").rglob("*.md"))
    documented = set(re.findall(r"^::: earnorm\.(?:\w+\.)*(\w+)$", pages, flags=re.MULTILINE))

    assert [] == [word for word in exported(SOURCE / "__init__.py") or [] if word not in documented]


def test_nothing_here_knows_the_machine_it_was_written_on():
    findings = [
        f"{path.relative_to(ROOT)}:{number}: {found[0]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if (found := FOREIGN.search(line))
    ]

    assert [] == findings


def test_what_is_switched_off_says_why():
    findings = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files()
        if path.suffix == ".py"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (off := SWITCHED_OFF.search(line)) and not REASON.match(off["rest"].lstrip(" "))
    ]

    assert [] == findings


def test_a_lint_rule_that_is_off_says_why():
    text = (ROOT / "pyproject.toml").read_text()
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    rules = {*lint["ignore"], *(rule for rules in lint["per-file-ignores"].values() for rule in rules)}

    explained = set(re.findall(r'^    "(\w+)",  # \S+', text, flags=re.MULTILINE))
    assert set() == rules - explained


def test_the_wheel_tells_type_checkers_that_it_is_typed():
    shipped = {included.distribution_path for included in WheelBuilder(str(ROOT)).recurse_included_files()}

    assert "earnorm/py.typed" in shipped
    assert "earnorm/errors.py" in shipped


def test_the_package_needs_only_what_it_uses():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[\[<>=~! ]", need, maxsplit=1)[0] for need in metadata["dependencies"]}
    imported = {
        node.module.split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0]
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module and not node.level)
    }

    # aiosqlite is SQLAlchemy's to import, from the address of an asynchronous SQLite database.
    assert needed == (imported & needed) | {"aiosqlite"}
