"""Text that means harm, in every place of the database that pages show.

`python manage.py shell -c "from tests.browser.hostile import fill; fill()"` prints where things
are, as JSON.
"""

import json
from uuid import uuid4

MARK = "zebra7713"
"""In every hostile text, so that a page which shows none is noticed."""

SHORT = f'"><b class=planted>{MARK}'
"""For columns of a few dozen characters; longer ones get as much of TEXT as fits them."""

TEXT = (
    f"={MARK} \u202egnp.exe\u2066 zero\u200bwidth\ufeff "
    '<script>window.hacked="script"</script><img src=x onerror="window.hacked=`img`">'
    '<b class="planted">bold</b>"onmouseover="window.hacked=1" \'autofocus onfocus=\'hacked=1 '
    "</title></textarea></script></style>--><svg onload=window.hacked=2><b class=planted> "
    "[link](javascript:window.hacked=3) ![image](x://y) <a href='javascript:hacked=4'>a</a> "
    "{{ 7|add:7 }}{% debug %}${7*7} \u2028`<i class=planted>` **<u class=planted>u</u>**\n"
    '```"onmouseover="hacked=5"\n</code></pre><script>window.hacked=6</script>\n```\n'
    "<iframe srcdoc='<script>parent.hacked=7</script>'></iframe><base href=//elsewhere.invalid/>"
    "<meta http-equiv=refresh content='0;url=//elsewhere.invalid/'>"
)
LONG = TEXT + "\n\n" + "A long line of nothing.\n" * 80
HARM = """
const found = [];
if (window.hacked !== undefined) found.push('ran: ' + window.hacked);
const made = '.planted, iframe, base, meta[http-equiv=refresh], [onerror], [onload],' +
    '[onmouseover], [onfocus], a[href^="javascript:" i], form[action^="javascript:" i]';
for (const element of document.querySelectorAll(made)) found.push('made: ' + element.outerHTML);

// Text that turns the direction of what follows must be kept to itself: alone in a block, or
// isolated within it.
const inline = element => getComputedStyle(element).display.startsWith('inline');
const isolated = element => /isolate|plaintext/.test(getComputedStyle(element).unicodeBidi);
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
    const text = walker.currentNode;
    if (!/[\\u202a-\\u202e\\u2066-\\u2069]/.test(text.data)) continue;
    let element = text.parentElement;
    if (element.closest('script, option, textarea, title, [aria-hidden=true]')) continue;
    // One text in pieces: code set apart, found words marked.
    if (element.closest('[dir=auto], .pg-text')) continue;
    // What Django's own templates write.
    if (element.closest('#user-tools, .breadcrumbs, #recent-actions-module, #user_form')) continue;
    if (element.closest('.delete-confirmation #content')) continue;
    while (inline(element) && !isolated(element)) element = element.parentElement;
    if (inline(element) || element.textContent.trim() === text.data.trim()) continue;
    found.push('turns what is beside it: ' + element.outerHTML.slice(0, 200));
}
return found;
"""


def fill() -> None:
    from django.contrib.admin.models import CHANGE, LogEntry
    from django.contrib.contenttypes.models import ContentType
    from django.test import Client
    from django.utils import timezone

    from accounts.audit import record
    from accounts.links import invitation_create
    from accounts.models import AuditEvent, User
    from accounts.services import key_create
    from conversations import reviews
    from conversations.models import Completion, Conversation, Label
    from conversations.processes.presence import process_register
    from llmapi.models import Adapter
    from tests.conversations.conftest import History

    history = History()
    mallory = User.objects.create_user(TEXT[:150], email=f"{SHORT}@example.org", first_name=SHORT)
    staff = User.objects.create_superuser(f"{SHORT} {TEXT[:90]}", first_name=TEXT[:150])
    key, _ = key_create(user=mallory, name=TEXT[:100])
    fields = {
        "api_key_id": key.pk,
        "model": TEXT[:200],
        "request_id": TEXT[:64],
        "parameters": {TEXT: TEXT, "stop": [TEXT]},
    }
    parts = [{"type": "text", "text": TEXT}, {"type": TEXT}]
    system = ("system", LONG, TEXT[:100])
    messages = [system, (SHORT[:20], parts, SHORT), ("user", TEXT)]
    chat = history.start(mallory, messages, **fields)
    history.finish(chat, TEXT, LONG, status="failed", error=TEXT[:500])
    unanswered = history.start(mallory, [("user", TEXT)], **fields)
    history.finish(unanswered, status="failed", error=TEXT[:500])
    plain = history.start(mallory, prompt=[TEXT, LONG], **fields)
    history.finish(plain, TEXT, LONG, status="failed", error=TEXT[:500])
    embedding = history.start(mallory, kind="embedding", prompt=[TEXT, [1, 2]], **fields)
    history.finish(embedding, completion_tokens=0)
    Completion.objects.filter(user=mallory).update(metadata={SHORT: TEXT[:500]}, adapter=TEXT[:200])
    Conversation.objects.filter(user=mallory).update(title=TEXT[:200], metadata={SHORT: TEXT[:500]})
    conversation = Completion.objects.get(pk=chat).conversation
    reviews.review_save(
        conversation.pk,
        reviews.Judgement(1, [TEXT[:50]], TEXT),
        reviewer=staff,
        version="",
        seen_at=conversation.updated_at,
    )
    detail = {SHORT: TEXT, "filters": {SHORT: TEXT}}
    record(AuditEvent.Action.EXPORT, TEXT, actor=mallory, detail=detail)
    LogEntry.objects.create(
        user=staff,
        content_type=ContentType.objects.get_for_model(Label),
        object_id=str(Label.objects.latest("pk").pk),
        object_repr=TEXT[:200],
        action_flag=CHANGE,
        change_message=TEXT,
    )
    process = process_register(uuid=uuid4(), host=TEXT[:255], pid=1, lock_path=TEXT)
    invitation, _ = invitation_create(created_by=staff, note=TEXT[:200])
    Adapter.objects.create(name=TEXT[:200], path=TEXT, added_by=staff, added_at=timezone.now())

    def session_of(user: User) -> str:
        client = Client()
        client.force_login(user)
        return str(client.cookies["sessionid"].value)

    print(
        json.dumps(
            {
                "user": session_of(mallory),
                "staff": session_of(staff),
                "key": key.public_id,
                "key_pk": key.pk,
                "user_pk": mallory.pk,
                "conversation": conversation.public_id,
                "conversation_pk": conversation.pk,
                "message": conversation.messages.latest("pk").public_id,
                "plain": Completion.objects.get(pk=plain).public_id,
                "plain_pk": plain,
                "embedding": Completion.objects.get(pk=embedding).public_id,
                "embedding_pk": embedding,
                "chat_pk": chat,
                "label_pk": Label.objects.latest("pk").pk,
                "event_pk": AuditEvent.objects.latest("pk").pk,
                "process_pk": process,
                "invitation_pk": invitation.pk,
            }
        )
    )
