"""Generation fields under transformers' own names: each is honoured, or refused with the field to use instead."""

from collections.abc import Mapping
from typing import Any

from services.intake.schemas.requests import without_nulls
from shared.errors import InvalidField
from shared.requests import Generation

#: Fields of transformers and other services that tileq has under another name.
_RENAMED = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens, which does not count the prompt",
    "stop_strings": "stop",
    "frequency_penalty": "repetition_penalty",
    "presence_penalty": "repetition_penalty",
    "n": "one job for each answer",
}
#: Fields that tileq does not have, each with the values that change nothing and are therefore accepted.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "early_stopping": (False,),
    "length_penalty": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "num_return_sequences": (1,),
    "typical_p": (1,),
    "min_p": (0,),
    "use_cache": (True,),
    "output_scores": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "return_dict_in_generate": (False,),
    "output_logits": (False,),
    "penalty_alpha": (0,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "guidance_scale": (1,),
    "renormalize_logits": (False,),
    "remove_invalid_values": (False,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
}
#: Fields of `_RENAMED` with the values that change nothing. No null of a length: it could mean that there is none.
_NEUTRAL_RENAMED: Mapping[str, tuple[Any, ...]] = {
    "stop_strings": (None, []),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "n": (None, 1),
}
#: Fields that the checkpoint decides.
_OF_CHECKPOINT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
NAMES = frozenset({*Generation.model_fields, *_RENAMED, *_NEUTRAL, *_OF_CHECKPOINT, "do_sample"})


def translate(generation: Any, field: str = "generation") -> Any:
    """Return `generation` in tileq's fields. Raises `InvalidField`; what is no object is left for the schema to refuse.

    `do_sample` false is greedy and true samples at transformers' temperature of 1, unless `temperature` says otherwise;
    a contradiction between the two is refused. A field that is null is absent, but for `max_new_tokens`, where null
    could also mean that there is no limit; so is a `top_k` of 0.
    """
    if not isinstance(generation, dict):
        return generation
    kept = {name: value for name, value in generation.items() if not _is_neutral(name, value, field)}
    if kept.get("max_new_tokens", 0) is not None:
        kept = without_nulls(kept, Generation)
    if kept.get("top_k", None) == 0 and type(kept["top_k"]) is int:
        del kept["top_k"]
    if "do_sample" in kept:
        _apply_do_sample(kept, f"{field}.do_sample")
    return kept


def _is_neutral(name: str, value: Any, field: str) -> bool:
    place = f"{field}.{name}"
    if value in _NEUTRAL_RENAMED.get(name, ()) or (value is None and name in _OF_CHECKPOINT):
        return True
    if name in _RENAMED:
        raise InvalidField(f"`{place}` is not a field; use {_RENAMED[name]}", field=place)
    if name in _OF_CHECKPOINT:
        raise InvalidField(f"`{place}` is decided by the checkpoint; leave it out", field=place)
    if name not in _NEUTRAL:
        return False
    if value is None or value in _NEUTRAL[name]:
        return True
    raise InvalidField(f"`{place}` is not supported; leave it out, or send {_NEUTRAL[name][0]!r}", field=place)


def _apply_do_sample(generation: dict[str, Any], place: str) -> None:
    sample = generation.pop("do_sample")
    if sample is None:
        return
    if not isinstance(sample, bool):
        raise InvalidField(f"`{place}` must be true or false", field=place)
    temperature = generation.get("temperature")
    if sample and temperature is None:
        generation["temperature"] = 1.0
    elif sample and temperature == 0:
        raise InvalidField(f"`{place}` is true, but `temperature` 0 is greedy; use a temperature above 0", field=place)
    elif not sample and temperature == 1 and not isinstance(temperature, bool):
        generation["temperature"] = 0  # 1 is transformers' default, which greedy decoding ignores
    elif not sample and temperature:
        raise InvalidField(f"`{place}` is false, which is greedy; leave `temperature` out or send 0", field=place)
