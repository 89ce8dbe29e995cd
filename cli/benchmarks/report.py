"""What a measurement is told in: a table, bench.json for programs, and bench.html, one page for people."""

from __future__ import annotations

import importlib
import json
import math
import statistics
from datetime import datetime, timezone
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.benchmarks import PARTS, Figure, spread

if TYPE_CHECKING:
    from rich.table import Table

Entry = dict[str, Any]  # a figure, or a side of it, as bench.json has it
COLUMNS = 3  # more sides than that are shown in rows


def title(part: str) -> str:
    """What a part measures, in a line."""
    return docstring(part)[0]


def docstring(part: str) -> tuple[str, str]:
    """What the module of a part says of it: a line, and the rest."""
    first, _, rest = (importlib.import_module(f"cli.benchmarks.{part}").__doc__ or part).partition("\n\n")
    return first.strip().rstrip("."), " ".join(rest.split())


def groups(entries: list[Entry]) -> list[list[Entry]]:
    """The figures as bench.json has them, those of the same values together."""
    return [list(group) for _, group in groupby(entries, itemgetter("label", "unit", "sides"))]


def show(figures: list[Figure]) -> None:
    """Print a table for each run of figures with the same sides."""
    from verification.report import terminal  # noqa: PLC0415 - see cli/__init__.py

    console = terminal.console()
    console.print()
    found = groups([entry(figure) for figure in figures])
    for sides, members in groupby(found, lambda group: tuple(group[0]["sides"])):
        for each in [list(members)] if len(sides) <= COLUMNS else [[group] for group in members]:
            console.print(table(each))


def table(members: list[list[Entry]]) -> Table:
    """A table of figures with the same sides: a column a side, or a row a side where there are many."""
    from rich import box  # noqa: PLC0415 - see cli/__init__.py
    from rich.table import Table  # noqa: PLC0415 - see cli/__init__.py

    first = members[0][0]
    wide = len(first["sides"]) <= COLUMNS
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1), header_style="bold")
    result.add_column("" if wide else f"{first['label']}, {first['unit']}", min_width=20)
    for heading in [*(first["sides"] if wide else ["median"]), "ratio", "target"]:
        result.add_column(heading, justify="right", no_wrap=True)
    for group in members:
        values = {name: value(side) for name, side in group[0]["sides"].items()}
        rows = (
            [[f"{group[0]['label']}, {group[0]['unit']}", *values.values()]] if wide else [*map(list, values.items())]
        )
        ratios = [ratio(each) for each in group if each["ratio"] is not None]
        blank = [""] * len(rows[0])
        for row, cells in zip_longest(rows, ratios):
            result.add_row(*(row or blank), *(cells or ("", "")))
    return result


def value(side: Entry) -> str:
    """Such as "2.71 ±0.04"."""
    around = f" [dim]±{significant(side['spread'], 2)}[/]" if len(side["rounds"]) > 1 else ""
    return significant(side["median"]) + around


def significant(number: float, digits: int = 3) -> str:
    """A number with the digits that mean something: "0.0421", "2.71", "16.2", "1650"."""
    if number == 0:
        return "0"
    return f"{number:.{max(0, digits - 1 - math.floor(math.log10(abs(number))))}f}"


def ratio(figure: Entry) -> tuple[str, str]:
    """The cells of the ratio and of its target."""
    told = f"{figure['ratio']:.2f}" + (f" of {figure['over']}" if figure["over"] else "")
    if figure["target"] is None:
        return told, ""
    style, mark = ("green", "✓") if figure["met"] else ("bold red", "✗")
    return f"[{style}]{told}[/]", f"[{style}]≤ {figure['target']:g} {mark}[/]"


def write(part: str, figures: list[Figure], path: Path) -> None:
    """Put a part in the place of its last measurement, in bench.json and in the page made of it."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    parts = document.get("parts", {})
    parts[part] = {
        "title": title(part),
        "about": docstring(part)[1],
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "figures": [entry(figure) for figure in figures],
    }
    parts = {name: parts[name] for name in PARTS if name in parts}
    ratios = {
        figure["key"]: figure["ratio"]
        for each in parts.values()
        for figure in each["figures"]
        if figure["ratio"] is not None
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"ratios": ratios, "parts": parts}, indent=2, ensure_ascii=False) + "\n", "utf-8")
    path.with_suffix(".html").write_text(page(parts), "utf-8")


def entry(figure: Figure) -> Entry:
    """A figure as bench.json has it."""
    return {
        "key": figure.key,
        "label": figure.label,
        "unit": figure.unit,
        "over": figure.base,
        "ratio": None if figure.ratio is None else round(figure.ratio, 3),
        "target": figure.target,
        "met": figure.met,
        "note": figure.note,
        "sides": {
            name: {"median": statistics.median(values), "spread": spread(values), "rounds": values}
            for name, values in figure.sides.items()
        },
    }


def page(parts: dict[str, Any]) -> str:
    """The page of everything in bench.json: one file that asks the network for nothing and runs no script."""
    import jinja2  # noqa: PLC0415 - see cli/__init__.py

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"significant": significant, "date": datetime.fromisoformat, "groups": groups}
    promised = [figure for each in parts.values() for figure in each["figures"] if figure["target"] is not None]
    return environment.get_template("page.html.j2").render(
        parts=parts, promised=promised, missed=[figure for figure in promised if not figure["met"]]
    )
