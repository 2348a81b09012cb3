from tests.admin.conftest import browser, browser_of, page_of
from tests.runtime.program import count_rows, gate, program, start_runtime

__all__ = ["browser", "browser_of", "count_rows", "gate", "page_of", "program", "start_runtime"]
