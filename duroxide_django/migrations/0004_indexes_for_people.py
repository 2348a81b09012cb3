"""Indexes for the admin, the counts by version and the listings of a large store; none changes from turn to turn."""

from django.db import migrations, models
from django.db.models import Q

from duroxide_django.migrations._safely import AddIndexSafely


class Migration(migrations.Migration):
    # An index is built concurrently, which no transaction can.
    atomic = False

    dependencies = [("duroxide_django", "0003_postgresql_storage")]

    operations = [
        AddIndexSafely(
            model_name="instance",
            index=models.Index(
                fields=["parent", "id"], name="duroxide_instance_child", condition=Q(parent__isnull=False)
            ),
        ),
        migrations.RemoveIndex(model_name="instance", name="duroxide_instance_parent"),
        AddIndexSafely(
            model_name="instance",
            index=models.Index(fields=["id"], name="duroxide_instance_open", condition=Q(status="Running")),
        ),
        AddIndexSafely(
            model_name="instance",
            index=models.Index(
                fields=["completed_ms", "status"],
                name="duroxide_instance_ended",
                condition=Q(completed_ms__isnull=False),
            ),
        ),
        AddIndexSafely(
            model_name="instance",
            index=models.Index(
                fields=["id"], name="duroxide_instance_failed", condition=Q(is_cancelled=False, status="Failed")
            ),
        ),
        AddIndexSafely(
            model_name="instance",
            index=models.Index(fields=["id"], name="duroxide_instance_cancelled", condition=Q(is_cancelled=True)),
        ),
    ]
