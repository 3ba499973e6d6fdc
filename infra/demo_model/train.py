"""Train the demo checkpoint, from wherever training stands: `python -m infra.demo_model.train`.

    crops    dense targets on crops packed with print        vision tower, mlp1
    tiles    the same on whole tiles, at a falling rate      vision tower, mlp1
    decoder  questions and answers on tiles already seen     language model
    fresh    the same on newer tiles                         language model
    count    the same, shapes alike and how many they are    language model

The state lies in out/state.pt, written every two minutes and on SIGTERM; without it training goes on from the bundled
weights, and without those from the beginning. After each phase with a decoder the checkpoint is exported to
out/checkpoint and asked a few questions.
"""

import os
import sys
from typing import Any

import torch

from infra.demo_model import decoder_trainer as decoder
from infra.demo_model import dense_trainer as dense
from infra.demo_model import export, seeds, vocabulary
from infra.demo_model import training_checkpoint as state
from infra.demo_model.data_parallel import meet
from infra.demo_model.evaluate import Asker, ask, table
from infra.demo_model.model import ChatModel, Sizes

SAMPLE = 40  # questions of each group after a phase


def yielding() -> None:
    """Start again with threads that sleep while they wait: beside other work, waiting ones would eat what is left."""
    if os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, "-m", "infra.demo_model.train", *sys.argv[1:]])


def look(saved: dict[str, Any]) -> None:
    """Export what there is and ask it a few questions."""
    folder = state.OUT / "checkpoint"
    export.export(saved, folder)
    asker = Asker(folder)
    answers = list(ask(asker, lambda part, i: seeds.check(1, part, i), SAMPLE))
    asker.engine.close()
    state.log(phase=saved["phase"], step=saved["step"], sample=table(answers).splitlines()[-1])


def main() -> None:
    """Go through the phases that are left."""
    yielding()
    os.nice(max(0, 19 - os.nice(0)))
    torch.set_flush_denormal(True)  # before any thread starts: it slows training by a third otherwise
    torch.set_num_threads(1)
    pair = meet(state.OUT)
    clock = state.Clock()
    if pair.first:
        state.write_pid()
        vocabulary.write(state.OUT / "tokenizer")
    pair.wait()
    model = ChatModel(Sizes(), vocabulary.size())
    torch.manual_seed(0)
    dense.start(model)
    saved = state.load("state.pt") or export.restore()
    if saved and saved.get("ended"):
        saved["phase"] = min(saved["phase"], decoder.PHASES[-1].number - 1)
    for phase in dense.PHASES:
        if saved and saved["phase"] > phase.number:
            continue
        if not dense.run(model, phase, saved, clock, pair):
            return
        saved = state.load("state.pt")
    for talk in decoder.PHASES:
        assert saved is not None
        if saved["phase"] > talk.number or (saved.get("ended") and saved["phase"] == talk.number):
            continue
        if not decoder.run(model, talk, saved, clock, pair):
            return
        saved = state.load("state.pt")
        assert saved is not None
        if pair.first:
            look(saved)
    if pair.first:
        state.log(phase="ended")


if __name__ == "__main__":
    main()
