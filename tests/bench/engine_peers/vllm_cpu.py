"""vLLM on a CPU: its InternVL in transformers' layout, dummy weights, prefix cache on, the engine in this process.

Vision is the model's own call for a batch of tiles; requests bring their image as pixels, which vLLM cuts into tiles.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "3", "HF_HUB_OFFLINE": "1"}

from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from vllm import LLM, SamplingParams

from tests.bench.engine_peers import stages
from tests.bench.engine_peers.stages import Plan, report

IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
WORDS = 500  #: ids of plain text


def main() -> None:
    """Write the model's folder, then measure."""
    plan = Plan.from_arguments()
    write_folder(plan)
    llm = LLM(
        model=str(plan.folder),
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=True,  # compiling takes minutes, and was not seen to be faster
        enable_prefix_caching=True,
        mm_processor_cache_gb=0,
        max_model_len=4096,
        max_num_seqs=plan.requests,
        limit_mm_per_prompt={"image": 1, "video": 0},
    )
    requests = Requests(llm)
    requests.seconds([requests.text(0, 64)], 4)  # warms up
    small, large = plan.prompts
    if "one" in plan.parts:
        vision(llm, 1, plan.rounds)
    for seed in range(plan.rounds if "one" in plan.parts else 0):
        one(requests, small, requests.text(10 + seed, small), stages.NEW)
    if "large" in plan.parts:
        vision(llm, plan.tiles, plan.rounds)
        one(requests, large, requests.text(1, large), 16)
    if "second" in plan.parts:
        requests.seconds([requests.image(plan.tiles, image=1, question=1)], 4)
        first_s, _ = requests.seconds([requests.image(plan.tiles, image=1, question=2)], 4)
        report(stages.second_round(plan.tiles), first_s)
    if not {"requests", "answers"} & set(plan.parts):
        return
    for seed in range(plan.rounds):
        numbers = [100 * (seed + 1) + number for number in range(plan.requests)]
        first_s, whole_s = requests.seconds([requests.text(number, small) for number in numbers], stages.NEW)
        report(stages.together_text(plan.requests), whole_s)
        report(stages.decode_together(plan.requests), plan.requests * (stages.NEW - 1) / (whole_s - first_s))
    images = [requests.image(1, image=2 + number, question=3) for number in range(plan.requests)]
    report(stages.together(plan.requests), requests.seconds(images, stages.NEW)[1])


class Requests:
    """Draws prompts and follows them."""

    def __init__(self, llm: LLM) -> None:
        self._engine: Any = llm.llm_engine
        self._serial = 0
        self._image_token: int = llm.get_tokenizer().convert_tokens_to_ids("<IMG_CONTEXT>")

    @staticmethod
    def text(seed: int, tokens: int) -> dict[str, Any]:
        """A prompt without an image."""
        return {"prompt_token_ids": stages.text_ids(seed, tokens)}

    def image(self, tiles: int, *, image: int, question: int) -> dict[str, Any]:
        """A question about an image; vLLM puts a token before and after its tiles."""
        wide, high = (1, 1) if tiles == 1 else (tiles // 2, 2)
        drawn = np.random.default_rng(image)
        pixels = drawn.integers(0, 256, (high * stages.SIDE, wide * stages.SIDE, 3), np.uint8)
        before, after = stages.text_ids(image, stages.TEXT - 1), stages.text_ids(question, stages.TEXT - 1)
        data = {"image": Image.fromarray(pixels)}
        return {"prompt_token_ids": [*before, self._image_token, *after], "multi_modal_data": data}

    def seconds(self, prompts: Sequence[dict[str, Any]], new: int) -> tuple[float, float]:
        """Seconds until every prompt has its first token, and until all have `new`."""
        sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True, detokenize=False)
        began, waiting, first_s = time.perf_counter(), set(), 0.0
        for prompt in prompts:
            self._serial += 1
            waiting.add(str(self._serial))
            self._engine.add_request(str(self._serial), prompt, sampling)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                waiting.discard(output.request_id)
            first_s = first_s or (0.0 if waiting else time.perf_counter() - began)
        return first_s, time.perf_counter() - began


def one(requests: Requests, tokens: int, prompt: dict[str, Any], new: int) -> None:
    """Report prefill and decoding of one request alone."""
    first_s, whole_s = requests.seconds([prompt], new)
    report(stages.prefill(tokens), tokens / first_s)
    report(stages.decode(tokens), (new - 1) / (whole_s - first_s))


def vision(llm: LLM, tiles: int, rounds: int) -> None:
    """Report the seconds of the tower and the projector."""

    def encode(model: Any) -> float:
        pixels = torch.randn(tiles, 3, stages.SIDE, stages.SIDE, dtype=torch.bfloat16)
        given = {"image_num_patches": torch.tensor([tiles]), "image_token_id": model.config.image_token_id}
        began = time.perf_counter()
        with torch.inference_mode():
            model.embed_multimodal(pixel_values=pixels, **given)
        return time.perf_counter() - began

    report(stages.vision(tiles), min(llm.apply_model(encode)[0] for _ in range(rounds + 1)))


def write_folder(plan: Plan) -> None:
    """Configuration, tokenizer and image processor; the weights are vLLM's."""
    sizes, folder = plan.sizes, plan.folder
    vocabulary = {f"w{number}": number for number in range(WORDS)}
    bare = Tokenizer(models.WordLevel(vocabulary | {"<unk>": WORDS}, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names: dict[str, Any] = {"unk_token": "<unk>", "extra_special_tokens": IMAGE_TOKENS}
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=bare, **names)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    text = LlamaConfig(**sizes["llm_config"], max_position_embeddings=32768, tie_word_embeddings=False)
    text.architectures = ["LlamaForCausalLM"]
    vision_config = InternVLVisionConfig(**_without(sizes["vision_config"], "qk_normalization"), attention_bias=True)
    config = InternVLConfig(
        vision_config=vision_config,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        tie_word_embeddings=False,
        architectures=["InternVLForConditionalGeneration"],
    )
    config.save_pretrained(folder)
    side = {"height": stages.SIDE, "width": stages.SIDE}
    GotOcr2ImageProcessor(size=side, crop_to_patches=True, min_patches=1, max_patches=12).save_pretrained(folder)
    Path(folder, "processor_config.json").write_text(
        '{"processor_class": "InternVLProcessor", "image_seq_length": 256}'
    )


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


if __name__ == "__main__":
    main()
