"""CTEs that write: an INSERT, UPDATE or DELETE of a model as a part of another statement, where no row of it is told.

It is refused where it is built. What is executed is the statement around it, often a SELECT of columns that belong to
no model, and to look into each of those for a CTE that writes would be paid by all.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import CTE

from earnorm.backends.sqlalchemy.attention import loud
from earnorm.backends.sqlalchemy.bulk.shape import shape_of
from earnorm.errors import BulkRefused

__all__ = ["listen"]

_cte = UpdateBase.cte


def listen() -> None:
    """Look at every such CTE from now on."""
    method: Any = _told_cte
    UpdateBase.cte = method  # type: ignore[method-assign]  # there is no event for it


def _told_cte(statement: UpdateBase, *args: Any, **options: Any) -> CTE:
    mapper = statement.table._annotations.get("parententity")
    if mapper is not None and mapper.is_mapper:
        for model in shape_of(mapper).known:
            if loud(model):
                raise BulkRefused(model.info.name, f"{type(statement).__name__}.cte()", _WHY)
    return _cte(statement, *args, **options)


_WHY = (
    "inside another statement its rows cannot be told; execute it first and use what it returns (RETURNING), or write "
    "its table, which tells nothing: insert(Model.__table__).cte()"
)
