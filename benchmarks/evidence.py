"""From a study's study.json the record of its table in the documentation.

    python benchmarks/evidence.py DIR/study.json...      writes docs/evidence/STUDY.json, whose columns it keeps;
                                                         of the strategy lab STUDY-strategy.json

What a study tells of each run is summed up over seeds: the median, and the range where it shows. `make tables` then
renders the documents. A column that study.json says nothing of is left out.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from driftline.studies.rates import MODELS, plan
from driftline.studies.weight_targets import SAID
from tables import ROOT, Row, Table, read

EVIDENCE = ROOT / "docs" / "evidence"
Study = dict[str, Any]


def over_seeds(values: Iterable[float | None], digits: int = 2) -> Any:
    """The one value, or median and range; null where there is none. Null is never reached: counted."""
    given = list(values)
    found = sorted(value for value in given if value is not None and np.isfinite(value))
    never = len(given) - len(found)
    if not found:
        return None
    if not never and found[-1] - found[0] < 0.5 * 10**-digits:
        return float(np.median(found))
    middle = float(np.median([*found, *[np.inf] * never]))
    spread = {"median": middle if np.isfinite(middle) else None, "low": found[0], "high": found[-1]}
    return spread | ({"never": never} if never else {})


def by(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows in groups that agree in `keys`, in the order in which they come."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def summed(rows: Sequence[Row], *keys: str) -> dict[str, Any]:
    return {key: over_seeds(row[key] for row in rows) for key in keys}


def drift(rows: Sequence[Row]) -> dict[str, Any]:
    return {"drift": f"{sum(row['linear'] for row in rows)} of {len(rows)}"}


def noise(study: Study) -> list[Row]:
    figures = ("r2_mean", "r2_median", "null_median", "cosine", "growth")
    return [
        {"level": level} | summed(rows, *figures) | drift(rows) for (level,), rows in by(study["rows"], "level").items()
    ]


def rl_vs_sft(study: Study) -> list[Row]:
    figures = ("accuracy", "r2", "null_r2", "cosine", "growth", "skill")
    names = {"rl": "GRPO", "sft": "SFT"}
    groups = by(study["rows"], "kind", "cut").items()
    return [
        {"run": f"{names[kind]}, {cut}, up to step {max(row['last'] for row in rows)}"} | summed(rows, *figures)
        for (kind, cut), rows in groups
    ]


def robustness(study: Study) -> list[Row]:
    medians = ("weights", "null_weights", "logprobs", "null_logprobs")
    found: list[Row] = []
    for (group, setting), rows in by(study["rows"], "group", "setting").items():
        figures = [
            {key: row[key]["median"] for key in medians} | {key: row[key] for key in ("cosine", "skill")}
            for row in rows
        ]
        found.append({"setting": f"{group}: {setting}"} | summed(figures, *figures[0]) | drift(rows))
    return found


def rank(study: Study) -> list[Row]:
    def ends(values: list[float]) -> Any:
        return {"low": min(values), "high": max(values)} if np.ptp(values) >= 5e-4 else values[0]

    figures = ("energy", "null_energy", "coefficient_r2", "null_coefficient_r2", "skill", "null_skill")
    groups = by(study["rows"], "rank").items()
    return [{"rank": r} | {key: ends([row[key] for row in rows]) for key in figures} for (r,), rows in groups]


def output_change(study: Study) -> list[Row]:
    """The median over layers of each run, then over runs."""
    terms = ("input", "weight", "second_order")
    found: list[Row] = []
    for (step,), rows in by(study["rows"], "step").items():
        runs = by(rows, "run").values()
        found.append(
            {"step": step}
            | {t: over_seeds(float(np.nanmedian([row[t] for row in run])) for run in runs) for t in terms}
        )
    return found


def weight_targets(study: Study) -> list[Row]:
    def correlation(rows: Sequence[Row], key: str) -> tuple[float | None, float | None]:
        pairs = np.array([(row["best_horizon"], row[key]) for row in rows if row[key] is not None], float).reshape(
            -1, 2
        )
        if len(pairs) < 3 or not np.ptp(pairs, axis=0).all():
            return None, None
        found = spearmanr(pairs)
        return float(found.statistic), float(found.pvalue)

    seeds = by([{**row, "seed": row["run"].rpartition("seed ")[2]} for row in study["rows"]], "seed").values()
    found: list[Row] = []
    for key, said in SAID.items():
        rho, p = correlation(study["rows"], key)
        found.append({"measure": said, "rho": rho, "p": p, "by_seed": [correlation(rows, key)[0] for rows in seeds]})
    return found


def beside_the_late_model(study: Study) -> list[Row]:
    """Of weight-targets: the best forecast beside the checkpoint that it started from, by learning rate and checkpoint."""
    found: list[Row] = []
    scored = [{**row, "rate": row["run"].partition(",")[0]} for row in study["rows"] if row.get("control")]
    for (rate, late), rows in by(scored, "rate", "late").items():
        controls = [row["control"] for row in rows]
        found.append(
            {
                "rate": rate,
                "late": late,
                "ahead": over_seeds((row["horizons"][int(np.argmax(row["scores"]))] for row in rows), 0),
                "held": over_seeds(one["late"]["avg@k"] for one in controls),
                "matched": over_seeds(one["late_matched"]["avg@k"] for one in controls),
                "forecast": over_seeds(one["late"]["avg@k"] + one["gain"]["mean"] for one in controls),
                "greedy_late": over_seeds(one["greedy"]["late"] for one in controls),
                "greedy_forecast": over_seeds(one["greedy"]["forecast"] for one in controls),
                "beyond": over_seeds(one["beyond_sharpening"]["mean"] for one in controls),
                "verdict": f"{sum(one['verdict'] == 'gain' for one in controls)} of {len(controls)}",
            }
        )
    return found


BESIDE = (
    {"key": "rate", "title": "learning rate"},
    {"key": "late", "title": "late step"},
    {"key": "ahead", "title": "best target, steps ahead", "decimals": 0},
    {"key": "held", "title": "late", "decimals": 2},
    {"key": "matched", "title": "late, as sure", "decimals": 2},
    {"key": "forecast", "title": "forecast", "decimals": 2},
    {"key": "beyond", "title": "forecast over late, as sure", "decimals": 2},
    {"key": "greedy_late", "title": "greedy: late", "decimals": 2},
    {"key": "greedy_forecast", "title": "greedy: forecast", "decimals": 2},
    {"key": "verdict", "title": "beyond sharpening"},
)


def rates(study: Study) -> list[Row]:
    """A row for each kind, batch and seed: what came of it, and what each model had said of it."""
    found: list[Row] = []
    predicted = [{"kind": "", **row, **row["prediction"]} for row in study["rows"]]
    for (kind, batch, seed), rows in by(predicted, "kind", "batch", "seed").items():
        first = rows[0]
        collapsed = [run["rate"] for run in first["runs"] if run["collapsed"]]
        row: dict[str, Any] = {
            "kind": kind,
            "batch": batch,
            "seed": seed,
            "best": power(first["best"]),
            "end": power(first["best_at_the_end"]),
            "collapsed": power(min(collapsed, default=None)),
        }
        for one in rows:
            limit, (low, high) = one["factor"] * one["rate"], one["factor_interval"]
            to = "up" if high is None else f"to {power(high * one['rate'])}"
            over = "" if first["best"] is None else f"; best at {first['best'] / limit:.2f} of it"
            row[f"limit {one['model']}"] = f"{power(limit)} ({power(low * one['rate'])} {to}){over}"
            ends = [np.inf if end is None else end for end in one["noise_scale_interval"]]
            row[f"noise {one['model']}"] = f"{one['noise_scale']:.0f} ({ends[0]:.0f} to {ends[1]:.0f})"
        found.append(row)
    return sorted(found, key=lambda row: (row["kind"] != "", row["batch"], row["seed"]))


def power(value: float | None) -> str | None:
    """A learning rate as one writes it."""
    return None if value is None else f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")


RATES = (
    {"key": "kind", "title": "kind"},
    {"key": "batch", "title": "batch"},
    {"key": "seed", "title": "seed"},
    {"key": "best", "title": "best rate"},
    {"key": "end", "title": "best at step 30"},
    {"key": "collapsed", "title": "lowest that collapsed"},
    *({"key": f"limit {model}", "title": f"κη, {model}"} for model in MODELS),
    *({"key": f"noise {model}", "title": f"B_noise, {model}"} for model in MODELS),
)


def output_targets(study: Study) -> list[Row]:
    found: list[Row] = []
    for (name, alpha), rows in by(
        [{**row, "of": row["run"].rpartition(", seed")[0]} for row in study["rows"]], "of", "alpha"
    ).items():
        scores = {
            key: over_seeds(row[f"{key}_score"] for row in rows) for key in ("late", "forecast", "matched", "best")
        }
        greedy = [float(np.median([row["greedy"][which] for row in rows])) for which in ("late", "forecast")]
        found.append({"run": name, "alpha": alpha, **scores, "greedy": greedy})
    return found


def speedup(study: Study) -> list[Row]:
    shown = [row for row in study["best"] if row["threshold"] >= 0.75]
    return [
        {
            "threshold": row["threshold"],
            "schedule": row["schedule"],
            "rate": f"{row['rate']:g}",
            "steps": over_seeds(row["steps_by_seed"], 0) or {"median": None},
            **{key: row[key] for key in ("seconds", "speedup_steps", "speedup_seconds")},
        }
        for row in shown
    ]


def filter_bias(study: Study) -> list[Row]:
    """First the walks as they are, in float32; then those that the filter keeps, by the size of the update."""
    plain, momentum = by([row for row in study["rows"] if row["kind"] == "walk"], "momentum").values()
    kinds = {"plain": plain, "momentum": momentum}
    exact: dict[str, Any] = {"size": "all, float32"}
    for kind, rows in kinds.items():
        for key, figure in (("r2", "median"), ("above", "share_above_0.7")):
            exact[f"{key}_{kind}"] = float(np.mean([row["exact"][figure] for row in rows]))
    found: list[Row] = [exact]
    for place, row in enumerate(plain):
        line: dict[str, Any] = {"size": f"{row['size']:.0e}".replace("e-0", "e-")}
        for kind, rows in kinds.items():
            kept = rows[place]["kept"] or {}
            line |= {
                f"kept_{kind}": rows[place]["kept_share"],
                f"r2_{kind}": kept.get("median"),
                f"above_{kind}": kept.get("share_above_0.7"),
            }
        if line["kept_plain"] or line["kept_momentum"]:
            found.append(line)
    return found


SUMMARIES: dict[str, Callable[[Study], list[Row]]] = {
    "noise": noise,
    "rl-vs-sft": rl_vs_sft,
    "robustness": robustness,
    "rank": rank,
    "output-change": output_change,
    "weight-targets": weight_targets,
    "output-targets": output_targets,
    "speedup": speedup,
    "filter-bias": filter_bias,
}


def table_of(study: Study, before: Table) -> Table:
    """The record of a study, with the columns of the one before it."""
    name = study["study"]
    rows = SUMMARIES[name](study)
    columns = [column for column in before.columns if any(column["key"] in row for row in rows)]
    return replace(before, command=command_of(study), columns=columns, rows=rows, source=source_of(study))


def command_of(study: Study) -> str:
    """With the names of the runs that were given, not where they lay."""
    runs = ["--runs", *(shlex.quote(Path(run).name) for run in study["runs"])] if study["runs"] else []
    task = ["--task", study["task"]] if "task" in study else []
    return " ".join(["driftline", "study", study["study"], *task, *runs, "--out", "DIR"])


def source_of(study: Study) -> str:
    return f"study.json of driftline {study['driftline']}"


def main(files: list[str]) -> None:
    for file in files:
        study = json.loads(Path(file).read_text(encoding="utf-8"))
        if study["quick"]:
            sys.exit(f"{file} is of a smoke-sized study: run it without --quick")
        if study["study"] == "rates":
            source = source_of(study)
            if study["runs"]:  # it was stopped, and what was done then measured
                source += f", {len(study['runs'])} of the {len(plan(quick=False, task=study.get('task', 'sums')))} runs"
            rows = rates(study)
            shown = [column for column in RATES if column["key"] != "kind" or any(row["kind"] for row in rows)]
            rows = [{column["key"]: row[column["key"]] for column in shown} for row in rows]
            table = Table(command_of({**study, "runs": []}), shown, rows, source, zero=False)
            table.keep(EVIDENCE / f"rates{'-' + study['task'] if 'task' in study else ''}.json")
            continue
        columns = EVIDENCE / f"{study['study']}.json"
        record = EVIDENCE / f"{study['study']}{'-' + study['task'] if 'task' in study else ''}.json"
        table_of(study, read(columns)).keep(record)
        if study["study"] == "weight-targets" and (rows := beside_the_late_model(study)):
            table = Table(command_of(study), BESIDE, rows, source_of(study), zero=False)
            table.keep(record.with_stem(f"{record.stem}-beside"))


if __name__ == "__main__":
    main(sys.argv[1:])
