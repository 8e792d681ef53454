"""Field changes and vetoes: what changed, from what to what, and how a hook says no."""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal

from earnorm import (
    Abort,
    BaseModel,
    Change,
    DecimalField,
    StringField,
    connect,
    event_handler,
    on_event,
    post_update,
    pre_delete,
    pre_save,
)
from earnorm.errors import ValidationFailed


class Product(BaseModel):
    name = StringField(max_length=20)
    price = DecimalField(min=Decimal(0))
    state = StringField(default="draft", choices=("draft", "on sale", "withdrawn"))

    @pre_save
    def tidy_the_name(self) -> None:
        self.name = self.name.strip()

    @pre_save
    def refuse_to_sell_for_nothing(self) -> None:
        if self.state == "on sale" and not self.price:
            raise Abort(f"{self.name} has no price yet")

    @pre_delete
    def keep_what_is_on_sale(self) -> None:
        if self.state == "on sale":
            raise Abort(f"{self.name} is on sale; withdraw it first")

    @post_update
    def tell_every_change(self, changes: Mapping[str, Change]) -> None:
        for field, (old, new) in sorted(changes.items()):
            print(f"    changed: {field} from {old} to {new}")

    @on_event("price_change")
    def refuse_a_big_rise(self, old_price: Decimal, new_price: Decimal) -> None:
        if old_price and new_price > 2 * old_price:
            raise Abort(f"from {old_price} to {new_price} is more than double")


# After the commit, `price_changed`, `price_change` and `price.changed` are three spellings of one thing.
@event_handler("product.price_changed")
def print_new_labels(product: Product, old_price: Decimal, new_price: Decimal) -> None:
    print(f"    labels: {product.name} now {new_price}, was {old_price}")


def sync_door() -> None:
    print("sync door")
    with connect("sqlite://") as db:
        print("  a product, its name tidied by the hook before the SQL")
        tea = Product(name="  Green tea ", price=Decimal("4.50")).save()
        print(f"    stored as {Product.get(tea.id).name!r}, {tea.state}")

        print("  it goes on sale, for more")
        tea.state, tea.price = "on sale", Decimal("4.80")
        tea.save()
        db.drain()

        print("  vetoes reach the caller, and nothing is written")
        attempt("delete it", tea.delete)
        tea.price = Decimal("9.99")
        attempt("more than double the price", tea.save)
        tea.refresh()
        print(f"    stored: {tea.price}, {tea.state}")

        print("  what breaks a field's rules is refused with all its faults")
        attempt("a bad product", Product(name="x" * 21, price=Decimal(-1), state="stolen").save)
        print(f"    products: {len(Product.find())}, deliveries left: {db.drain()['done']}")


async def async_door() -> None:
    print("async door")
    async with connect("sqlite://") as db:
        tea = await Product(name="Black tea", price=Decimal("3.20"), state="on sale").asave()
        print("  a veto under asave")
        tea.price = Decimal(0)
        try:
            await tea.asave()
        except Abort as no:
            print(f"    no: {no}")
        await tea.arefresh()
        print("  a small rise")
        tea.price = Decimal("3.40")
        await tea.asave()
        await db.adrain()


def attempt(what: str, do: Callable[[], object]) -> None:
    try:
        do()
    except ValidationFailed as refused:
        print(f"    {what}: no, for {len(refused.faults)} reasons: {', '.join(f.field for f in refused.faults)}")
    except Abort as no:
        print(f"    {what}: no, {no}")


def main() -> None:
    sync_door()
    asyncio.run(async_door())


if __name__ == "__main__":
    main()

# Prints:
#
# sync door
#   a product, its name tidied by the hook before the SQL
#     stored as 'Green tea', draft
#   it goes on sale, for more
#     changed: price from 4.50 to 4.80
#     changed: state from draft to on sale
#     labels: Green tea now 4.80, was 4.50
#   vetoes reach the caller, and nothing is written
#     delete it: no, Green tea is on sale; withdraw it first
#     changed: price from 4.80 to 9.99
#     more than double the price: no, from 4.80 to 9.99 is more than double
#     stored: 4.80, on sale
#   what breaks a field's rules is refused with all its faults
#     a bad product: no, for 3 reasons: name, price, state
#     products: 1, deliveries left: 0
# async door
#   a veto under asave
#     no: Black tea has no price yet
#   a small rise
#     changed: price from 3.20 to 3.40
#     labels: Black tea now 3.40, was 3.20
