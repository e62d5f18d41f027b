from django.db import migrations

from conversations.storage.samples import no_samples


class Migration(migrations.Migration):
    dependencies = [
        ("conversations", "0005_idempotency_keys"),
        ("accounts", "0004_passwords"),
        ("admin", "0003_logentry_add_action_flag_choices"),
    ]

    operations = [
        no_samples("conversations_conversation", "title", "metadata"),
        no_samples("conversations_message", "name", "content"),
        no_samples("conversations_completion", "metadata", "error"),
        no_samples("conversations_completioncontent", "parameters", "prompt", "output"),
        no_samples("conversations_review", "notes"),
        no_samples("conversations_label", "name"),
        no_samples("django_admin_log", "object_repr", "change_message"),
        no_samples("accounts_user", "first_name", "last_name", "email"),
        no_samples("accounts_apikey", "name"),
        no_samples("accounts_invitation", "note"),
    ]
