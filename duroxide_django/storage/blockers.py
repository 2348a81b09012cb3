"""Sessions of the database whose open transactions keep rows of the workflows locked."""

from __future__ import annotations

from duroxide_django.storage.database import Database
from duroxide_django.storage.findings import MAX_FINDINGS, PROBLEM, Finding


def long_transactions(db: Database, *, longer_than_ms: int) -> list[Finding]:
    """Return the other sessions that have written to the queues or instances and whose transaction is still open.

    Workers pass locked rows over, so that nothing waits for such a session: its instances stand still.

    Args:
        longer_than_ms: how long the transaction has been open at least, milliseconds.
    """
    if not db.features.lists_sessions:
        return []
    found = db.fetch(
        """
        SELECT a.pid, COALESCE(a.application_name, ''), COALESCE(host(a.client_addr), 'a local socket'),
            COALESCE(a.state, 'unknown'), EXTRACT(epoch FROM clock_timestamp() - a.xact_start)::bigint,
            string_agg(DISTINCT l.relation::regclass::text, ', ')
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.granted AND l.locktype = 'relation' AND l.database = (
                SELECT oid FROM pg_database WHERE datname = current_database())
            AND l.relation = ANY(ARRAY['duroxide_instance'::regclass, 'duroxide_message'::regclass,
                'duroxide_activity_task'::regclass]::oid[])
            AND l.mode NOT IN ('AccessShareLock', 'ShareUpdateExclusiveLock') AND a.pid <> pg_backend_pid()
            AND a.backend_type = 'client backend'
            AND a.xact_start < clock_timestamp() - %s * interval '1 millisecond'
        GROUP BY a.pid, a.application_name, a.client_addr, a.state, a.xact_start ORDER BY a.xact_start LIMIT %s""",
        [longer_than_ms, MAX_FINDINGS],
    )
    return [
        Finding(
            rule="long_transaction",
            severity=PROBLEM,
            subject=f"pid {pid}",
            why=f"The session {pid} ({name or 'without a name'}, from {address}, {state}) has had a transaction open "
            f"for {seconds} s that holds locks in {tables}: workers pass the rows over that it has locked.",
            cure=f"Let it commit or roll back. If its host is gone: SELECT pg_terminate_backend({pid}).",
        )
        for pid, name, address, state, seconds, tables in found
    ]
