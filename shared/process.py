"""How every process starts: settings, then logs, then its own work; and its exit status.

def main() -> int:
    return run_process("reconciler", ReconcilerSettings, serve)
"""

import sys
from collections.abc import Callable
from typing import TypeVar

import structlog

from shared.connections.startup import refuse_unsuitable_servers
from shared.environment import former_names_in_use, read_settings, service_links, unknown_variables
from shared.logs import configure_logs
from shared.settings.base import ProcessSettings, SettingsError
from shared.settings.redis import RedisSettings

EXIT_REFUSED = 2  #: the settings cannot be served; a supervisor that restarts the process gets the same answer

S = TypeVar("S", bound=ProcessSettings)
log = structlog.get_logger(__name__)


def run_process(name: str, kind: type[S], serve: Callable[[S], int]) -> int:
    """Run `serve` with the settings of `kind`; return its exit status, or `EXIT_REFUSED` after a `SettingsError`.

    `serve` may raise `SettingsError` too, for what only it can judge. The message goes to stderr without a traceback.
    """
    try:
        settings = read_settings(kind)
        configure_logs(settings, name)
        _report_variables(kind)
        if isinstance(settings, RedisSettings):
            refuse_unsuitable_servers(settings)
        return serve(settings)
    except SettingsError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # the settings may be the reason that there are no logs
        return EXIT_REFUSED


def _report_variables(kind: type[ProcessSettings]) -> None:
    for former, name in former_names_in_use().items():
        log.warning("deprecated setting is still read", variable=former, use=name)
    for variable in service_links(kind):
        log.warning("variable of a Kubernetes service link is ignored", variable=variable)
    for variable, similar in unknown_variables().items():
        log.warning("unknown setting is ignored", variable=variable, similar=similar or None)
