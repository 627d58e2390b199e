"""The scripted solver on MiniWoB++ in the real browser: how many pages pay it.

Run: ``python bench/miniwob_gold.py --seeds 1 2``. Writes bench/results/miniwob_gold.json: per page, passed or why not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rollout.errors import WorldFault
from rollout.spot import success
from rollout.types import Task
from worldmodel.domains.web import browser, miniwob
from worldmodel.domains.web.miniwob_look import Lost
from worldmodel.domains.web.miniwob_solver import WAYS, solve
from worldmodel.domains.web.real import WebEnvironment


async def outcome(task: Task, page: str) -> str:
    """passed, failed, or the reason why there is no verdict or no way."""
    environment = WebEnvironment(task)
    try:
        await solve(environment, page)
        return "passed" if success(await environment.verify(task.checks)) else "failed"
    except (Lost, WorldFault) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        await environment.close()


async def measure(seeds: list[int]) -> dict[str, list[str]]:
    found = {page: [await outcome(miniwob.make(page, seed), page) for seed in seeds] for page in sorted(WAYS)}
    await browser.on_thread(browser.stop)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "miniwob_gold.json")
    options = parser.parse_args()
    found = asyncio.run(measure(options.seeds))
    passed = sum(all(text == "passed" for text in texts) for texts in found.values())
    command = " ".join(["python", "bench/miniwob_gold.py", *sys.argv[1:]])
    result = {"command": command, "pages_usable": len(miniwob.pages()), "pages_with_a_way": len(found),
              "pages_passed_on_every_seed": passed, "pages": found}  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{passed} of {len(found)} pages passed on every seed")
    return 0 if passed >= 60 else 1


if __name__ == "__main__":
    sys.exit(main())
