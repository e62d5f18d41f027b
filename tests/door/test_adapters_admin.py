"""The admin page of adapters: the same rules as the API, by forms."""

import html
import threading

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.db import connection
from django.urls import reverse

from accounts.models import User
from llmapi.models import Adapter
from llmapi.services import models

LIST, ADD = "/admin/llmapi/adapter/", "/admin/llmapi/adapter/add/"
ZH = {"name": "zh", "path": "zh"}


@pytest.fixture
def page(start, adapters_dir, client):
    """Django's test client, signed in as a staff user who may see, add and remove adapters."""
    boss = User.objects.create_user("boss", is_staff=True)
    rights = ("view_adapter", "add_adapter", "delete_adapter")
    boss.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client.force_login(boss)
    return client


@pytest.fixture
def client():
    """Django's own, in place of the door's."""
    from django.test import Client

    return Client()


def text(response) -> str:
    return html.unescape(response.content.decode())


def remove(page, *names):
    rows = [str(row.pk) for row in Adapter.objects.filter(name__in=names)]
    return text(page.post(LIST, {"action": "remove", "_selected_action": rows}, follow=True))


def test_the_form_offers_directories_and_serves_what_is_chosen(start, page, adapters_dir):
    (adapters_dir / "more" / "deep").mkdir(parents=True)
    (adapters_dir / "more" / "deep" / "adapter_config.json").write_text("{}")
    (adapters_dir / "bare").mkdir()
    start()
    form = text(page.get(ADD))
    for offered in ("law", "zh", "more/deep"):
        assert f'<option value="{offered}">' in form
    assert 'value="bare"' not in form
    body = text(page.post(ADD, ZH, follow=True))
    assert "was added successfully" in body
    assert models.adapters.serves("zh")
    row = Adapter.objects.get()
    assert (row.name, row.path, row.added_by.username) == ("zh", "zh", "boss")
    entry = LogEntry.objects.get()  # one, by the service
    assert (entry.user.username, entry.object_repr) == ("boss", "zh")


def test_the_list_tells_what_is_served_and_what_failed(start, page, adapters_dir):
    start({"house": "/models/house"})
    page.post(ADD, ZH)
    page.post(ADD, {"name": "law", "path": "law"})
    (adapters_dir / "law" / "adapter_config.json").unlink()
    models.stop()
    start({"house": "/models/house"})
    body = text(page.get(LIST))
    assert "the settings (LLMAPI_LORA_MODELS)" in body
    assert "<td>house</td><td>served</td>" in body
    assert '<td class="field-state">served</td>' in body
    assert "<td class=\"field-state\">failed: The directory of adapters has no 'law'" in body
    row = Adapter.objects.get(name="law")
    one = text(page.get(reverse("admin:llmapi_adapter_change", args=[row.pk])))
    assert "failed: The directory of adapters" in one
    assert 'name="_save"' not in one


def test_what_the_engine_refuses_is_told_beside_the_form(start, page, engine):
    start()
    engine.refused = {"zh": "It was made for another model."}
    body = text(page.post(ADD, ZH))
    assert "It was made for another model." in body
    assert '<option value="zh" selected>' in body
    assert not Adapter.objects.exists()
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "base", "path": "zh"}, "The name 'base' is taken"),
        ({"name": "z h", "path": "zh"}, "is no name of a model"),
        ({"name": "zh", "path": "../outside"}, "is not one of the available choices"),
        ({"name": "", "path": "zh"}, "This field is required"),
    ],
)
def test_a_form_that_is_wrong_says_what(start, page, engine, data, words):
    start()
    assert words in text(page.post(ADD, data))
    assert engine.heard == [[]]


def test_a_name_twice_is_told_beside_the_form(start, page):
    start()
    page.post(ADD, ZH)
    assert "already exists" in text(page.post(ADD, {"name": "zh", "path": "law"}))
    assert Adapter.objects.get().path == "zh"


def test_without_a_directory_the_form_says_how_to_have_one(start, page, settings):
    start()
    settings.LLMAPI = settings.LLMAPI.model_copy(update={"adapters_dir": None})
    for response in (page.get(ADD, follow=True), page.post(ADD, ZH, follow=True)):
        assert "LLMAPI_ADAPTERS_DIR" in text(response)
    assert not Adapter.objects.exists()


def test_others_may_write_while_the_engine_loads(start, page, engine):
    """Django's own form view holds a transaction, and SQLite has one writer."""
    start()
    engine.may_load.clear()
    asked = threading.Thread(target=post_and_close, args=(page,))
    asked.start()
    while models.adapters.status("zh") is None:
        assert asked.is_alive()
    User.objects.create_user("meanwhile")
    assert asked.is_alive()
    engine.may_load.set()
    asked.join(30)
    assert Adapter.objects.get().name == "zh"


def post_and_close(page):
    page.post(ADD, ZH)
    connection.close()


def test_removing_goes_by_the_action_alone(start, page):
    start(None)
    page.post(ADD, ZH)
    page.post(ADD, {"name": "law", "path": "law"})
    models.stop()
    start(None, {"gpt-4": "law"})
    assert "delete_selected" not in text(page.get(LIST))
    row = Adapter.objects.get(name="zh")
    gone = page.post(reverse("admin:llmapi_adapter_delete", args=[row.pk]), {"post": "yes"})
    assert gone.status_code == 403
    body = remove(page, "zh", "law")
    assert "'zh' answers no new request." in body
    assert "The alias 'gpt-4' stands for the adapter 'law'" in body
    assert [row.name for row in Adapter.objects.all()] == ["law"]
    assert (models.adapters.serves("zh"), models.adapters.serves("law")) == (False, True)
    assert LogEntry.objects.filter(object_repr="zh").count() == 2


def test_who_is_not_staff_sees_nothing(start, adapters_dir, client, user):
    start()
    client.force_login(user)
    for response in (client.get(LIST), client.get(ADD), client.post(ADD, ZH)):
        assert response.status_code == 302
        assert response.url.startswith("/admin/login/")
    assert not Adapter.objects.exists()


@pytest.mark.parametrize(
    ("right", "lists", "adds"),
    [
        (None, 403, 403),
        ("view_adapter", 200, 403),
        ("add_adapter", 403, 200),
        ("delete_adapter", 403, 403),
    ],
)
def test_staff_see_and_do_what_their_rights_say(start, adapters_dir, client, right, lists, adds):
    start()
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename=right))
    client.force_login(clerk)
    Adapter.objects.create(name="law", path="law", added_by=clerk)
    assert client.get(LIST).status_code == lists
    assert client.get(ADD).status_code == adds
    remove(client, "law")
    assert Adapter.objects.exists()
    shown = "/admin/llmapi/adapter/" in text(client.get("/admin/"))
    assert shown == (200 in (lists, adds))
