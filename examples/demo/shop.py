"""The shop: two models with their hooks, and the handlers that hear them after the commit."""

from datetime import date, datetime
from decimal import Decimal

from earnorm import (
    Abort,
    BaseModel,
    DateField,
    DateTimeField,
    DecimalField,
    EmailField,
    Event,
    ForeignKeyField,
    IntegerField,
    StringField,
    event_handler,
    event_handler_async,
    on_event,
    post_save_async,
    pre_create,
    pre_save,
)
from examples.demo.crash import crash
from examples.demo.world import world


class User(BaseModel):
    name = StringField(max_length=60)
    email = EmailField(unique=True)
    born = DateField(max=date(2025, 1, 1))
    spent = DecimalField(default=Decimal(0))
    updated_at = DateTimeField(required=False)

    @pre_save
    def before_save(self) -> None:
        self.updated_at = datetime.now()


class Order(BaseModel):
    number = StringField(unique=True)
    customer = ForeignKeyField(User)
    item = StringField()
    amount = DecimalField(min=Decimal("0.01"))
    placed_on = DateField()
    status = StringField(choices=("new", "paid"))
    paid_at = DateTimeField(required=False)

    @pre_create
    def refuse_children(self) -> None:
        user = User.get(self.customer)
        if self.placed_on.year - user.born.year < 18:
            raise Abort(f"{user.name} is not 18 yet")

    @on_event("payment_received")
    def handle_payment(self, payment: dict[str, str]) -> None:
        self.status = "paid"
        self.paid_at = datetime.now()
        self.save()

    @on_event("status_change")
    def handle_status_change(self, old_status: str, new_status: str) -> None:
        """Inside the transaction: the sum a user has spent is never another than that of the paid orders."""
        if (old_status, new_status) == ("new", "paid"):
            user = User.get(self.customer)
            user.spent += self.amount
            user.save()
            self.emit("completed")

    @post_save_async
    async def update_search_index(self, event: Event) -> None:
        world.mark("update_search_index", event)


class Bookmark(BaseModel):
    """How far a file has been read: saved in the transaction of the rows it counts."""

    file = StringField(primary_key=True)
    line = IntegerField(default=1)


class Refusal(BaseModel):
    """A row that was not stored, and why."""

    file = StringField()
    line = IntegerField()
    reason = StringField()


@event_handler("user.created")
def send_welcome_email(user: User, event: Event) -> None:
    world.mark("send_welcome_email", event)


@Order.on("payment_received")
def send_receipt(order: Order, payment: dict[str, str], event: Event) -> None:
    world.mark("send_receipt", event)
    crash.catch()


@event_handler_async("order.completed")
async def notify_shipping(order: Order, event: Event) -> None:
    world.mark("notify_shipping", event)


@event_handler("user.spent_changed")
def recompute_discount(user: User, old_spent: Decimal, new_spent: Decimal, event: Event) -> None:
    world.mark("recompute_discount", event)


@event_handler(["user.*", "order.*"])
def copy_to_warehouse(subject: BaseModel, event: Event) -> None:
    world.mark("copy_to_warehouse", event)
