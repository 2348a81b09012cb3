"""Which errors of databases pass: each row of the table, as the drivers raise it."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest
from django.db import DatabaseError, InternalError, OperationalError, connections, transaction

from duroxide_django import NonRetryable
from duroxide_django.storage.faults import PASSING_CODES, PASSING_STATES, is_transient

#: A code of each class that passes as a whole.
OF_CLASS = {"08": ["08006", "08P01"], "53": ["53100", "53200", "53300"]}
STATES = [code for state in PASSING_STATES for code in OF_CLASS.get(state, [state])]
#: Constraint, value, encoding, syntax, missing table, missing file, aborted transaction, defect of the server.
OTHER_STATES = ["23505", "23514", "22001", "22P05", "42601", "42P01", "58P01", "25P02", "40002", "XX000", "P0001"]


def raised(alias, code):
    """Return the error that PostgreSQL raises with this SQLSTATE, as Django passes it on."""
    with pytest.raises(DatabaseError) as caught, transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'made up'; END $$")
    return caught.value


def of_sqlite(code):
    error = sqlite3.OperationalError("made up")
    error.sqlite_errorcode = code
    wrapped = OperationalError("made up")
    wrapped.__cause__ = error
    return wrapped


def of_psycopg(error):
    """Return an error of psycopg as Django passes it on."""
    connection = connections["postgres"]
    with pytest.raises(DatabaseError) as caught, connection.wrap_database_errors:
        raise error
    return caught.value


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
class TestPostgres:
    @pytest.mark.parametrize("code", STATES)
    def test_state_passes(self, backend, code):
        assert is_transient(raised(backend, code))

    @pytest.mark.parametrize("code", OTHER_STATES)
    def test_other_state_does_not(self, backend, code):
        assert not is_transient(raised(backend, code))

    def test_read_only_server_passes(self, backend):
        """As the server says it itself: a standby, or a primary that is being switched over."""
        with transaction.atomic(using=backend), connections[backend].cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            with pytest.raises(InternalError) as caught, transaction.atomic(using=backend):
                cursor.execute("DELETE FROM duroxide_message")
        assert is_transient(caught.value)

    def test_commit_cut_through_a_pooler_passes(self, backend):
        """psycopg says so without a SQLSTATE, and not as an OperationalError."""
        assert is_transient(of_psycopg(psycopg.InternalError("received 2 results from command 'COMMIT'")))

    def test_time_out_of_the_pool_passes(self, backend):
        """psycopg_pool's errors are subclasses of psycopg's."""

        class PoolTimeout(psycopg.OperationalError):
            pass

        assert is_transient(of_psycopg(PoolTimeout("couldn't get a connection after 30.00 sec")))

    def test_wrong_use_of_the_driver_does_not(self, backend):
        """What the code can't mend by waiting: also without a SQLSTATE."""
        with pytest.raises(Exception, match="parameter") as caught, connections[backend].cursor() as cursor:
            cursor.execute("SELECT %(a)s", {"b": 1})
        assert not is_transient(caught.value)


class TestSqlite:
    @pytest.mark.parametrize("code", PASSING_CODES)
    def test_code_passes(self, code):
        """With and without the extended part."""
        assert is_transient(of_sqlite(code))
        assert is_transient(of_sqlite(code | 3 << 8))

    @pytest.mark.parametrize("code", [1, 11, 19, 20, 25, 26])
    def test_other_code_does_not(self, code):
        """SQL error, corrupt file, constraint, mismatch, range, not a database."""
        assert not is_transient(of_sqlite(code))

    def test_read_only_file_passes(self, tmp_path):
        path = tmp_path / "file.sqlite3"
        sqlite3.connect(path).close()
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
        assert is_transient(caught.value)


class TestWrapping:
    def chained(self, error, cause):
        error.__cause__ = cause
        return error

    def test_raised_from_a_passing_one_passes(self):
        """`raise X from exc` adds to the error; it doesn't replace it."""
        assert is_transient(self.chained(ValueError("no stock"), of_sqlite(5)))

    def test_merely_raised_while_handling_one_does_not(self):
        """The code has decided what its result is."""
        error = ValueError("no stock")
        error.__context__ = of_sqlite(5)
        assert not is_transient(error)

    def test_non_retryable_never_passes(self):
        assert not is_transient(self.chained(NonRetryable("no"), of_sqlite(5)))
        assert not is_transient(self.chained(ValueError("no"), self.chained(NonRetryable("no"), of_sqlite(5))))

    def test_group_passes_if_all_of_it_does(self):
        busy, full = of_sqlite(5), of_sqlite(13)
        assert is_transient(ExceptionGroup("several", [busy, ExceptionGroup("more", [full])]))
        assert not is_transient(ExceptionGroup("several", [busy, ValueError("own")]))
