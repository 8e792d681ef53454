"""Column types: how the values of fields are kept, so that what is read equals what was written in every database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Interval, Numeric, String
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine

from earnorm.errors import UnreadableValue

__all__ = ["EXACT_DIGITS", "Duration", "EnumMember", "ExactDecimal", "UtcDateTime", "aware"]

# Every decimal of up to 15 digits goes into a double and comes back as it was (DBL_DIG).
EXACT_DIGITS = 15

_MICROSECOND = timedelta(microseconds=1)


def aware(moment: datetime) -> datetime:
    """The same moment with a time zone; a naive one means local time."""
    return moment if moment.tzinfo is not None else moment.astimezone()


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, kept in UTC to the microsecond and read back aware, in UTC. A naive value means local time."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(DateTime(timezone=_has_zones(dialect)))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if not isinstance(value, datetime):
            return value
        moment = value.astimezone(UTC)
        return moment if _has_zones(dialect) else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  the same for every dialect
        # The difference of two moments passes here too: SQLAlchemy gives it the type of its left side.
        if not isinstance(value, datetime):
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:  # noqa: ARG002  the same for every operator
        return Duration() if isinstance(value, timedelta) else self


def _has_zones(dialect: Dialect) -> bool:
    return dialect.name == "postgresql"


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal that comes back to the digit.

    SQLite knows doubles and text only. Up to 15 digits a double is exact, and compares and sorts as a number;
    a wider decimal is kept as text there, which compares for equality and sorts by letters.
    """

    impl = Numeric
    cache_ok = True

    def __init__(self, precision: int, scale: int) -> None:
        super().__init__(precision, scale)
        self.precision = precision
        self.scale = scale

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name != "sqlite":
            return dialect.type_descriptor(Numeric(self.precision, self.scale))
        if self.precision <= EXACT_DIGITS:
            return dialect.type_descriptor(Numeric(self.precision, self.scale, asdecimal=False))
        return dialect.type_descriptor(String())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return float(value) if self.precision <= EXACT_DIGITS else self._written(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002  the same for every dialect
        if value is None or isinstance(value, Decimal):
            return value
        return Decimal(self._written(value))

    def _written(self, value: Any) -> str:
        """One spelling for one value, since text is compared by letters: no `-0.00`, always `scale` places."""
        number = Decimal(value) if value else Decimal(0)
        return format(number, f".{self.scale}f")


class Duration(TypeDecorator[timedelta]):
    """A length of time: an interval in PostgreSQL, elsewhere whole microseconds, which sort and add up."""

    impl = Interval
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Interval() if dialect.name == "postgresql" else BigInteger())

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> Any:
        if dialect.name == "postgresql" or not isinstance(value, timedelta):
            return value
        return value // _MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> timedelta | None:  # noqa: ARG002  the same for every dialect
        return timedelta(microseconds=value) if isinstance(value, int) else value


class EnumMember(TypeDecorator[Enum]):
    """A member of an enum: by its value where all values are strings or all are integers, else by its name.

    Kept in a plain column, so that a new member needs no migration.
    """

    impl = String
    cache_ok = True

    def __init__(self, enum_class: type[Enum]) -> None:
        super().__init__()
        self.enum_class = enum_class
        self._kept = _how_members_are_kept(enum_class)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(self._column_type())

    def process_bind_param(self, value: Enum | None, dialect: Dialect) -> Any:  # noqa: ARG002  the same for every dialect
        if value is None:
            return None
        if not isinstance(value, self.enum_class):
            raise TypeError(f"{value!r} is no {self.enum_class.__name__}")
        return value.name if self._kept is None else value.value

    def process_result_value(self, value: Any, dialect: Dialect) -> Enum | None:  # noqa: ARG002  the same for every dialect
        if value is None:
            return None
        try:
            return self.enum_class[value] if self._kept is None else self.enum_class(value)
        except (KeyError, ValueError):
            raise UnreadableValue(value, self.enum_class.__name__, self._known()) from None

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:  # noqa: ARG002  the same for every operator
        # `Job.state.like("wait%")` and `Job.state == "waiting"` compare with what the column keeps.
        return self if value is None or isinstance(value, self.enum_class) else self._column_type()

    def _column_type(self) -> TypeEngine[Any]:
        if self._kept is int:
            return BigInteger()
        return String(max(64, *(len(str(known)) for known in self._known())))

    def _known(self) -> list[object]:
        return [member.name if self._kept is None else member.value for member in self.enum_class]


def _how_members_are_kept(enum_class: type[Enum]) -> type | None:
    """The type of the values that stand in the column; None where names do."""
    kinds: set[type[object]] = {_plain(member.value) for member in enum_class}
    return kinds.pop() if kinds in ({str}, {int}) else None


def _plain(value: object) -> type[object]:
    if isinstance(value, str):
        return str
    return int if isinstance(value, int) and not isinstance(value, bool) else type(value)


# SQLite gives out row numbers only for a column declared INTEGER, to the letter.
WideInteger = BigInteger().with_variant(Integer(), "sqlite")
