"""What tells whether a live execution is up to date, and which engine an execution needs."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("duroxide_django", "0007_interruptions"),
    ]

    # The defaults are the database's: workers of the release before insert rows without the columns.
    operations = [
        migrations.AddField(
            model_name="instance",
            name="engine",
            field=models.SmallIntegerField(
                db_default=1,
                help_text="Number of the engine that began the current execution: older ones leave it alone.",
            ),
        ),
        migrations.AddField(
            model_name="instance",
            name="mark",
            field=models.BigIntegerField(
                db_default=0,
                help_text="Random, new with each committed turn: tells whether a live execution is up to date.",
            ),
        ),
        migrations.AlterField(
            model_name="instance",
            name="turns",
            field=models.IntegerField(default=0, help_text="Committed turns."),
        ),
    ]
