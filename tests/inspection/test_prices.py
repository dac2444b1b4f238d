"""The file of prices is read again when it changes. An invalid file leaves the previous prices in use."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ratelimit_service.assembly.operators import make_prices
from ratelimit_service.core.errors import StartError
from ratelimit_service.core.rules.prices import read_model_prices
from ratelimit_service.inspection.prices import Prices
from ratelimit_service.runtime.watched_file import LARGEST
from ratelimit_service.settings.table import load_settings
from ratelimit_service.sources.yaml_text import read


class Seconds:
    """A clock that advances by a second at each reading."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def prices_of(file: Path) -> Prices:
    return Prices(str(file), lambda name, text: read_model_prices(read(name, text)), Seconds())


def priced(price: str) -> str:
    return f"{{currency: USD, prices: [{{model: a, per_million: {price}}}]}}"


async def price_of(prices: Prices) -> str:
    await prices.refresh()
    return prices.models.exact[b"a"][0].per_million


async def test_prices_follow_their_file(tmp_path: Path) -> None:
    """This includes a file that is replaced, like that of a ConfigMap."""
    file = tmp_path / "prices.yaml"
    file.write_text(priced("1"))
    prices = prices_of(file)
    assert "1" == await price_of(prices)
    (tmp_path / "new").write_text(priced("2.50"))
    (tmp_path / "new").rename(file)
    assert "2.50" == await price_of(prices)


def test_the_setting_names_the_file(tmp_path: Path) -> None:
    """Without it there are no prices by model."""
    file = tmp_path / "prices.yaml"
    file.write_text(priced("2.50"))
    assert {} == make_prices(load_settings({})).models.exact
    assert {b"a"} == make_prices(load_settings({"PRICES_FILE": str(file)})).models.exact.keys()


@pytest.mark.parametrize(
    "text, message",
    [
        (priced("cheap"), "per_million: must be a price"),
        ("{", "not valid YAML"),
        (None, "No such file or directory"),
        ("#" * (LARGEST + 1), "is longer than"),
    ],
)
async def test_an_unusable_file_leaves_the_prices_before(
    tmp_path: Path, text: str | None, message: str
) -> None:
    """The log reports it once. A service does not start with it."""
    file = tmp_path / "prices.yaml"
    file.write_text(priced("1"))
    prices = prices_of(file)
    file.unlink()
    if text is not None:
        file.write_text(text)
    with capture_logs() as logs:
        assert ["1", "1"] == [await price_of(prices), await price_of(prices)]
    (line,) = logs
    assert message in line["error"]
    with pytest.raises(StartError, match="PRICES_FILE cannot be used"):
        prices_of(file)
