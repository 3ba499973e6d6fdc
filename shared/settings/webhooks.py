"""Settings of webhooks."""

from pydantic import Field, SecretStr

from shared.outbound.proxy import ProxyEndpoint
from shared.settings.base import ProcessSettings
from shared.settings.values import CaFile, Networks, Ports, ProxyUrl, Waits, proxy_endpoint

#: Waits after a failed attempt before the next ones, in seconds (Svix's schedule, Standard Webhooks 1.0).
WEBHOOK_SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)


class WebhookSettings(ProcessSettings):
    """Delivery of webhooks."""

    webhook_secret: SecretStr = Field(SecretStr(""), description="`whsec_…` of the keyless tenant; made if empty")
    webhook_allow: Networks = Field(
        (), description="networks (CIDR, commas) allowed although not public; without keys, loopback is"
    )
    webhook_http: bool = Field(False, description="also deliver to http:// at public addresses")
    webhook_ports: Ports = Field(
        (), description="ports a webhook may name; empty: 80, 443 and 1024 and above, databases' and the like left out"
    )
    webhook_ca_file: CaFile = Field(
        "", description="PEM of private authorities trusted for webhooks, beside the public ones"
    )
    webhook_proxy: ProxyUrl = Field(
        SecretStr(""),
        description="egress proxy `http://[user:password@]host:port`, asked with CONNECT once the address was judged; "
        "networks of webhook_allow are called directly",
    )
    webhook_proxy_by_name: bool = Field(
        False, description="CONNECT names the host, which the proxy resolves again, instead of the judged address"
    )
    webhook_timeout: float = Field(15, gt=0, description="one delivery attempt in all: resolve, connect, send, answer")
    webhook_schedule: Waits = Field(
        WEBHOOK_SCHEDULE, description="waits before the second and later attempts, with jitter"
    )
    webhook_full_bytes: int = Field(256 << 10, description="a full body above this becomes thin and says `truncated`")
    max_webhook_endpoints: int = Field(20, ge=1, description="webhook endpoints of one tenant")
    webhook_concurrency: int = Field(32, ge=1, description="deliveries at once of one webhook dispatcher")
    webhook_per_host: int = Field(8, ge=1, description="deliveries at once to one host, all dispatchers together")

    @property
    def webhook_proxy_endpoint(self) -> ProxyEndpoint | None:
        """The egress proxy of webhooks, where there is one."""
        return proxy_endpoint(self.webhook_proxy)
