"""The model of the Tortoise contestants: Tortoise finds models in modules."""

from typing import Any

from tortoise import fields
from tortoise.models import Model
from tortoise.signals import post_save, pre_save


class Person(Model):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=255)
    email = fields.CharField(max_length=255)
    visits = fields.IntField()

    class Meta:
        table = "people"


def listen() -> None:
    """One listener before and one after each save, which do nothing."""

    async def before(sender: Any, instance: Any, using_db: Any, update_fields: Any) -> None: ...

    async def after(sender: Any, instance: Any, created: bool, using_db: Any, update_fields: Any) -> None: ...

    pre_save(Person)(before)
    post_save(Person)(after)
