"""EarnORM events: events on models that are never lost and never fire for a change that was rolled back."""

from earnorm.bus import EventBus, aemit, default_bus, emit
from earnorm.event import caused_by, current_event
from earnorm.events import *  # noqa: F403  # the spec's words, listed in its __all__
from earnorm.events import __all__ as _event_words
from earnorm.orm.database import Database, connect
from earnorm.orm.fields import (
    BigIntegerField,
    BooleanField,
    BytesField,
    DateField,
    DateTimeField,
    DecimalField,
    EmailField,
    EnumField,
    FloatField,
    ForeignKeyField,
    IntegerField,
    IntervalField,
    JSONField,
    SlugField,
    StringField,
    TextField,
    TimeField,
    URLField,
    UUIDField,
)
from earnorm.orm.model import BaseModel
from earnorm.plan import Handle
