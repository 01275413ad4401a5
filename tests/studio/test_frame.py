"""What stands around every page."""

import sqlite3

import pytest
from nicegui import Client, app, context, events, ui
from nicegui.page import page

from mlx_ltxw.studio.pages import frame
from mlx_ltxw.studio.store import Store
from tests.studio.drawn import kept


@pytest.fixture
def open_page(monkeypatch):
    """A page that a browser has."""
    monkeypatch.setattr(Client, "instances", {})
    monkeypatch.setattr(app, "_exception_handlers", [])
    client = Client(page("/x"), request=None)
    yield client
    client.delete()


def test_a_press_that_a_full_disk_refuses_is_told_on_the_page(open_page, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(frame, "say", lambda text, bad: said.append((context.client, text, bad)))
    frame.register(None, [])
    store = Store(tmp_path / "studio.db")
    number = store.add_take(kept("000001.mp4", {"kind": "clip", "prompt": "a room", "seeds": [3]}))
    store._db.execute("PRAGMA query_only = 1")
    with open_page:
        button = ui.button("Five stars")
    press = events.ClickEventArguments(sender=button, client=open_page)
    events.handle_event(lambda: store.update_take(number, stars=5), press)
    ((page_of_it, text, bad),) = said
    assert page_of_it is open_page
    assert bad
    assert "studio.db could not be written: " in text
    assert "Free some space" in text
    events.handle_event(lambda: store._db.execute("not SQL"), press)
    assert len(said) == 1  # a fault of ours is the log's
    with pytest.raises(sqlite3.OperationalError):
        store._db.execute("not SQL")
    store.close()
