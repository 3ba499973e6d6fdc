"""One of tileq's engines as a process of `tests.bench.engine`: its figures, stage by stage, each when it is its turn.

python -m tests.bench.engine_side PLAN resident cpu bfloat16 [--text]
"""

import argparse

import torch

from tests.bench.engine_peers.stages import Plan, report
from tests.bench.measured_engine import MeasuredEngine
from workers.vision.bench.random_model import MINI, make_engine, shapes
from workers.vision.prompts import IMAGE_CONTEXT


class ReportingEngine(MeasuredEngine):
    """Keeps no figure, but hands it on."""

    def note(self, stage: str, value: float) -> None:
        """Report a figure."""
        report(stage, value)


def main() -> None:
    """Make the engine, measure it, and report each figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", type=Plan.read)
    parser.add_argument("kind", choices=["resident", "transformers"])
    parser.add_argument("device", type=torch.device)
    parser.add_argument("dtype", type=lambda name: getattr(torch, name))
    parser.add_argument("--text", action="store_true", help="prompts without an image too")
    chosen = parser.parse_args()
    plan: Plan = chosen.plan
    quantised = None if plan.precision == "bfloat16" else plan.precision
    engine = make_engine(chosen.kind, plan.sizes, chosen.device, chosen.dtype, quantised)
    measured = ReportingEngine(engine, shapes(MINI)[1].token_id(IMAGE_CONTEXT))
    try:
        run_stages(measured, plan, text=chosen.text)
    finally:
        engine.close()


def run_stages(measured: MeasuredEngine, plan: Plan, *, text: bool) -> None:
    """Run the stages; the first single request warms up."""
    measured.ask(measured.request(1, 4))
    together = plan.parts if measured.engine.slots > 1 else []
    for _ in range(plan.rounds if "one" in plan.parts else 0):
        measured.single(1)
    if "large" in plan.parts:
        measured.single(plan.tiles, 16)
    if "second" in plan.parts:
        measured.second_round(plan.tiles)
    if "requests" in plan.parts:
        measured.together(plan.requests)
    for _ in range(plan.rounds if "answers" in together else 0):
        measured.decode_together(plan.requests)
    if text and "requests" in together:
        measured.together_text(plan.requests)


if __name__ == "__main__":
    main()
