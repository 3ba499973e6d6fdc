"""Commands on the webhook secrets of a tenant."""

from shared.store.command import StoreCommand
from shared.webhooks.signing import new_secret


def active_secrets(tenant: str, configured: str = "") -> StoreCommand[list[str]]:
    """The secrets that sign for `tenant` now, newest first; a tenant without one gets a new one.

    A secret newly `configured` by the deployment signs from its first use; the one before it signs for another day.
    """
    return StoreCommand("active_secrets", (tenant, configured, new_secret()), list)


def rotate_secret(tenant: str, new: str, overlap: float, configured: str = "") -> StoreCommand[float]:
    """Make `new` the secret of `tenant`; the one before signs too for `overlap` seconds. Returns until when."""
    return StoreCommand("rotate_secret", (tenant, new, overlap, configured, new_secret()), float, durable=True)
