"""The askers of the matrix in flesh: users, their keys and sessions, and what alice and bob own."""

import json
import re
import secrets
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group
from django.test import Client as Browser
from django.utils import timezone

from accounts import keys
from accounts.models import AuditEvent, Invitation, Scope, User
from accounts.services import key_create, key_revoke, playground_key_create
from conversations.models import Completion, Conversation, Label, Message, ServerProcess
from llmapi.models import Adapter
from tests.door.askers import ALICES_CHAT, BOTH, CHAT, SESSIONS, Line
from tests.door.client import Answer, call

CSRF = "c" * 32


class World:
    """The askers, and their objects."""

    def __init__(self) -> None:
        self.owner = User.objects.create_user("alice")
        self.users = {
            "owner": self.owner,
            "another user": User.objects.create_user("bob"),
            "staff without rights": User.objects.create_user("helper", is_staff=True),
            "superuser": User.objects.create_superuser("boss"),
        }
        gone = User.objects.create_user("gone")
        self.sessions = {name: self.session(user) for name, user in self.users.items()}
        self.sessions["session, no key"] = self.session(self.owner)
        self.sessions["session of a user not active"] = self.session(gone)
        self.sessions["owner, no CSRF token"] = self.sessions["owner"]
        self.keys = {name: key_create(user=user)[1] for name, user in self.users.items()}
        self.keys["key, no session"] = self.keys["owner"]
        self.keys["malformed key"] = "sk-123"
        self.keys["unknown key"] = keys.new_key().text
        self.keys["the playground's key"] = playground_key_create(self.owner)
        revoked, self.keys["revoked"] = key_create(user=self.owner)
        key_revoke(revoked)
        past = timezone.now() - timedelta(seconds=1)
        self.keys["expired"] = key_create(user=self.owner, expires_at=past)[1]
        self.keys["owner not active"] = key_create(user=gone)[1]
        User.objects.filter(pk=gone.pk).update(is_active=False)
        self.scoped = {
            (name, scope): key_create(user=self.users[name], scopes=[scope])[1]
            for name in ("owner", "superuser")
            for scope in Scope
        }
        self.found: dict[str, Any] = {}

    def session(self, user: User) -> str:
        browser = Browser()
        browser.force_login(user)
        return browser.cookies["sessionid"].value

    async def ask(
        self, line: Line, asker: str, *, method: str | None = None, scope: Scope | None = None
    ) -> Answer:
        """What this asker gets for the line's request; for the same by another method; or by a key
        that has this scope alone."""
        objects = {**await self.objects(line), "token": secrets.token_hex(8)}
        key, session = self.credentials(line, asker)
        return await ask(
            method or line.method,
            "/" + filled(line.path, objects),
            filled(line.body, objects),
            key=self.scoped[asker, scope] if scope else key,
            session=session,
            is_form=line.is_page,
            csrf=asker != "owner, no CSRF token",
        )

    def credentials(self, line: Line, asker: str) -> tuple[str | None, str | None]:
        """Key and session: of pages' askers a session, of the API's a key."""
        if asker == BOTH:
            own, owners = "another user", "owner"
            sides = (owners, own) if line.is_page else (own, owners)
            return self.keys[sides[0]], self.sessions[sides[1]]
        if line.is_page:
            return None if asker in SESSIONS else self.keys.get(asker), self.sessions.get(asker)
        session = self.sessions[asker] if asker == "session, no key" else None
        return self.keys.get(asker), session

    # ---- objects --------------------------------------------------------------------------------

    async def objects(self, line: Line) -> dict[str, Any]:
        """Those that a line may name: for one that destroys them, new ones each time."""
        if line.destroys or not self.found:
            chat_id = await self.chat("owner", ALICES_CHAT)
            made = await sync_to_async(self.look_up)(chat_id)
            bobs = await sync_to_async(self.conversation_of)(await self.chat("another user", CHAT))
            made |= {"bobs_chat": bobs[0].public_id, "bobs_conversation": bobs[1].public_id}
            if line.destroys:
                return made
            self.found = made
        return self.found

    async def chat(self, asker: str, body: Any) -> str:
        answer = await ask("POST", "/v1/chat/completions", body, key=self.keys[asker])
        assert answer.status == 200, answer
        chat_id: str = answer.json()["id"]
        return chat_id

    def conversation_of(self, chat_id: str) -> tuple[Completion, Conversation]:
        chat = Completion.objects.select_related("conversation").get(public_id=chat_id)
        assert chat.conversation is not None
        return chat, chat.conversation

    def look_up(self, chat_id: str) -> dict[str, Any]:
        chat, conversation = self.conversation_of(chat_id)
        said = Message.objects.filter(conversation=conversation).order_by("pk")
        key, _ = key_create(user=self.owner, name="laptop")
        group = Group.objects.first() or Group.objects.create(name="people")
        invitation = Invitation.objects.first() or Invitation.objects.create(
            digest="d", created_by=self.owner, expires_at=timezone.now()
        )
        process = ServerProcess.objects.first() or ServerProcess.objects.create(
            uuid="12345678123456781234567812345678", host="host", pid=1
        )
        adapter = Adapter.objects.first() or Adapter.objects.create(
            name="b", path="b", added_by=self.users["superuser"]
        )
        return {
            "chat": chat_id,
            "chat_pk": chat.pk,
            "conversation": conversation.public_id,
            "conversation_pk": conversation.pk,
            "question": said[0].public_id,
            "item": said[1].public_id,
            "key": key.public_id,
            "key_pk": key.pk,
            "user_pk": self.owner.pk,
            "group_pk": group.pk,
            "invitation_pk": invitation.pk,
            "process_pk": process.pk,
            "adapter_pk": adapter.pk,
            "label_pk": Label.objects.get_or_create(name="odd")[0].pk,
            "event_pk": AuditEvent.objects.get_or_create(action="read", target="alice")[0].pk,
        }


def filled(template: Any, objects: dict[str, Any]) -> Any:
    """With the names of objects in it replaced by theirs."""
    if isinstance(template, str):
        return re.sub(r"\{(\w+)\}", lambda found: str(objects[found[1]]), template)
    if isinstance(template, dict):
        return {name: filled(value, objects) for name, value in template.items()}
    if isinstance(template, list):
        return [filled(value, objects) for value in template]
    return template


async def ask(
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None = None,
    session: str | None = None,
    is_form: bool = False,
    csrf: bool = True,
) -> Answer:
    headers = {"accept": "text/html"} if is_form else {}
    cookies = [f"sessionid={session}"] if session else []
    if csrf and is_form:
        cookies.append(f"csrftoken={CSRF}")
        headers["x-csrftoken"] = CSRF
    if cookies:
        headers["cookie"] = "; ".join(cookies)
    kind = "application/x-www-form-urlencoded" if is_form else "application/json"
    data = b"" if body is None else (urlencode(body) if is_form else json.dumps(body)).encode()
    under_way = call(method, path, key, headers, content_type=kind)
    await under_way.send_body(data)
    return await under_way.answer()
