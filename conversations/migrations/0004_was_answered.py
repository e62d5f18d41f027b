from django.db import migrations, models
from django.db.models import Exists, OuterRef, Q

HELP = "Whether it brought its conversation an answer, or a part, be it deleted since."


def mark_unanswered(apps, schema_editor):
    """Those that were completed had an answer, wherever it is now; the others have theirs still."""
    Completion = apps.get_model("conversations", "Completion")
    Message = apps.get_model("conversations", "Message")
    answers = Message.objects.filter(completion=OuterRef("pk"))
    ended_early = ~Q(status="completed") & ~Exists(answers)
    Completion.objects.filter(Q(conversation=None) | ended_early).update(was_answered=False)


class Migration(migrations.Migration):
    dependencies = [("conversations", "0003_many_rows")]

    operations = [
        # Nearly all were answered: few rows are written twice.
        migrations.AddField(
            model_name="completion",
            name="was_answered",
            field=models.BooleanField(default=True, help_text=HELP),
        ),
        migrations.RunPython(mark_unanswered, migrations.RunPython.noop),
        migrations.AlterField(
            model_name="completion",
            name="was_answered",
            field=models.BooleanField(default=False, help_text=HELP),
        ),
    ]
