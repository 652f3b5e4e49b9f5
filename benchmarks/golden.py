"""How well the planner answers the golden set, and how fast it plans. Prints one JSON line a figure.

    python benchmarks/golden.py [--write]

Needs the recorded mainnet blocks at ../shared/data. `--write` puts the table into docs/answers.md, where a test compares it. The controls must come out near nothing:
`shuffled` compares each answer with the result of another question, `silent` is a planner that abstains from everything. docs/answers.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "golden"))

from golden_set import HALVES, ask, by_planner, figures, lakes, page, questions, shuffled, silent, tip_of  # noqa: E402

PAGE = REPOSITORY / "docs" / "answers.md"
REPEATS = 5


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="put the table into docs/answers.md")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, lakes(Path(folder)) as connections:
        found: dict[str, dict[str, Any]] = {}
        for half in HALVES:
            asked = questions(half)
            found[half] = figures(ask(by_planner, asked, connections))
            show("golden", {"half": half, "planner": "planner", **found[half]})
            show("golden", {"half": half, "planner": "silent", **figures(ask(silent, asked, connections))})
            show("golden", {"half": half, "planner": "shuffled", **figures(ask(by_planner, shuffled(asked), connections))})
        tip = tip_of(connections["chain"])
        times = []
        for question in [question for half in HALVES for question in questions(half)] * REPEATS:
            started = time.process_time()
            by_planner(question.text, tip)
            times.append(1e3 * (time.process_time() - started))
    show("plan_cpu_ms", {"median": round(statistics.median(times), 3), "p99": round(statistics.quantiles(times, n=100)[98], 3), "plans": len(times)})
    if given.write:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


def show(figure: str, facts: dict[str, Any]) -> None:
    """One line."""
    print(json.dumps({"figure": figure, "kind": "measured", **facts}), flush=True)


if __name__ == "__main__":
    main()
