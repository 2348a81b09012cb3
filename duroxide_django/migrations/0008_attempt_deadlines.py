"""When the attempt that a worker runs now times out."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("duroxide_django", "0007_interruptions")]

    operations = [
        # Without a default: the table isn't rewritten.
        migrations.AddField(
            model_name="activitytask",
            name="deadline_ms",
            field=models.BigIntegerField(
                help_text="When the attempt that runs now times out; noted about a second later.",
                null=True,
                verbose_name="deadline",
            ),
        ),
        migrations.AlterField(
            model_name="activitytask",
            name="retry",
            field=models.TextField(
                help_text="JSON: attempt, max_attempts and first event of a retry loop, timeout_ms, "
                "heartbeat_timeout_ms.",
                null=True,
            ),
        ),
    ]
