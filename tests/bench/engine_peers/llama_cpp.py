"""llama.cpp's own measuring programs over random weights in GGUF: decoder (`llama-bench`) and tower (`llama-mtmd-cli`).

int8 is Q8_0, int4 is Q4_K_M, as `llama-quantize` makes them. The tower is quantised to Q8_0 for both. Its requests with
an image are not served: their time is what encoding the tiles one by one and the prompts without an image take.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.bench.engine_peers import stages
from tests.bench.engine_peers.stages import Plan, report

PROGRAMS = Path(sys.prefix) / "build" / "bin"
FTYPES = {"int8": "Q8_0", "int4": "Q4_K_M"}
BF16, F32, Q8_0 = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0
NOISE: NDArray[np.float32] = (np.random.default_rng(0).standard_normal(1 << 22) * 0.02).astype(np.float32)
Tensors = dict[str, tuple[int, ...]]


def main() -> None:
    """Write the files that are missing, then measure."""
    plan = Plan.from_arguments()
    plan.folder.mkdir(parents=True, exist_ok=True)
    model, tower = decoder_file(plan), tower_file(plan)
    small, large = plan.prompts
    common = ["-m", str(model), "-t", str(plan.threads), "-r", str(plan.rounds), "-o", "json"]
    for part, tokens, tiles in (("one", small, 1), ("large", large, plan.tiles)):
        if part not in plan.parts:
            continue
        report(stages.vision(tiles), vision_s(plan, model, tower, tiles))
        report(stages.prefill(tokens), best(bench(*common, "-p", str(tokens), "-n", "0")))
        report(stages.decode(tokens), best(bench(*common, "-p", "0", "-n", "32", "-d", str(tokens))))
    if "second" in plan.parts:
        fresh = best(bench(*common, "-p", str(stages.TEXT), "-n", "0", "-d", str(large - stages.TEXT)))
        report(stages.second_round(plan.tiles), stages.TEXT / fresh)
    if not {"requests", "answers"} & set(plan.parts):
        return
    whole_s, decode_rate = batched(plan, model, small)
    report(stages.together(plan.requests), whole_s + plan.requests * vision_s(plan, model, tower, 1))
    report(stages.decode_together(plan.requests), decode_rate)
    report(stages.together_text(plan.requests), whole_s)


def bench(*arguments: str) -> list[float]:
    """Tokens a second of each repetition of one test."""
    (found,) = json.loads(run("llama-bench", *arguments))
    return [float(rate) for rate in found["samples_ts"]]


def best(rates: list[float]) -> float:
    """The fastest repetition."""
    return max(rates)


def batched(plan: Plan, model: Path, prompt: int) -> tuple[float, float]:
    """Seconds of several prompts and their answers, and tokens a second of the answers together; the best round."""
    requests, room = plan.requests, plan.requests * (prompt + stages.NEW)
    sizes = ["-npp", str(prompt), "-ntg", str(stages.NEW), "-npl", str(requests), "-c", str(room)]
    command = ["-m", str(model), "-t", str(plan.threads), "--output-format", "jsonl", *sizes]
    printed = "\n".join(rounds(plan, "llama-batched-bench", *command)).splitlines()
    found = [json.loads(line) for line in printed if line.startswith("{")]
    return min(one["t"] for one in found), max(one["speed_tg"] for one in found)


def vision_s(plan: Plan, model: Path, tower: Path, tiles: int) -> float:
    """Seconds of encoding one image that is cut into `tiles`, the last of them the thumbnail; the best round."""
    wide, high = (1, 1) if tiles == 1 else (tiles // 2, 2)
    image = plan.folder / f"{tiles}.ppm"
    pixels = np.random.default_rng(tiles).integers(0, 256, (high * stages.SIDE, wide * stages.SIDE, 3), np.uint8)
    image.write_bytes(b"P6 %d %d 255\n" % (wide * stages.SIDE, high * stages.SIDE) + pixels.tobytes())
    command = ["-m", str(model), "--mmproj", str(tower), "--image", str(image), "-p", "?", "-n", "1"]
    command += ["-t", str(plan.threads), "-c", "4096", "--chat-template", "chatml"]
    printed = rounds(plan, "llama-mtmd-cli", *command)
    return min(sum(map(int, re.findall(r"encoding done in (\d+) ms", output))) for output in printed) / 1000


def rounds(plan: Plan, program: str, *arguments: str) -> list[str]:
    """Output of each of the plan's rounds of a program."""
    return [run(program, *arguments) for _ in range(plan.rounds)]


def run(program: str, *arguments: str) -> str:
    """Output of a program, what it logs included. Raises `RuntimeError` with its end where it fails."""
    done = subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout if program == "llama-bench" else done.stdout + done.stderr


def decoder_file(plan: Plan) -> Path:
    """The decoder at the plan's precision."""
    plain = plan.folder / "decoder.bf16.gguf"
    if not plain.exists():
        write(plain, "llama", partial(describe_decoder, plan=plan), decoder_tensors(plan), BF16)
    if plan.precision == "bfloat16":
        return plain
    quantised = plan.folder / f"decoder.{plan.precision}.gguf"
    if not quantised.exists():
        run("llama-quantize", str(plain), str(quantised), FTYPES[plan.precision])
    return quantised


def tower_file(plan: Plan) -> Path:
    """The tower and its projector."""
    kind = BF16 if plan.precision == "bfloat16" else Q8_0
    path = plan.folder / f"tower.{kind.name.lower()}.gguf"
    if not path.exists():
        write(path, "clip", partial(describe_tower, plan=plan), tower_tensors(plan), kind)
    return path


def describe_decoder(writer: gguf.GGUFWriter, plan: Plan) -> None:
    """InternLM2's shapes are Llama's."""
    sizes = plan.sizes["llm_config"]
    writer.add_context_length(32768)
    writer.add_embedding_length(sizes["hidden_size"])
    writer.add_block_count(sizes["num_hidden_layers"])
    writer.add_feed_forward_length(sizes["intermediate_size"])
    writer.add_head_count(sizes["num_attention_heads"])
    writer.add_head_count_kv(sizes["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e6)
    writer.add_rope_dimension_count(sizes["hidden_size"] // sizes["num_attention_heads"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    names = ["<unk>", "<s>", "</s>", *byte_tokens]
    names += [f"w{number}" for number in range(sizes["vocab_size"] - len(names))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    kinds += [gguf.TokenType.NORMAL] * (len(names) - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(names)
    writer.add_token_scores([0.0] * len(names))
    writer.add_token_types(kinds)


def describe_tower(writer: gguf.GGUFWriter, plan: Plan) -> None:
    """InternViT and mlp1."""
    sizes = plan.sizes["vision_config"]
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.INTERNVL)
    writer.add_vision_projection_dim(plan.sizes["llm_config"]["hidden_size"])
    writer.add_vision_image_size(stages.SIDE)
    writer.add_vision_patch_size(sizes["patch_size"])
    writer.add_vision_embedding_length(sizes["hidden_size"])
    writer.add_vision_feed_forward_length(sizes["intermediate_size"])
    writer.add_vision_block_count(sizes["num_hidden_layers"])
    writer.add_vision_head_count(sizes["num_attention_heads"])
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.485, 0.456, 0.406])
    writer.add_vision_image_std([0.229, 0.224, 0.225])
    writer.add_vision_use_gelu(True)
    writer.add_vision_projector_scale_factor(2)


def decoder_tensors(plan: Plan) -> Tensors:
    """Shapes by GGUF's names."""
    sizes = plan.sizes["llm_config"]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    keys = hidden // sizes["num_attention_heads"] * sizes["num_key_value_heads"]
    found: Tensors = {
        "token_embd.weight": (sizes["vocab_size"], hidden),
        "output.weight": (sizes["vocab_size"], hidden),
        "output_norm.weight": (hidden,),
    }
    for layer in range(sizes["num_hidden_layers"]):
        at = f"blk.{layer}"
        found |= {f"{at}.attn_norm.weight": (hidden,), f"{at}.ffn_norm.weight": (hidden,)}
        found |= {f"{at}.attn_q.weight": (hidden, hidden), f"{at}.attn_output.weight": (hidden, hidden)}
        found |= {f"{at}.attn_k.weight": (keys, hidden), f"{at}.attn_v.weight": (keys, hidden)}
        found |= {f"{at}.ffn_gate.weight": (inner, hidden), f"{at}.ffn_up.weight": (inner, hidden)}
        found[f"{at}.ffn_down.weight"] = (hidden, inner)
    return found


def tower_tensors(plan: Plan) -> Tensors:
    """Shapes by the names of llama.cpp's clip.cpp."""
    sizes, out = plan.sizes["vision_config"], plan.sizes["llm_config"]["hidden_size"]
    hidden, inner, patch = sizes["hidden_size"], sizes["intermediate_size"], sizes["patch_size"]
    found: Tensors = {
        "v.class_embd": (hidden,),
        "v.position_embd.weight": ((stages.SIDE // patch) ** 2 + 1, hidden),
        "v.patch_embd.weight": (hidden, 3, patch, patch),
        "v.patch_embd.bias": (hidden,),
    }

    def linear(name: str, rows: int, columns: int) -> Tensors:
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    for layer in range(sizes["num_hidden_layers"]):
        at = f"v.blk.{layer}"
        for norm in ("ln1", "ln2"):
            found |= {f"{at}.{norm}.weight": (hidden,), f"{at}.{norm}.bias": (hidden,)}
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            found |= linear(f"{at}.{part}", hidden, hidden)
        found |= linear(f"{at}.ffn_up", inner, hidden) | linear(f"{at}.ffn_down", hidden, inner)
        found |= {f"{at}.ls1.weight": (hidden,), f"{at}.ls2.weight": (hidden,)}
    found |= {"mm.model.mlp.0.weight": (4 * hidden,), "mm.model.mlp.0.bias": (4 * hidden,)}
    return found | linear("mm.model.mlp.1", out, 4 * hidden) | linear("mm.model.mlp.3", out, out)


def write(
    path: Path,
    architecture: str,
    describe: Callable[[gguf.GGUFWriter], None],
    tensors: Tensors,
    kind: gguf.GGMLQuantizationType,
) -> None:
    """Write a GGUF of random weights: matrices as `kind`, everything else in float32."""
    unfinished = path.with_suffix(".part")
    writer = gguf.GGUFWriter(unfinished, architecture)
    describe(writer)
    kinds = {name: kind if len(shape) == 2 and "position" not in name else F32 for name, shape in tensors.items()}
    for name, shape in tensors.items():
        count = int(np.prod(shape))
        block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), count // block * size, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for data in drawn(tensors, kinds):
        writer.write_tensor_data(data)
    writer.close()
    unfinished.rename(path)


def drawn(tensors: Tensors, kinds: dict[str, gguf.GGMLQuantizationType]) -> Iterator[NDArray[np.uint8]]:
    """The weights in the order of `tensors`: small numbers around 0 or, for norms, around 1."""
    for name, shape in tensors.items():
        weight = np.resize(NOISE, shape)
        norm = "norm" in name or ".ln" in name or name == "mm.model.mlp.0.weight"
        yield gguf.quants.quantize(weight + (norm and name.endswith("weight")), kinds[name])


if __name__ == "__main__":
    main()
