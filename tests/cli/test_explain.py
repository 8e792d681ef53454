"""`earnorm explain`, as a shell runs it."""

import json
import textwrap

import pytest
from click.testing import CliRunner

from earnorm.cli import main

SHOP = """
    from earnorm import BaseModel, StringField, connect, event_handler, on_event, pre_save

    db = connect("sqlite:///shop.db")

    class Order(BaseModel):
        status = StringField(default="new")

        @pre_save(priority=2)
        def tidy(self): ...

        @on_event("status_change")
        def watch(self, old_status, new_status): ...

    @event_handler("order.created", group="mail", when=lambda order: order.status == "new")
    def welcome(order): ...

    @event_handler("day.ended")
    def count(event): ...
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    name = f"shop_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SHOP))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    __import__(name).db.close()


def run(shop, *words):
    return CliRunner().invoke(main, ["explain", f"{shop}:db", *words], env={"EARNORM_DATABASE_URL": None})


def test_an_event_is_shown_with_its_handlers_in_order_and_where_they_stand(shop):
    told = run(shop, "order.updated")

    assert 0 == told.exit_code
    name, heads, *rows = told.stdout.splitlines()
    assert ("order.updated", ["MOMENT", "HANDLER", "WRITTEN", "AS", "WHERE"]) == (name, heads.split())
    assert [
        f"before the SQL {shop}.Order.tidy pre_save",
        f"in the transaction {shop}.Order.watch on_event status_change",
    ] == [" ".join(row.split()[:-1]) for row in rows]
    assert rows[0].endswith(f"{shop}.py:9")


@pytest.mark.parametrize("model", ["Order", "order", "orders"])
def test_a_model_is_shown_by_all_its_events(shop, model):
    found = json.loads(run(shop, model, "--json").stdout)

    assert ["order.created", "order.updated", "order.deleted"] == [event["event"] for event in found]
    assert {
        "moment": "durable",
        "handler": f"{shop}.welcome",
        "decorator": "event_handler",
        "events": ["order.created"],
        "fields": [],
        "priority": 0,
        "conditional": True,
        "group": "mail",
    } == {key: value for key, value in found[0]["handlers"][-1].items() if key != "source"}
    assert [2, ["status"]] == [found[1]["handlers"][0]["priority"], found[1]["handlers"][1]["fields"]]


def test_without_a_name_everything_is_shown_and_no_database_is_made(shop, tmp_path):
    told = run(shop)

    shown = [part.splitlines()[0] for part in told.stdout.split("\n\n")]
    assert ["order.created", "order.updated", "order.deleted", "day.ended"] == shown
    assert not (tmp_path / "shop.db").exists()


def test_an_event_that_nobody_hears_says_so(shop):
    assert "order.lost\nnobody hears it\n" == run(shop, "order.lost").stdout


def test_what_is_no_name_ends_with_two(shop):
    told = run(shop, "order lost")

    assert (2, "") == (told.exit_code, told.stdout)
    assert "is no event name" in told.stderr
