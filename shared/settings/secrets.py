"""Settings of stored secrets."""

from pydantic import Field, SecretStr, field_validator

from shared.encryption import Keyring
from shared.settings.base import ProcessSettings


class SecretsSettings(ProcessSettings):
    """The keys that encrypt stored secrets."""

    secrets_key: SecretStr = Field(
        SecretStr(""),
        description="encrypts stored webhook secrets and headers of receivers: 32 bytes in base64 (`tileq secrets "
        "new-key`); of several, commas between, the first encrypts and all decrypt; empty: they are stored in plain",
    )

    @field_validator("secrets_key")
    @classmethod
    def _usable_keys(cls, value: SecretStr) -> SecretStr:
        Keyring.of(value.get_secret_value())
        return value

    @property
    def keyring(self) -> Keyring:
        """The keys of `secrets_key`."""
        return Keyring.of(self.secrets_key.get_secret_value())
