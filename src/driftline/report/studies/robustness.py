"""R² in every setting, each row beside its own null (paper, Fig. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from driftline.report import charts
from driftline.report.page import section, table

if TYPE_CHECKING:
    from driftline.studies.robustness import InSetting, RobustnessRecord


def robustness(r: RobustnessRecord) -> list[Markup]:
    rows = r["rows"]
    settings = _over_seeds(rows)
    names = [f"{row['group']}: {row['setting']}" for row in settings]
    figures = [
        ("weights", "weights", charts.RUN, "square"),
        ("null_weights", "chance, weights", charts.CHANCE, "square-open"),
        ("logprobs", "log-probs", charts.FORECAST, "diamond"),
        ("null_logprobs", "chance, log-probs", charts.CHANCE, "diamond-open"),
    ]
    head = ["group", "setting", "seed", "R² weights", "chance", "R² log-probs", "chance", "cosine", "skill", "drift"]
    cells = [
        (
            row["group"],
            row["setting"],
            "–" if row["seed"] is None else str(row["seed"]),
            row["weights"]["median"],
            row["null_weights"]["median"],
            row["logprobs"]["median"],
            row["null_logprobs"]["median"],
            row["cosine"],
            row["skill"],
            "yes" if row["linear"] else "no",
        )
        for row in rows
    ]
    return [
        section(
            "R² in every setting, each beside its own null",
            "Medians with quartiles, of several seeds the medians of these. Dashed: the paper's line at 0.7, which the quartiles "
            "of chance cross too. The table has every run.",
            charts.forest(settings, names, figures, "robustness"),
            table(head, cells),
        )
    ]


def _over_seeds(rows: list[InSetting]) -> list[dict[str, Any]]:
    """One row for each setting: median and quartiles of R², each the median over its seeds."""
    found = []
    for group, setting in dict.fromkeys((row["group"], row["setting"]) for row in rows):
        mine = [row for row in rows if (row["group"], row["setting"]) == (group, setting)]
        middle = {
            key: {
                name: float(np.median(np.array([row[key][name] for row in mine], float)))
                for name in ("q25", "median", "q75")
            }
            for key in ("weights", "null_weights", "logprobs", "null_logprobs")
        }
        found.append({"group": group, "setting": setting, **middle})
    return found
