from tests.operations.rewinding import calls, flows, shop
from tests.runtime.program import count_rows, gate, holder, program, start_runtime

__all__ = ["calls", "count_rows", "flows", "gate", "holder", "program", "shop", "start_runtime"]
