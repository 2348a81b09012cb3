from tests.migrations.empty import empty_alias
from tests.runtime.program import count_rows, gate, holder, program, start_runtime

__all__ = ["count_rows", "empty_alias", "gate", "holder", "program", "start_runtime"]
