"""All that an accelerator changes, on one GPU, in less than eight minutes: engines, the embedded server, log-probs.

    python benchmarks/gpu.py [--early MODEL --late MODEL] [--keep]    in an environment with vLLM

Without a GPU it says so and measures nothing. With --keep the record has the card's name, and RESULTS.md its table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tables import Table

# What is measured is imported where it is needed: vLLM's processes import this file again.
_PLACE = re.compile(r"(<!-- gpu -->\n).*?(<!-- end of gpu -->)", re.DOTALL)


def show(table: Table) -> None:
    """Keep the record, and put its table where RESULTS.md has a place for it."""
    from tables import RECORDS, ROOT, rendered

    table.keep(RECORDS / "gpu.json")
    results = ROOT / "benchmarks" / "RESULTS.md"
    marks = "<!-- table: benchmarks/records/gpu.json -->\n<!-- end of table -->\n"
    told = f"Measured on {table.source}.\n\n{marks}"
    text = _PLACE.sub(lambda found: f"{found[1]}\n{told}\n{found[2]}", results.read_text(encoding="utf-8"))
    results.write_text(rendered(text), encoding="utf-8")


def main() -> None:
    import torch

    import engine_speed
    import server
    from driftline.decoding.sources import load_sampler
    from driftline.models import quiet_libraries
    from tables import Table

    asked = engine_speed.arguments(__doc__)
    if not torch.cuda.is_available():
        print("no GPU is here: nothing was measured")
        return
    quiet_libraries()
    with engine_speed.pair_of(asked.early, asked.late) as (early, late):
        rows = engine_speed.speeds(early, late, new=256, rounds=1)
        sampler = load_sampler(late, early=early, alpha=engine_speed.ALPHA)
        sampler.end_ids = frozenset()
        clients = [server.measured(sampler, count, requests=2, tokens=128) for count in server.CLIENTS]
        del sampler
        torch.cuda.empty_cache()
        scored = engine_speed.scoring(late, count=256, length=512, rounds=1)
    columns = (
        *engine_speed.SPEED,
        {"key": "most", "title": "p99 s", "decimals": 2},
        {"key": "apart", "title": "largest difference, nats", "digits": 2},
    )
    keys = {column["key"] for column in columns}
    for row in clients:
        row["what"] = f"embedded server, {row['clients']} clients"
    for row in scored:
        row["what"] = f"log-probs: {row['what']}"
    kept = [{key: value for key, value in row.items() if key in keys} for row in (*rows, *clients, *scored)]
    table = Table("python benchmarks/gpu.py", columns, kept, source=torch.cuda.get_device_name())
    print(table.text(), flush=True)
    if asked.keep:
        show(table)


if __name__ == "__main__":
    main()
