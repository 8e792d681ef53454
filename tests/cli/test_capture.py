"""`earnorm capture` and `earnorm audit`, as a shell runs them."""

import json
import textwrap

import pytest
from click.testing import CliRunner

from earnorm.cli import main

SHOP = """
    from earnorm import BaseModel, IntegerField, StringField, connect

    db = connect({url!r})

    class Order(BaseModel):
        id = IntegerField(primary_key=True)
        status = StringField(default="new")
"""


@pytest.fixture
def shop(tmp_path, monkeypatch, url):
    """An application whose tables are there."""
    name = f"shop_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SHOP.format(url=url)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(name)
    module.db.ready()
    yield module
    module.db.close()


def run(*arguments):
    return CliRunner().invoke(main, list(arguments), env={"EARNORM_DATABASE_URL": None})


def app(shop):
    return f"{shop.__name__}:db"


def test_capture_is_installed_listed_and_removed(shop):
    assert "no table is captured" in run("capture", "list", app(shop)).stdout
    assert "orders: captured" in run("capture", "install", app(shop), "orders").stdout
    assert "nothing to do" in run("capture", "install", app(shop), "Order").stdout
    assert "orders: current" in run("capture", "list", app(shop)).stdout
    (found,) = json.loads(run("capture", "list", app(shop), "--json").stdout)
    assert "current" == found["state"]
    assert "orders: no longer captured" in run("capture", "remove", app(shop), "order").stdout


def test_what_cannot_be_captured_ends_with_two(shop):
    told = run("capture", "install", app(shop), "invoices")

    assert (2, "") == (told.exit_code, told.stdout)
    assert "invoices cannot be captured: it is no model known here; known tables: orders" in told.stderr
    assert 2 == run("capture", "install", app(shop)).exit_code
    assert "write module:db" in run("capture", "list", "shop").stderr


def test_audit_ends_with_one_and_the_drift(shop):
    shop.Order(id=1).save()
    shop.Order(id=2).save()
    assert (0, "Order: 2 rows, 0 drifted, 0 not in the log\n") == outcome(run("audit", app(shop), "Order"))
    with shop.db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE orders SET status = 'paid' WHERE id = 2")

    code, told = outcome(run("audit", app(shop), "orders"))
    assert 1 == code
    assert "order:2: differs since position 2 (" in told
    assert "  status: 'new' in the log, 'paid' in the table\norders: 2 rows, 1 drifted, 0 not in the log\n" in told

    code, told = outcome(run("audit", app(shop), "order", "--json"))
    drift, summary = map(json.loads, told.splitlines())
    assert ("order:2", {"status": {"logged": "new", "table": "paid"}}) == (drift["key"], drift["fields"])
    assert (1, {"rows": 2, "drifted": 1, "unlogged": 0}) == (code, summary)


def outcome(told):
    return told.exit_code, told.stdout


def test_audit_of_no_model_ends_with_two(shop):
    told = run("audit", app(shop), "invoices")

    assert 2 == told.exit_code
    assert "'invoices' is no model of the application; its models: order" in told.stderr


def test_the_commands_deliver_nothing(tmp_path, monkeypatch):
    """An application on SQLite has a worker of its own; a command must not become one more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = textwrap.dedent(SHOP.format(url=f"sqlite:///{tmp_path}/quiet.db"))
    (tmp_path / "quiet_shop.py").write_text(source)
    shop = __import__("quiet_shop")
    run("db", "upgrade", app(shop))
    with shop.db.before_ready() as connection:
        shop.Order.metadata.create_all(connection)

    assert "orders: captured" in run("capture", "install", app(shop), "orders").stdout
    assert 0 == run("audit", app(shop), "orders").exit_code
    assert "not running" in repr(shop.db.worker)
