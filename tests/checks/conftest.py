from tests.migrations.empty import empty_alias

__all__ = ["empty_alias"]
