"""Prices of stocks as SSPT reads them (Xia et al., KDD 2025, arXiv 2506.16746): features, windows for pre-training, days for selection, and what selecting earns.

Keys of a batch of windows: `series` (B, F, T) float32, `stock` (B,) and `sector` (B,) int64 (-1: not known). Keys of a batch of days: `series` (D, N, F, T), `price` (D, N, 2),
the close of the last day and of the next on the scale of the features, and `valid` (D, N) bool. Letters: N stocks, T days of a window, F features.
"""

import csv
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainer.errors import ConfigError, DataError, shorten

COLUMNS = ("open", "high", "low", "volume", "close")
"""Columns of a file, in the order of the features: the close is the last."""
MEANS = (5, 10, 20, 30)
"""Days of the moving means that are features of each column, before its own value."""
YEAR = 252
"""Days of trading in a year."""


@dataclass(frozen=True)
class Market:
    """Prices of stocks on the same days."""

    names: tuple[str, ...]
    """Of the stocks."""
    days: tuple[str, ...]
    """Dates, rising."""
    values: np.ndarray
    """(N, 5, days) float64, in the order of COLUMNS; NaN where a stock was not traded."""
    sectors: np.ndarray
    """(N,) int64; -1 where not known."""


@dataclass(frozen=True)
class StocksConfig:
    """Which prices, and what is made of them."""

    path: str = "gbm"
    """A folder with a CSV per stock (columns date, open, high, low, close, volume), or gbm: geometric Brownian motions."""
    days: int = 16
    """Days of a window."""
    columns: Literal["close", "all"] = "close"
    """Five features of the close, or 25 of all columns."""
    train: float = 0.6
    """Share of the days that are trained on; then a fifth to choose settings by, and the rest to test."""
    lookahead: bool = False
    """Scale by the maximum over all days, as the authors' code does, which knows the future. False: over the days of training."""
    stocks: int = 10
    """Of gbm: stocks."""
    years: int = 5
    """Of gbm: years."""
    seed: int = 0
    """Of gbm: which prices."""

    def __post_init__(self) -> None:
        if min(self.days, self.stocks, self.years) < 1 or self.seed < 0 or not 0 < self.train <= 0.8:
            raise ConfigError(f"data needs days, stocks and years of at least 1 and train up to 0.8, found {self.days}, {self.stocks}, {self.years} and {self.train}.")

    def market(self) -> Market:
        """The prices."""
        return brownian(self.stocks, self.years, self.seed) if self.path == "gbm" else read_market(self.path)

    def build(self, part: Literal["train", "validation", "test"] = "train") -> "StockWindows":
        """Windows of a part of the days."""
        return StockWindows(self.market(), self, part)

    def build_days(self, part: Literal["train", "validation", "test"] = "train") -> "StockDays":
        """Days of a part."""
        return StockDays(self.market(), self, part)


def brownian(stocks: int, years: int, seed: int) -> Market:
    """Geometric Brownian motions with a drift of 0.1 and a volatility of 0.1 to 0.55 a year; sectors by turns of three."""
    rng = np.random.default_rng(seed)
    steps = years * YEAR
    spread = rng.uniform(0.1, 0.55, (stocks, 1))
    close = 100 * np.exp(np.cumsum((0.1 - spread**2 / 2) / YEAR + spread * math.sqrt(1 / YEAR) * rng.standard_normal((stocks, steps)), axis=1))
    first = np.concatenate([np.full((stocks, 1), 100.0), close[:, :-1]], axis=1)
    wide = 1 + 0.3 * spread * math.sqrt(1 / YEAR) * np.abs(rng.standard_normal((2, stocks, steps)))
    high, low = np.maximum(first, close) * wide[0], np.minimum(first, close) / wide[1]
    volume = rng.lognormal(12, 0.5, (stocks, steps))
    days = tuple(f"day {number}" for number in range(steps))
    return Market(tuple(f"stock {i}" for i in range(stocks)), days, np.stack([first, high, low, volume, close], axis=1), np.arange(stocks) % 3)


def read_market(folder: Path | str) -> Market:
    """The prices in a folder of CSV files, one per stock, named by it; `sectors.csv` (stock, sector) may lie beside them. DataError names file and row."""
    files = sorted(path for path in Path(folder).glob("*.csv") if path.name != "sectors.csv")
    if not files:
        raise DataError(f"{folder} holds no CSV file. Expected one for each stock, with the columns date, {', '.join(COLUMNS)}; or data.path=gbm for generated prices.")
    tables = {path.stem: _read(path) for path in files}
    days = sorted({day for table in tables.values() for day in table})
    nothing = (math.nan,) * len(COLUMNS)
    values = np.array([[table.get(day, nothing) for day in days] for table in tables.values()]).transpose(0, 2, 1)
    known = _read_sectors(Path(folder) / "sectors.csv", tables.keys())
    numbers = {name: i for i, name in enumerate(sorted(set(known.values())))}
    return Market(tuple(tables), tuple(days), values, np.array([numbers[known[name]] if name in known else -1 for name in tables]))


def features(values: np.ndarray, scaling_days: int, columns: str) -> np.ndarray:
    """(N, F, days) float32 of prices (N, 5, days): of each column its moving means and itself, over its maximum of the first `scaling_days`; NaN where something is missing."""
    chosen = values if columns == "all" else values[:, -1:]
    largest = np.nanmax(np.where(np.isnan(chosen), -np.inf, chosen)[..., :scaling_days], axis=2, keepdims=True)
    largest = np.where(np.isfinite(largest) & (largest > 0), largest, np.nan)  # a stock without a price in these days has no scale
    means = []
    for days in MEANS:
        windows = np.lib.stride_tricks.sliding_window_view(chosen, days, axis=2).mean(3)
        means.append(np.pad(windows, ((0, 0), (0, 0), (days - 1, 0)), constant_values=np.nan))
    return (np.stack([*means, chosen], axis=2) / largest[:, :, None]).reshape(len(values), -1, values.shape[2]).astype(np.float32)


class StockWindows:
    """Windows without a gap of every stock that end in a part of the days."""

    in_memory = True

    def __init__(self, market: Market, config: StocksConfig, part: str) -> None:
        """DataError when there is no such window."""
        self.market, self.config, self.part, self.name = market, config, part, "generated prices" if config.path == "gbm" else Path(config.path).name
        total = len(market.days)
        borders = {"train": (0, int(total * config.train)), "validation": (int(total * config.train), int(total * (config.train + 0.2))), "test": (int(total * (config.train + 0.2)), total)}
        begin, self.end = borders[part]
        self.features = features(market.values, total if config.lookahead else borders["train"][1], config.columns)
        ends = np.arange(max(begin, config.days - 1), self.end)
        whole = ~np.isnan(self.features).any(1)  # (N, days)
        runs = np.lib.stride_tricks.sliding_window_view(whole, config.days, axis=1).all(2) if total >= config.days else np.zeros((len(whole), 0), bool)
        stock, place = np.nonzero(runs[:, ends - config.days + 1]) if len(ends) and runs.shape[1] else (np.array([], int), np.array([], int))
        if not len(stock):
            raise DataError(f"{config.path} has no window of {config.days} days without a gap in its {part} part of {self.end - begin} days. The means need {max(MEANS)} days before.")
        self.samples = np.stack([stock, ends[place]], axis=1)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        stock, last = self.samples[index]
        return {"series": self.window(stock, last), "stock": torch.tensor(int(stock)), "sector": torch.tensor(int(self.market.sectors[stock]))}

    def window(self, stock: int, last: int) -> Tensor:
        """Features (F, T) of the days up to `last`."""
        return torch.from_numpy(self.features[stock, :, last - self.config.days + 1 : last + 1].copy())

    def describe(self) -> dict[str, object]:
        """Facts for logs and cards."""
        licence = {"licence": "Apache-2.0", "source": "generated"} if self.config.path == "gbm" else {}
        return {"name": self.name, "samples": len(self), "stocks": len(self.market.names), "part": self.part, **licence}


class StockDays(StockWindows):
    """All stocks of a day, for each day of a part but its last."""

    def __init__(self, market: Market, config: StocksConfig, part: str) -> None:
        super().__init__(market, config, part)
        self.present = {(int(stock), int(last)) for stock, last in self.samples}
        self.dates = sorted({last for _, last in self.present if last + 1 < self.end})
        if not self.dates:
            raise DataError(f"{config.path} has no day in its {part} part that is followed by another one.")

    def __len__(self) -> int:
        return len(self.dates)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        last, stocks = self.dates[index], range(len(self.market.names))
        price = torch.from_numpy(self.features[:, -1, last : last + 2].copy())
        valid = torch.tensor([(stock, last) in self.present for stock in stocks]) & price.isfinite().all(1)
        blank = torch.zeros(self.features.shape[1], self.config.days)
        series = torch.stack([self.window(stock, last) if valid[stock] else blank for stock in stocks])
        return {"series": series, "price": price.nan_to_num(1.0), "valid": valid}


def earned(said: Tensor, price: Tensor, valid: Tensor, best: int) -> dict[str, float]:
    """What it brings to hold, each day, equal parts of the `best` stocks by the returns that closes `said` (D, N) promise: mean daily return, that of all days together, and
    the Sharpe ratio of a year. Costs of trading are not in it."""
    promised = ((said - price[..., 0]) / price[..., 0]).masked_fill(~valid, -math.inf)
    true = ((price[..., 1] - price[..., 0]) / price[..., 0]).masked_fill(~valid, 0.0)
    chosen = promised.topk(min(best, said.shape[1]), dim=1).indices
    held = valid.gather(1, chosen)
    daily = (true.gather(1, chosen) * held).sum(1) / held.sum(1).clamp(min=1)
    spread = daily.std().item() if len(daily) > 1 else 0.0
    return {"daily": daily.mean().item(), "total": float((1 + daily).prod()) - 1, "sharpe": daily.mean().item() / spread * math.sqrt(YEAR) if spread else 0.0}


def _read(path: Path) -> dict[str, tuple[float, ...]]:
    """Day -> values in the order of COLUMNS."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names = {name.strip().lower(): name for name in reader.fieldnames or ()}
            lacking = [name for name in ("date", *COLUMNS) if name not in names]
            if lacking:
                raise DataError(f"{path} has no column {lacking[0]!r}. Expected date, {', '.join(COLUMNS)}; found {', '.join(names) or 'nothing'}.")
            found: dict[str, tuple[float, ...]] = {}
            for number, row in enumerate(reader, 2):
                day = (row[names["date"]] or "").strip()
                if not day or day in found:
                    raise DataError(f"Row {number} of {path} has {'no date' if not day else f'the date {day} again'}.")
                found[day] = tuple(_price(row[names[name]], path, number, name) for name in COLUMNS)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}.") from error
    return found


def _price(cell: str | None, path: Path, row: int, column: str) -> float:
    """A number above 0; NaN for an empty cell."""
    if not (cell or "").strip():
        return math.nan
    try:
        value = float(cell)
    except ValueError as error:
        raise DataError(f"Row {row} of {path} has {shorten(cell)} in the column {column}, where a number was expected.") from error
    if not math.isfinite(value) or value < 0 or (value == 0 and column != "volume"):
        raise DataError(f"Row {row} of {path} has {shorten(cell)} in the column {column}; prices are above 0. Leave the cell empty where a value is missing.")
    return value


def _read_sectors(path: Path, stocks: Collection[str]) -> dict[str, str]:
    """Stock -> sector, of `sectors.csv`; nothing where there is none."""
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != 2), None)
    if wrong is not None:
        raise DataError(f"Row {wrong} of {path} must hold a stock and its sector, found {shorten(rows[wrong - 1])}.")
    return {stock.strip(): sector.strip() for stock, sector in rows if stock.strip() in stocks}
