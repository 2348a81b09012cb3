"""PostgreSQL: room for HOT updates in the rows that turns touch, early vacuums of the queues, two indexes less."""

from django.apps.registry import Apps as StateApps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

#: Tables whose rows live for moments only: dead ones are to be removed before they pile up.
QUEUES = ("duroxide_message", "duroxide_activity_task", "duroxide_queue_message")

#: Tables without an index on their id alone, and the one that has it.
KEYS = (("duroxide_message", "duroxide_message_instance"), ("duroxide_activity_task", "duroxide_task_instance"))


def set_parameters(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    # A batch of turns changes all rows of a page at once: there must be room for each of them a second time.
    schema_editor.execute("ALTER TABLE duroxide_instance SET (fillfactor = 45)")
    schema_editor.execute("ALTER TABLE duroxide_execution SET (fillfactor = 50)")
    schema_editor.execute("ALTER TABLE duroxide_activity_task SET (fillfactor = 50)")
    # Each message and activity would cost an entry more; the index that begins with the instance tells them apart too.
    for table, index in KEYS:
        schema_editor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, REPLICA IDENTITY USING INDEX {index}")
    for table in QUEUES:
        schema_editor.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, "
            "autovacuum_vacuum_cost_delay = 0)"
        )


def reset_parameters(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    if schema_editor.connection.vendor != "postgresql":
        return
    schema_editor.execute("ALTER TABLE duroxide_instance RESET (fillfactor)")
    schema_editor.execute("ALTER TABLE duroxide_execution RESET (fillfactor)")
    schema_editor.execute("ALTER TABLE duroxide_activity_task RESET (fillfactor)")
    for table, _ in KEYS:
        schema_editor.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (id), REPLICA IDENTITY DEFAULT")
    for table in QUEUES:
        schema_editor.execute(
            f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, "
            "autovacuum_vacuum_cost_delay)"
        )


class Migration(migrations.Migration):
    dependencies = [("duroxide_django", "0002_audit")]

    operations = [migrations.RunPython(set_parameters, reset_parameters)]
