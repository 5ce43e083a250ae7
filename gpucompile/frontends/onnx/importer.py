"""Being written."""
from typing import Any
def import_model(source: Any, dims: Any = None) -> Any:
    raise NotImplementedError
