"""R² in every setting, each row beside its own null (paper, Fig. 2)."""

from __future__ import annotations

from typing import Any

from driftline.report import charts
from driftline.report.page import section, table, text


def robustness(r: dict[str, Any]) -> list[str]:
    rows = r["rows"]
    names = [text(f"{row['group']}: {row['setting']} ({row['seed']})") for row in rows]
    figures = [
        ("weights", "weights", charts.RUN, "square"),
        ("null_weights", "their null", charts.CHANCE, "square-open"),
        ("logprobs", "log-probs", charts.FORECAST, "diamond"),
        ("null_logprobs", "their null", charts.CHANCE, "diamond-open"),
    ]
    head = ["group", "setting", "seed", "R² weights", "chance", "R² log-probs", "chance", "cosine", "skill", "drift"]
    cells = [
        (
            row["group"], row["setting"], str(row["seed"]), row["weights"]["median"], row["null_weights"]["median"],
            row["logprobs"]["median"], row["null_logprobs"]["median"], row["cosine"], row["skill"], "yes" if row["linear"] else "no",
        )
        for row in rows
    ]  # fmt: skip
    return [
        section(
            "R² in every setting, each beside its own null",
            "Medians with quartiles. Dashed: the paper's line at 0.7, which chance crosses too. In brackets: the seed.",
            charts.forest(rows, names, figures, "robustness"),
            table(head, cells),
        )
    ]
