"""The sample data: what the shop has on its shelf."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple


class Sample(NamedTuple):
    """A product and how many of it belong on the shelf."""

    sku: str
    name: str
    description: str
    price: Decimal
    stock: int


SAMPLES = [
    Sample("earl-grey", "Earl Grey", "Ceylon with oil of bergamot. 125 g.", Decimal("7.90"), 60),
    Sample("lapsang", "Lapsang Souchong", "Dried over pinewood smoke. 100 g.", Decimal("9.80"), 40),
    Sample("sencha", "Sencha Uji", "Green, steamed, first flush. 100 g.", Decimal("14.50"), 25),
    Sample("cups", "Four stoneware cups", "Thrown by hand, no two alike.", Decimal("46.00"), 12),
    Sample("teapot", "Cast-iron teapot", "Keeps 0.8 litres hot for an hour.", Decimal("79.00"), 8),
    Sample("samovar", "Brass samovar", "Five litres, for when everybody comes.", Decimal("320.00"), 2),
]
