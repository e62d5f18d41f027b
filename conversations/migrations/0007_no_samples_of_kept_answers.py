from django.db import migrations

from conversations.storage.samples import no_samples


class Migration(migrations.Migration):
    dependencies = [("conversations", "0006_no_samples_of_texts")]

    operations = [no_samples("conversations_idempotencykey", "answer")]
