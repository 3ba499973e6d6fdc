"""Which groups a process reads: one class for each role, and one for all of them."""

from typing import Self

from pydantic import model_validator

from shared.settings.base import ProcessSettings
from shared.settings.http import HttpSettings, KeySettings
from shared.settings.images import ImageSettings, ImageUrlSettings
from shared.settings.jobs import JobSettings
from shared.settings.limits import LimitSettings
from shared.settings.redis import RedisSettings
from shared.settings.requests import BatchSettings, RequestSettings
from shared.settings.secrets import SecretsSettings
from shared.settings.storage import StorageSettings
from shared.settings.vision import ModelSettings, VisionSettings
from shared.settings.webhooks import WebhookSettings


class RetentionSettings(JobSettings, WebhookSettings):
    """Jobs and webhooks together: a result outlives its last delivery attempt."""

    @model_validator(mode="after")
    def _outlive_webhooks(self) -> Self:
        # Retry-After may double a wait and jitter add a tenth; a result must outlive its last delivery attempt.
        window = 2.1 * sum(self.webhook_schedule)
        if self.retain_for <= window:
            raise ValueError(
                f"TILEQ_RETAIN_FOR={self.retain_for:.15g} is not longer than the webhook retry window of "
                f"{window:.15g} s; raise it or shorten TILEQ_WEBHOOK_SCHEDULE"
            )
        return self


class BrokerSettings(RedisSettings, JobSettings):
    """Celery: its Redis, and the longest job, which the visibility time-out must outlast."""


class IntakeSettings(
    StorageSettings,
    HttpSettings,
    RequestSettings,
    ImageUrlSettings,
    BatchSettings,
    LimitSettings,
    SecretsSettings,
    BrokerSettings,
    RetentionSettings,
    ModelSettings,
):
    """What `services.intake` reads."""


class WebhooksSettings(StorageSettings, KeySettings, SecretsSettings, BrokerSettings, RetentionSettings):
    """What `workers.webhooks` reads."""


class ReconcilerSettings(StorageSettings, BrokerSettings, RetentionSettings):
    """What `workers.reconciler` reads."""


class VisionWorkerSettings(
    StorageSettings, ImageSettings, ImageUrlSettings, BrokerSettings, ModelSettings, VisionSettings
):
    """What `workers.vision` reads."""


class Settings(IntakeSettings, WebhooksSettings, ReconcilerSettings, VisionWorkerSettings):  # type: ignore[misc]  # pydantic's mypy plugin and diamonds
    """All groups: what the command line, the documentation and tests read."""


#: The groups in the order of `docs/settings.md`, each with its heading.
GROUPS: tuple[tuple[str, tuple[type[ProcessSettings], ...]], ...] = (
    ("Where things are", (RedisSettings, StorageSettings)),
    ("HTTP", (HttpSettings,)),
    ("What a request may hold", (RequestSettings,)),
    ("Images by URL", (ImageUrlSettings,)),
    ("Batches of files", (BatchSettings,)),
    ("What one tenant may use", (LimitSettings,)),
    ("Jobs", (JobSettings,)),
    ("Webhooks", (WebhookSettings, SecretsSettings)),
    ("Vision worker", (ModelSettings, VisionSettings)),
    ("Every process", (ProcessSettings,)),
)
