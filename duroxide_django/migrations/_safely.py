"""An index for a store that is in use."""

from __future__ import annotations

from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


class AddIndexSafely(migrations.AddIndex):
    """Adds an index; on PostgreSQL without blocking writers, if the table has rows. For migrations that aren't atomic.

    An empty table needs no such care, and building concurrently would wait for all open transactions.
    """

    atomic = False

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        """See AddIndex."""
        alias = schema_editor.connection.alias
        model = to_state.apps.get_model(app_label, self.model_name)
        if not self.allow_migrate_model(alias, model):
            return
        if schema_editor.connection.vendor != "postgresql" or not model._base_manager.using(alias).exists():
            schema_editor.add_index(model, self.index)
            return
        # What an interrupted run left behind is of no use.
        schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {schema_editor.quote_name(self.index.name)}")
        schema_editor.add_index(model, self.index, concurrently=True)  # type: ignore[call-arg]
