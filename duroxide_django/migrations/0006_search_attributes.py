"""An index for the admin's search by KV entries whose key begins with ``@``."""

from django.apps.registry import Apps as StateApps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

INDEX = "duroxide_kv_search"


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    connection = schema_editor.connection
    # Without holding up those who write, where the database can and no transaction is open. An empty table needs no
    # such care, and building concurrently would wait for all open transactions.
    can = connection.vendor == "postgresql" and not connection.in_atomic_block
    can = can and apps.get_model("duroxide_django", "KeyValue")._base_manager.using(connection.alias).exists()
    # Entries with other keys are not in it, so that they cost nothing. Values are cut: an index entry has a limit.
    schema_editor.execute(
        f"CREATE INDEX {'CONCURRENTLY' if can else ''} {INDEX} ON duroxide_kv (key, SUBSTR(value, 1, 200), instance_id) "
        "WHERE SUBSTR(key, 1, 1) = '@'"
    )


def drop(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    schema_editor.execute(f"DROP INDEX {INDEX}")


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("duroxide_django", "0005_permissions_of_verbs")]

    operations = [migrations.RunPython(create, drop)]
