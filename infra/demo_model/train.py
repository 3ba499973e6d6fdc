"""Train the demo checkpoint, from where the last run stopped: `python -m infra.demo_model.train`.

    crops    dense targets on crops packed with print            vision tower, mlp1
    tiles    the same on whole tiles                             vision tower, mlp1
    decoder  questions and answers on cached tiles               language model
    fresh    the same with more new tiles                        language model
    count    the same, with repeated shapes that are counted     language model

The training state is out/state.pt, saved every two minutes and on SIGTERM. Without it training starts from the bundled
weights, and without those from the beginning. After each decoder phase the checkpoint is exported to out/checkpoint
and a small sample of the evaluation is logged.
"""

import os
import sys
from typing import Any

import torch

from infra.demo_model import decoder_trainer, dense_trainer, seeds, training_checkpoint, vocabulary
from infra.demo_model.data_parallel import launch_group
from infra.demo_model.evaluate import InferencePipeline, evaluate, format_table
from infra.demo_model.export import bundled_training_state, export_checkpoint
from infra.demo_model.model import ChatModel, ModelConfig
from infra.demo_model.training_log import log

SAMPLE_QUESTIONS = 40  # of each group, after a decoder phase


def restart_with_passive_wait() -> None:
    """Restart this process with OMP_WAIT_POLICY=PASSIVE: threads that spin while they wait take other programs' CPU."""
    if os.environ.get("OMP_WAIT_POLICY") != "PASSIVE":
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, "-m", "infra.demo_model.train", *sys.argv[1:]])


def export_and_sample(saved: dict[str, Any]) -> None:
    """Export the averaged weights of `saved` and log how they answer a sample of questions."""
    folder = training_checkpoint.OUTPUT_FOLDER / "checkpoint"
    export_checkpoint(saved, folder)
    pipeline = InferencePipeline(folder)
    answers = list(evaluate(pipeline, lambda stream, i: seeds.check(1, stream, i), SAMPLE_QUESTIONS))
    pipeline.close()
    log(phase=saved["phase"], step=saved["step"], sample=format_table(answers).splitlines()[-1])


def load_state() -> dict[str, Any] | None:
    """Return the saved training state, else that of the bundled weights, else None.

    From weights whose last phase has ended, that phase is run again.
    """
    saved = training_checkpoint.load() or bundled_training_state()
    if saved and saved.get("ended"):
        saved["phase"] = min(saved["phase"], decoder_trainer.PHASES[-1].number - 1)
    return saved


def main() -> None:
    """Run the phases that are left."""
    restart_with_passive_wait()
    os.nice(max(0, 19 - os.nice(0)))
    torch.set_flush_denormal(True)  # before any thread starts; denormal numbers slow training by a third
    torch.set_num_threads(1)
    process_group = launch_group(training_checkpoint.OUTPUT_FOLDER)
    timer = training_checkpoint.SaveTimer()
    if process_group.is_main:
        training_checkpoint.write_pid()
        vocabulary.write(training_checkpoint.OUTPUT_FOLDER / "tokenizer")
    process_group.barrier()
    model = ChatModel(ModelConfig(), vocabulary.size())
    dense_trainer.initialise_model(model)
    saved = load_state()
    for dense_phase in dense_trainer.PHASES:
        if saved and saved["phase"] > dense_phase.number:
            continue
        if not dense_trainer.run(model, dense_phase, saved, timer, process_group):
            return
        saved = training_checkpoint.load()
    for phase in decoder_trainer.PHASES:
        assert saved is not None
        if saved["phase"] > phase.number or (saved.get("ended") and saved["phase"] == phase.number):
            continue
        if not decoder_trainer.run(model, phase, saved, timer, process_group):
            return
        saved = training_checkpoint.load()
        assert saved is not None
        if process_group.is_main:
            export_and_sample(saved)
    if process_group.is_main:
        log(phase="ended")


if __name__ == "__main__":
    main()
