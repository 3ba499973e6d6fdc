"""`python -m services.intake`: serve the HTTP API until SIGTERM or SIGINT, in TILEQ_HTTP_PROCESSES processes."""

import sys

from shared.process import run_process
from shared.settings.roles import IntakeSettings


def main() -> int:
    """Serve; return the exit status."""
    return run_process("intake", IntakeSettings, serve)


def serve(settings: IntakeSettings) -> int:
    """Serve in this process, or in several that it supervises. Raises `SettingsError`."""
    if settings.http_processes > 1:  # without the web framework, which only the children need
        from services.intake.processes import supervise  # noqa: PLC0415

        return supervise(settings)
    from services.intake import server  # noqa: PLC0415

    return server.serve(settings)


if __name__ == "__main__":
    sys.exit(main())
