"""OpenVINO: the decoder under GenAI's continuous batching with its prefix cache, the tower compiled by itself.

int8 and int4 are NNCF's weight compression (int4 symmetric in groups of 64, the embedding and the head int8), with
which the CPU plugin quantises activations too. The tower is int8 in weights and activations (NNCF's calibrated
quantisation, on random tiles) for both. A request with an image is timed as its tile plus its prompt without one.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import openvino_genai as genai
import torch
from openvino_tokenizers import convert_tokenizer
from optimum.exporters.openvino import export_from_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.bench.engine_peers import stages
from tests.bench.engine_peers.stages import Plan, report

CACHE_GB = 3
CALIBRATION_TILES = 4
DONE = "complete"  #: a file in a folder that was written to its end


def main() -> None:
    """Convert what is missing, then measure."""
    plan = Plan.from_arguments()
    properties = {"INFERENCE_NUM_THREADS": plan.threads, "INFERENCE_PRECISION_HINT": "bf16"}
    compiled = ov.Core().compile_model(tower_file(plan), "CPU", properties)
    pipeline = Pipeline(decoder_folder(plan), properties)
    pipeline.seconds([stages.text_ids(0, 64)], 4)  # warms up
    small, large = plan.prompts
    tile_s = vision_s(compiled, 1)
    for seed in range(plan.rounds if "one" in plan.parts else 0):
        report(stages.vision(1), tile_s := vision_s(compiled, 1))
        one(pipeline, stages.text_ids(10 + seed, small), stages.NEW)
    ids = stages.text_ids(1, large)
    if "large" in plan.parts:
        report(stages.vision(plan.tiles), vision_s(compiled, plan.tiles))
        one(pipeline, ids, 16)
    if "second" in plan.parts:
        pipeline.seconds([ids], 4)
        first_s, _ = pipeline.seconds([[*ids[: -stages.TEXT], *stages.text_ids(2, stages.TEXT)]], 4)
        report(stages.second_round(plan.tiles), first_s)
    for seed in range(plan.rounds if {"requests", "answers"} & set(plan.parts) else 0):
        prompts = [stages.text_ids(100 * (seed + 1) + number, small) for number in range(plan.requests)]
        first_s, whole_s = pipeline.seconds(prompts, stages.NEW)
        report(stages.together(plan.requests), whole_s + plan.requests * tile_s)
        report(stages.decode_together(plan.requests), plan.requests * (stages.NEW - 1) / (whole_s - first_s))
        report(stages.together_text(plan.requests), whole_s)


class Pipeline:
    """GenAI's continuous batching."""

    def __init__(self, folder: Path, properties: dict[str, Any]) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.enable_prefix_caching = True
        self._pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
        self._serial = 0

    def seconds(self, prompts: Sequence[list[int]], new: int) -> tuple[float, float]:
        """Seconds until every prompt has its first token, and until all have `new`."""
        config = genai.GenerationConfig(max_new_tokens=new, ignore_eos=True)
        began, handles, first_s = time.perf_counter(), [], 0.0
        for ids in prompts:
            self._serial += 1
            handles.append(self._pipeline.add_request(self._serial, ov.Tensor(np.array([ids])), config))
        started = [False] * len(handles)
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            started = [done or handle.can_read() for done, handle in zip(started, handles, strict=True)]
            first_s = first_s or (time.perf_counter() - began if all(started) else 0.0)
        return first_s, time.perf_counter() - began


def one(pipeline: Pipeline, ids: list[int], new: int) -> None:
    """Report prefill and decoding of one request alone."""
    first_s, whole_s = pipeline.seconds([ids], new)
    report(stages.prefill(len(ids)), len(ids) / first_s)
    report(stages.decode(len(ids)), (new - 1) / (whole_s - first_s))


def vision_s(compiled: Callable[[Any], object], tiles: int) -> float:
    """Seconds of an image of `tiles`."""
    pixels = np.random.default_rng(tiles).standard_normal((tiles, 3, stages.SIDE, stages.SIDE), np.float32)
    began = time.perf_counter()
    compiled(pixels)
    return time.perf_counter() - began


def tower_file(plan: Plan) -> Path:
    """The tower with its projector, float32 weights or int8."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    path = plan.folder / f"tower.{'float32' if plan.precision == 'bfloat16' else 'int8'}.xml"
    if not path.exists():
        pixels = torch.randn(1, 3, stages.SIDE, stages.SIDE)
        with torch.no_grad():
            converted = ov.convert_model(
                Tower(plan.sizes), example_input=pixels, input=[-1, 3, stages.SIDE, stages.SIDE]
            )
        if plan.precision != "bfloat16":
            tiles = [torch.randn_like(pixels).numpy() for _ in range(CALIBRATION_TILES)]
            converted = nncf.quantize(converted, nncf.Dataset(tiles), model_type=nncf.ModelType.TRANSFORMER)
        ov.save_model(converted, path, compress_to_fp16=False)
    return path


class Tower(nn.Module):
    """transformers' InternVL up to the features of the decoder."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        text = decoder_config(sizes)
        text.num_hidden_layers = 1
        vision = InternVLVisionConfig(**sizes["vision_config"], attention_bias=True, use_mean_pooling=True)
        vision.image_size, vision.patch_size = (stages.SIDE,) * 2, (sizes["vision_config"]["patch_size"],) * 2
        self.model = InternVLForConditionalGeneration(InternVLConfig(vision_config=vision, text_config=text)).eval()  # type: ignore[no-untyped-call]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(T, 3, side, side) to (T, tokens, hidden)."""
        found: Any = self.model.model.get_image_features(pixels)
        features: torch.Tensor = getattr(found, "pooler_output", found)
        return features


def decoder_config(sizes: dict[str, Any]) -> LlamaConfig:
    """InternLM2's shapes are Llama's."""
    return LlamaConfig(**sizes["llm_config"], max_position_embeddings=32768, tie_word_embeddings=False)


def decoder_folder(plan: Plan) -> Path:
    """What GenAI opens: the decoder's IR, and a tokenizer that it never uses."""
    plain = plan.folder / "bfloat16"
    if not (plain / DONE).exists():
        _export(plan.sizes, plain)
    folder = plan.folder / plan.precision
    if not (folder / DONE).exists():
        shutil.copytree(plain, folder, ignore=lambda *_: {DONE, "openvino_model.xml", "openvino_model.bin"})
        grouped = {"group_size": 64, "ratio": 1.0} if plan.precision == "int4" else {}
        mode = {"int8": nncf.CompressWeightsMode.INT8_SYM, "int4": nncf.CompressWeightsMode.INT4_SYM}[plan.precision]
        compressed = nncf.compress_weights(ov.Core().read_model(plain / "openvino_model.xml"), mode=mode, **grouped)
        ov.save_model(compressed, folder / "openvino_model.xml")
        (folder / DONE).touch()
    return folder


def _export(sizes: dict[str, Any], folder: Path) -> None:
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(decoder_config(sizes)).eval()  # type: ignore[no-untyped-call]
    torch.set_default_dtype(torch.float32)
    task = "text-generation-with-past"
    export_from_model(model, folder, task=task, stateful=True, preprocessors=[], patch_16bit_model=True)
    for converted, kind in zip(convert_tokenizer(_bytes_tokenizer(), with_detokenizer=True), ("", "de"), strict=True):
        ov.save_model(converted, folder / f"openvino_{kind}tokenizer.xml")
    (folder / DONE).touch()


def _bytes_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate([*alphabet, "</s>"])}, merges=[]))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="</s>")  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
