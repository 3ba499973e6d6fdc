"""Which webhook URLs may be called."""

from ipaddress import ip_network

from shared.errors import WebhookRefused
from shared.outbound.ssrf import UrlPolicy
from shared.settings.values import Network
from shared.settings.webhooks import WebhookSettings

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def webhook_policy(settings: WebhookSettings, keyless: bool) -> UrlPolicy:
    """Return the policy of the settings; a service without keys may also call loopback."""
    return UrlPolicy(
        noun="webhook",
        variable="TILEQ_WEBHOOK",
        refused=WebhookRefused,
        credentials="send them as an Authorization header in `webhook.headers`",
        shows_url=True,
        allow=settings.webhook_allow + (LOOPBACK if keyless else ()),
        http=settings.webhook_http,
        ports=settings.webhook_ports,
    )
