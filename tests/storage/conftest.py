from tests.runtime.program import count_rows, gate, holder, program, start_runtime

__all__ = ["count_rows", "gate", "holder", "program", "start_runtime"]
