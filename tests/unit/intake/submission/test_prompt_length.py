"""How long a prompt is said to be, beside what the worker makes of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.schemas.requests import JobRequest
from services.intake.submission.compose import ParentContext, compose
from services.intake.submission.prompt_length import overhead
from shared.conversation import Message
from shared.models import BY_ID, MODELS, Model
from shared.settings.roles import Settings
from shared.storage import tokenizer_key
from shared.tokenization.tokenizer import Tokenizer, load_tokenizer
from tests.unit.intake.app_fixture import App, problem, running_app
from tests.unit.shared.tokenization.test_tokenizer import written
from workers.vision.prompts import TEMPLATES, PromptFormat, build

WORDS = " image describe"  # two tokens of the small vocabulary in 15 bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def test_a_tokenizer_that_a_worker_left_makes_room(intake: App, tokenizer: Tokenizer) -> None:
    prompt = WORDS * 4000
    problem(intake.submit(prompt), 422, "prompt_too_long")
    with running_app() as knowing:
        knowing.objects.put(tokenizer_key("tileq-demo"), tokenizer.to_json().encode(), "application/json")
        assert knowing.submit(prompt).status_code == 202
        assert "bound" not in problem(knowing.submit(WORDS * 17_000), 422, "prompt_too_long")["detail"]


def test_so_does_the_checkpoint_where_it_is_at_hand(folder: Path) -> None:
    with running_app(model=str(folder)) as intake:
        assert intake.submit(WORDS * 4000).status_code == 202


def test_a_tokenizer_that_is_broken_is_as_good_as_none(intake: App) -> None:
    intake.objects.put(tokenizer_key("tileq-demo"), b"{}", "application/json")
    assert "bound" in problem(intake.submit(WORDS * 4000), 422, "prompt_too_long")["detail"]


TEXT = st.text(min_size=1, max_size=60) | st.sampled_from(["<|im_end|>", "<s>", " image describe", "你好", "👩‍👩‍👧"])


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model.id))
@given(texts=st.lists(TEXT, min_size=1, max_size=7).filter(lambda texts: len(texts) % 2 == 1))
def test_no_prompt_is_longer_than_intake_says(tokenizer: Tokenizer, model: Model, texts: list[str]) -> None:
    roles = ("user", "assistant")
    messages = tuple(
        Message(role=roles[n % 2], content=f"x{text}".replace("<image>", "")) for n, text in enumerate(texts)
    )
    asked = JobRequest(messages=list(messages))
    request = compose("job_x", asked, [], ParentContext(), model=BY_ID[model.id], settings=Settings())
    template = TEMPLATES[model.template]
    made = build(request.messages, [], PromptFormat(tokenizer, template, template.system, model.tokens_per_tile))
    exact = overhead(request, model) + sum(tokenizer.count(message.content) for message in messages)
    bound = overhead(request, model) + sum(len(message.content.encode()) for message in messages)
    assert len(made.ids) <= min(exact, bound)
