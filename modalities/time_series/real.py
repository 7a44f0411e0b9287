"""Real series that come with statsmodels, to measure on: never for training a published model, and never for choosing one.

Most are its `datasets`, the others lie beside its tests. They are read as files; the library is not imported. They are small, old, mostly
economic and from the United States, and several tell of the same thing, so an average over them says how a model does on short macroeconomic
series more than anything else.
"""

import csv
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modalities.time_series.series import Item, SeriesSet
from trainer.errors import DataError, MissingDependencyError, UnknownNameError, did_you_mean

NAME = "statsmodels"
"""What `--data` calls all of them."""
DATASETS, TSA = "datasets/", "tsa/tests/results/"


@dataclass(frozen=True)
class RealSet:
    """Where a data set is and how it is read."""

    name: str
    """What it is called here."""
    file: str
    """Path in the package."""
    frequency: str
    """Sampling interval."""
    columns: tuple[str, ...] = ()
    """The series: columns by name; empty takes all that are not in `drop`."""
    start: str = ""
    """First time, as numpy reads it."""
    notes: str = ""
    """What it is, and what to beware of."""
    drop: tuple[str, ...] = ()
    """Columns that are no series."""
    skip: int = 0
    """Lines before the header."""
    header: tuple[str, ...] | None = None
    """Names of the columns of a file that has no header."""
    horizon: int | None = None
    """Steps ahead; None: what is usual for the frequency."""
    by: str = ""
    """Column that tells series apart in a panel."""


SETS = (
    RealSet("co2", f"{DATASETS}co2/co2.csv", "W", ("co2",), "1958-03-29", "CO2 at Mauna Loa, weekly means 1958 to 2001, some weeks missing"),
    RealSet("sunspots", f"{DATASETS}sunspots/sunspots.csv", "YE", ("SUNACTIVITY",), "1700", "Sunspots per year, a cycle of 9 to 14 years"),
    RealSet("nile", f"{DATASETS}nile/nile.csv", "YE", ("volume",), "1871", "Annual flow of the Nile at Aswan; its level falls in 1899"),
    RealSet("elnino", f"{DATASETS}elnino/elnino.csv", "ME", (), "1950-01", "Temperature of the sea off Peru by month, 1950 to 2010: a row per year, read in its order", ("YEAR",)),
    RealSet("elec_equip", f"{DATASETS}elec_equip/elec_equip.csv", "ME", ("STS.M.I7.W.TOVT.NS0016.4.000",), "1995-01", "Turnover of makers of electrical equipment, euro area, 1995 to 2016"),
    RealSet("macrodata", f"{DATASETS}macrodata/macrodata.csv", "QE", (), "1959-01", "United States, 12 series of the economy, 1959 to 2009; the test lies in the crisis", ("year", "quarter")),
    RealSet("danish", f"{DATASETS}danish_data/data.csv", "QE", (), "1974-01", "Danish money, income, prices and interest, 55 quarters", ("period",)),
    RealSet("interest_inflation", f"{DATASETS}interest_inflation/E6.csv", "QE", ("Dp", "R"), "1972-04", "German inflation, which has a season, and interest, 1972 to 1998"),
    RealSet("copper", f"{DATASETS}copper/copper.csv", "YE", (), "1951", "World market of copper, 25 years: almost too short for anything", ("YEAR", "TIME"), horizon=4),
    RealSet("grunfeld", f"{DATASETS}grunfeld/grunfeld.csv", "YE", ("invest", "value", "capital"), "1935", "Investment of 11 firms, 20 years each", by="firm", horizon=4),
    RealSet("electricity_victoria", "tsa/stl/tests/results/mstl_elec_vic.csv", "h", ("y",), "2012-01-01", "Demand for electricity in Victoria by hour, five months of 2012"),
    RealSet("co2_monthly", "tsa/stl/tests/results/stl_co2.csv", "ME", (), "1959-01", "CO2 at Mauna Loa by month, 1959 to 1987: the same place as co2", header=("co2",)),
    RealSet("housing", "tsa/holtwinters/tests/results/housing-data.csv", "ME", ("HOUSTNSA",), "1959-01", "Houses begun in the United States, with their season; the test follows the crisis of 2008"),
    RealSet("gnp_annual", f"{TSA}rgnp.csv", "YE", (), "1909", "Logarithm of the real product of the United States, 1909 to 1970 (Nelson and Plosser)"),
    RealSet("gnp_deflator", f"{TSA}gnpdef.csv", "YE", (), "1889", "Logarithm of United States prices, 1889 to 1970 (Nelson and Plosser)"),
    RealSet("stock_prices", f"{TSA}stkprc.csv", "YE", (), "1871", "Logarithm of United States stock prices, 1871 to 1970 (Nelson and Plosser): close to a random walk"),
    RealSet("gnp_quarterly", f"{TSA}rgnpq.csv", "QE", (), "1947-01", "Logarithm of the real product of the United States by quarter"),
    RealSet("sp500", f"{TSA}SP500.csv", "ME", (), "1947-01", "Standard and Poor's index by month, 1947 to 1985 (Schwert): close to a random walk"),
    RealSet("unemployment", f"{TSA}UN.csv", "ME", (), "1948-01", "United States unemployment by month (Schwert)"),
    RealSet("bond_yield", f"{TSA}BAA.csv", "ME", (), "1947-01", "Yield of Baa bonds by month (Schwert): close to a random walk"),
    RealSet("production", "tsa/regime_switching/tests/results/mar_filardo.csv", "ME", ("dlip",), "1948-02", "Growth of United States industrial production by month (Filardo): mostly noise"),
    RealSet("clark", "tsa/statespace/tests/results/clark1989.csv", "QE", ("gnp",), "1948-01", "United States product by quarter (Clark): overlaps with gnp_quarterly", header=("gnp", "unemployment")),
    RealSet("wholesale_prices", "tsa/statespace/tests/results/results_wpi1_ar3_stata.csv", "QE", ("wpi",), "1960-01", "United States wholesale prices, 1960 to 1990"),
    RealSet("germany_investment", "tsa/vector_ar/tests/results/e1.dat", "QE", (), "1960-01", "West German investment, income, consumption (Luetkepohl E1)", skip=6),
    RealSet("us_investment", "tsa/vector_ar/tests/results/e2.dat", "QE", (), "1947-01", "United States investment and inventories (Luetkepohl E2)", skip=7),
    RealSet("us_money", "tsa/vector_ar/tests/results/e3.dat", "QE", (), "1954-01", "United States money, product, interest (Luetkepohl E3)", skip=9),
    RealSet("germany_income", "tsa/vector_ar/tests/results/e4.dat", "QE", (), "1960-01", "West German income and consumption, with their season (Luetkepohl E4)", skip=8),
    RealSet("germany_interest", "tsa/vector_ar/tests/results/e5.dat", "ME", (), "1960-01", "West German interest by month (Luetkepohl E5)", skip=8),
    RealSet("nowcast", "tsa/statespace/tests/results/frbny_nowcast/Nowcasting/data/US/2016-06-29.csv", "ME", (
        "PAYEMS", "CPIAUCSL", "DGORDER", "HSN1F", "RSAFS", "UNRATE", "HOUST", "INDPRO", "DSPIC96", "CPILFESL", "PERMIT", "TCU", "BUSINV", "PCEC96",
    ), "1985-01", "Monthly indicators of the United States economy, seasonally adjusted, 1985 to 2016 (New York Fed)"),
)  # fmt: skip
"""All of them. Titles of units and sources are in the documentation of statsmodels."""


def real_sets(names: tuple[str, ...] | None = None) -> list[SeriesSet]:
    """The built-in data sets, or some of them by name. UnknownNameError for others; MissingDependencyError without statsmodels."""
    known = {entry.name: entry for entry in SETS}
    for name in names or ():
        if name not in known:
            raise UnknownNameError(f"{name!r} is none of the built-in series.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    root = package()
    return [read(known[name], root) for name in (names or known)]


def package() -> Path:
    """The folder of statsmodels, which is not imported."""
    spec = importlib.util.find_spec("statsmodels")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("The built-in real series come with the library 'statsmodels', which is not installed: pip install 'modality-zoo[time_series]'.")
    return Path(next(iter(spec.submodule_search_locations)))


def read(entry: RealSet, root: Path) -> SeriesSet:
    """One data set. DataError where this version of statsmodels has it no more, or otherwise."""
    path = root / entry.file
    try:
        lines = path.read_text("utf-8-sig").splitlines()[entry.skip :]
    except OSError as error:
        raise DataError(f"The built-in series {entry.name} are not in this version of statsmodels ({path}: {error.strerror}).") from error
    lines = [line for line in lines if line.strip() and not line.startswith(("/*", "*/", "<"))]
    rows = [line.split() for line in lines] if path.suffix == ".dat" else list(csv.reader(lines, skipinitialspace=True))
    header, rows = (list(entry.header), rows) if entry.header else (rows[0], rows[1:])
    columns = entry.columns or tuple(name for name in header if name not in (*entry.drop, entry.by))
    try:
        table = {name: [row[header.index(name)].strip() for row in rows] for name in (*columns, *((entry.by,) if entry.by else ()))}
        values = {name: np.array([float(cell) if re.search(r"\d", cell) else np.nan for cell in table[name]]) for name in columns}
    except (ValueError, IndexError) as error:
        raise DataError(f"The built-in series {entry.name} look otherwise in this version of statsmodels ({path}: {error}).") from error
    if entry.name == "elnino":
        values = {"elnino": np.stack([values[name] for name in columns], 1).ravel()}
    members = table[entry.by] if entry.by else [""] * len(next(iter(values.values())))
    items = []
    for member in dict.fromkeys(members):
        rows_of = np.array([m == member for m in members])
        for name, column in values.items():
            found = column[rows_of] if entry.by else column
            seen = np.flatnonzero(np.isfinite(found))
            found = found[seen[0] : seen[-1] + 1]  # what is missing at the ends was not measured yet
            items.append(Item(" ".join(part for part in (member, name) if part), found[None], times=_times(entry, int(seen[0]), len(found)), frequency=entry.frequency))
    return SeriesSet(entry.name, tuple(items), entry.horizon, {"source": f"statsmodels, {entry.file}", "notes": entry.notes})


def _times(entry: RealSet, first: int, count: int) -> np.ndarray:
    unit, step = {"YE": ("Y", 1), "QE": ("M", 3), "ME": ("M", 1), "W": ("D", 7), "D": ("D", 1), "h": ("h", 1)}[entry.frequency]
    return (np.datetime64(entry.start, unit) + step * np.arange(first, first + count)).astype("datetime64[s]")
