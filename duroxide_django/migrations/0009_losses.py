"""A count for the deliveries of an activity whose worker was lost."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("duroxide_django", "0008_attempt_deadlines")]

    # The default is the database's: workers of the release before insert rows without the column.
    operations = [
        migrations.AddField(
            model_name="activitytask",
            name="losses",
            field=models.IntegerField(
                db_default=0,
                help_text="Deliveries that ended without a word of their worker.",
                verbose_name="losses",
            ),
        ),
    ]
