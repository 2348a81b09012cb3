"""A count for the deliveries of an activity that a database's failure ended."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("duroxide_django", "0006_search_attributes")]

    # The default is the database's: workers of the release before insert rows without the column.
    operations = [
        migrations.AddField(
            model_name="activitytask",
            name="interruptions",
            field=models.IntegerField(
                db_default=0,
                help_text="Deliveries in a row that a database's failure ended.",
                verbose_name="interruptions",
            ),
        ),
    ]
