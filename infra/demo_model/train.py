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

from infra.demo_model import decoder_trainer, dense_trainer, export, seeds, training_checkpoint, vocabulary
from infra.demo_model.data_parallel import launch_ranks
from infra.demo_model.evaluate import InferencePipeline, evaluate, format_table
from infra.demo_model.model import ChatModel, ModelConfig

SAMPLE_QUESTIONS = 40  # questions of each group after a phase


def restart_with_passive_wait() -> None:
    """Start again with threads that sleep while they wait: beside other work, waiting ones would eat what is left."""
    if os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, "-m", "infra.demo_model.train", *sys.argv[1:]])


def export_and_sample(saved: dict[str, Any]) -> None:
    """Export what there is and ask it a few questions."""
    folder = training_checkpoint.OUTPUT_FOLDER / "checkpoint"
    export.export_checkpoint(saved, folder)
    pipeline = InferencePipeline(folder)
    answers = list(evaluate(pipeline, lambda stream_key, i: seeds.check(1, stream_key, i), SAMPLE_QUESTIONS))
    pipeline.engine.close()
    training_checkpoint.log(phase=saved["phase"], step=saved["step"], sample=format_table(answers).splitlines()[-1])


def main() -> None:
    """Go through the phases that are left."""
    restart_with_passive_wait()
    os.nice(max(0, 19 - os.nice(0)))
    torch.set_flush_denormal(True)  # before any thread starts: it slows training by a third otherwise
    torch.set_num_threads(1)
    process_group = launch_ranks(training_checkpoint.OUTPUT_FOLDER)
    timer = training_checkpoint.CheckpointTimer()
    if process_group.is_main:
        training_checkpoint.write_pid()
        vocabulary.write(training_checkpoint.OUTPUT_FOLDER / "tokenizer")
    process_group.barrier()
    model = ChatModel(ModelConfig(), vocabulary.size())
    torch.manual_seed(0)
    dense_trainer.initialise_model(model)
    saved = training_checkpoint.load("state.pt") or export.bundled_training_state()
    if saved and saved.get("ended"):
        saved["phase"] = min(saved["phase"], decoder_trainer.PHASES[-1].number - 1)
    for phase in dense_trainer.PHASES:
        if saved and saved["phase"] > phase.number:
            continue
        if not dense_trainer.run(model, phase, saved, timer, process_group):
            return
        saved = training_checkpoint.load("state.pt")
    for conversation in decoder_trainer.PHASES:
        assert saved is not None
        if saved["phase"] > conversation.number or (saved.get("ended") and saved["phase"] == conversation.number):
            continue
        if not decoder_trainer.run(model, conversation, saved, timer, process_group):
            return
        saved = training_checkpoint.load("state.pt")
        assert saved is not None
        if process_group.is_main:
            export_and_sample(saved)
    if process_group.is_main:
        training_checkpoint.log(phase="ended")


if __name__ == "__main__":
    main()
