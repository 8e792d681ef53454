"""`earnorm dead` and `earnorm prune`, as a shell runs them."""

import json
import textwrap

import pytest
from click.testing import CliRunner

from earnorm import connect, emit
from earnorm.cli import main

# Its handler kills every letter: what it is given can never be printed.
SHOP = """
    from earnorm import connect, event_handler
    from earnorm.errors import PayloadError

    db = connect({url!r}, worker=False, retention={retention!r})

    @event_handler("order.*", name="print")
    def print_(event, *, number):
        raise PayloadError("number", number, f"there is no paper\\x1b[31m\\nfor {{number}}")
"""


@pytest.fixture
def shop(tmp_path, monkeypatch, url):
    """An application with three dead letters."""
    yield from application(tmp_path, monkeypatch, url, "30d")


def application(folder, monkeypatch, url, retention):
    name = f"shop_{folder.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(textwrap.dedent(SHOP.format(url=url, retention=retention)))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    module = __import__(name)
    for number, event in enumerate(["order.paid", "order.paid", "order.sent"], start=1):
        with module.db.transaction():
            emit(event, number=number)
    module.db.drain()
    yield module
    module.db.close()


def run(url, *words):
    return CliRunner().invoke(main, list(map(str, words)), env={"EARNORM_DATABASE_URL": url})


def listed(url, *words):
    told = run(url, "dead", "list", "--json", *words)
    assert 0 == told.exit_code, told.output
    return json.loads(told.stdout)


def refused(url, *words):
    told = run(url, *words)
    assert 2 == told.exit_code
    return told.stderr.splitlines()[-1]


pytestmark = pytest.mark.expect_failures


# --- list and show ---


def test_dead_letters_are_listed_for_the_eye(shop, url):
    told = run(url, "dead", "list")

    heads, first, *_, count = told.stdout.splitlines()
    assert (0, "3 dead letters") == (told.exit_code, count)
    assert ["ID", "DIED", "ATTEMPT", "HANDLER", "EVENT", "KEY", "ERROR"] == heads.split()
    assert "order.paid" in first
    assert "\x1b" not in told.stdout
    assert "PayloadError" in first


def test_dead_letters_are_listed_for_programs(shop, url):
    found = listed(url)

    assert 3 == found["count"]
    assert ["order.paid", "order.paid", "order.sent"] == [letter["event"] for letter in found["dead"]]
    assert {
        "id",
        "died",
        "attempt",
        "handler",
        "event",
        "event_id",
        "key",
        "error",
        "fingerprint",
    } == set(found["dead"][0])


def test_dead_letters_are_chosen_by_handler_event_error_and_time(shop, url):
    first = listed(url)["dead"][0]

    assert 2 == listed(url, "--event", "order.paid")["count"]
    assert 1 == listed(url, "--event", first["event_id"])["count"]
    assert 3 == listed(url, "--handler", "print", "--error", "there is no paper", "--since", "1h")["count"]
    assert 0 == listed(url, "--handler", "nobody")["count"]
    assert 3 == listed(url, "--error", first["fingerprint"])["count"]
    assert 0 == listed(url, "--since", "2100-01-01")["count"]
    assert "0 dead letters" == run(url, "dead", "list", "--error", "nothing").stdout.strip()


def test_a_long_list_says_what_it_leaves_out(shop, url):
    told = run(url, "dead", "list", "--limit", 2)

    assert "3 dead letters, of which 2 are shown; narrow it, or give --limit" == told.stdout.splitlines()[-1]
    assert (3, 2) == (listed(url, "--limit", 2)["count"], len(listed(url, "--limit", 2)["dead"]))


def test_one_dead_letter_is_shown_whole(shop, url):
    letter = listed(url)["dead"][0]

    told = run(url, "dead", "show", letter["id"])
    shown = json.loads(run(url, "dead", "show", letter["id"], "--json").stdout)

    assert f"dead letter {letter['id']}" in told.stdout
    assert letter["event_id"] in told.stdout
    assert '{"number": 1}' in told.stdout
    assert "print_" in told.stdout
    assert {"number": 1} == shown["data"]["payload"]
    assert shown["text"].startswith(shown["error"])
    assert f"error    {letter['fingerprint']}" in told.stdout
    (made,) = shown["attempts"]
    assert (1, letter["fingerprint"], shown["error"]) == (made["number"], made["fingerprint"], made["error"])
    assert "print_" in made["traceback"]
    assert "attempt 1, " in told.stdout


def test_what_is_no_dead_letter_is_told(shop, url):
    told = run(url, "dead", "show", 4711)

    assert 1 == told.exit_code
    assert "there is no dead letter 4711" in told.stderr
    assert "give the id of one dead letter" in refused(url, "dead", "show")
    assert "'x' is no id of a dead letter" in refused(url, "dead", "show", "shop:db", "x")
    assert "'soon' is no moment" in refused(url, "dead", "list", "--since", "soon")


# --- retry and discard ---


def test_chosen_letters_are_retried(shop, url):
    first, second, third = (letter["id"] for letter in listed(url)["dead"])

    told = run(url, "dead", "retry", first, third)

    assert (0, "2 dead letters retried\n") == (told.exit_code, told.stdout)
    assert [second] == [letter["id"] for letter in listed(url)["dead"]]
    shop.db.drain()
    assert {first: 2, second: 1, third: 2} == {letter["id"]: letter["attempt"] for letter in listed(url)["dead"]}


def test_letters_of_a_handler_that_was_retired_stay(shop, url):
    """They were said to be retried, and were gone: open deliveries that nobody comes for and that no list shows."""
    assert 0 == run(url, "handlers", "retire", "print").exit_code

    told = run(url, "dead", "retry", "--handler", "print")

    assert (1, "0 dead letters retried\n") == (told.exit_code, told.stdout)
    assert "of print nothing can be retried, since it was retired" in told.stderr
    assert 3 == listed(url)["count"]
    assert 0 == run(url, "dead", "discard", "--handler", "print").exit_code
    assert 0 == listed(url)["count"]


@pytest.mark.parametrize("option", ["--handler", "--event", "--error"])
def test_an_empty_text_chooses_nothing_and_not_everything(shop, url, option):
    """`--error "$WHAT"`, where that was never set, discarded every dead letter there was."""
    assert "it is empty" in refused(url, "dead", "discard", option, "")
    assert 3 == listed(url)["count"]


def test_letters_are_discarded_by_what_they_have_in_common(shop, url):
    assert {"discarded": 2} == json.loads(run(url, "dead", "discard", "--event", "order.paid", "--json").stdout)
    assert ["order.sent"] == [letter["event"] for letter in listed(url)["dead"]]


def test_the_application_may_be_named_instead(shop, url):
    app = f"{shop.__name__}:db"
    (letter, *_) = listed(url)["dead"]

    assert 3 == listed(None, app)["count"]
    assert "1 dead letter discarded" in run(None, "dead", "discard", app, letter["id"]).stdout
    assert 0 == run(None, "dead", "show", app, letter["id"] + 1).exit_code


def test_all_of_them_takes_saying_so_twice(shop, url):
    assert "say which" in refused(url, "dead", "discard")
    assert "say which" in refused(url, "dead", "discard", "--all", "--handler", "print", "--yes")
    assert "--all means 3 dead letters here; add --yes if that is meant" in refused(url, "dead", "discard", "--all")
    assert 3 == listed(url)["count"]

    assert "3 dead letters discarded" in run(url, "dead", "discard", "--all", "--yes").stdout
    assert 0 == listed(url)["count"]


def test_an_id_that_is_not_there_ends_with_one(shop, url):
    first = listed(url)["dead"][0]["id"]

    told = run(url, "dead", "retry", first, 4711)

    assert (1, "1 dead letter retried\n") == (told.exit_code, told.stdout)
    assert "there is no dead letter 4711" in told.stderr


@pytest.mark.parametrize("verb", ["show", "retry", "discard"])
@pytest.mark.usefixtures("shop")
def test_so_does_a_number_that_no_row_can_have(url, verb):
    told = run(url, "dead", verb, 2**63)

    assert 1 == told.exit_code
    assert f"there is no dead letter {2**63}" in told.stderr


def test_a_server_that_is_not_there_ends_with_three():
    told = run("postgresql://127.0.0.1:1/shop", "dead", "list")

    assert 3 == told.exit_code
    assert "Connection refused" in told.stderr
    assert "under way" not in told.stderr
    assert "sqlalche.me" not in told.stderr


def test_a_database_without_tables_ends_with_one(tmp_path):
    (tmp_path / "empty.db").touch()

    told = run(f"sqlite:///{tmp_path}/empty.db", "dead", "list")

    assert 1 == told.exit_code
    assert "earnorm db upgrade" in told.stderr
    assert 3 == run(f"sqlite:///{tmp_path}/none.db", "dead", "list").exit_code


# --- prune ---


def test_old_events_are_counted_and_pruned(shop, url):
    assert "0 events pruned" in run(url, "prune").stdout
    assert "3 events would be pruned" in run(url, "prune", "--older-than", "0", "--dry-run").stdout
    told = run(url, "prune", "--older-than", "0s", "--batch", 2, "--json")
    assert {"pruned": 3, "dry_run": False, "older_than_seconds": 0.0} == json.loads(told.stdout)
    assert 3 == listed(url)["count"]
    assert "'a while' is no duration" in refused(url, "prune", "--older-than", "a while")


def test_pruning_keeps_to_the_retention_of_the_application(tmp_path, monkeypatch, url):
    for shop in application(tmp_path, monkeypatch, url, None):
        app = f"{shop.__name__}:db"
        assert "keeps events for ever (retention=None); say --older-than" in refused(None, "prune", app)
        assert "3 events pruned" in run(None, "prune", app, "--older-than", "0").stdout


def test_an_application_s_own_retention_is_the_default(tmp_path, monkeypatch, url):
    for shop in application(tmp_path, monkeypatch, url, 0):
        assert "3 events pruned" in run(None, "prune", f"{shop.__name__}:db").stdout


def test_nothing_is_delivered_by_a_look(tmp_path, monkeypatch, url):
    for shop in application(tmp_path, monkeypatch, url, "1d"):
        with shop.db.transaction():
            emit("order.paid", number=4)
        run(None, "dead", "list", f"{shop.__name__}:db")
        run(url, "prune")

        with shop.db.store.begin(readonly=True) as t:
            assert min(cursor.position for cursor in t.cursors()) < t.horizon()


def test_a_database_of_the_environment_is_left_alone_by_connect(shop, url):
    """The commands read with engines of their own; the application may be connected beside them."""
    with connect(url, worker=False, name="beside") as beside:
        assert 3 == listed(url)["count"] == beside.operations.count_dead()
