"""Settings from the environment: `TILEQ_*` variables, files named by `TILEQ_*_FILE`, and what is not one of them."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from shared.settings.base import PREFIX, ProcessSettings, SettingsError, variable_name
from shared.settings.roles import Settings

#: Variables of former releases that are still read → the present name.
FORMER_NAMES = {"TILEQ_KEEPER_PERIOD": "TILEQ_RECONCILE_PERIOD"}

#: Variables that are no settings of a process: the command line reads them, or tests.
OTHER_VARIABLES = frozenset({"TILEQ_URL", "TILEQ_API_KEY", "TILEQ_DATA", "TILEQ_PARITY", "TILEQ_SUPERVISED_IN"})

#: Kubernetes sets these for every Service of the namespace (enableServiceLinks); for a Service `tileq`, TILEQ_PORT is
#: `tcp://10.0.0.1:8000`. kubernetes.io/docs/tutorials/services/connect-applications-service
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S+")
_SERVICE_LINK_NAME = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)

S = TypeVar("S", bound=ProcessSettings)


@overload
def read_settings() -> Settings: ...
@overload
def read_settings(kind: type[S]) -> S: ...
def read_settings(kind: type[Any] = Settings) -> Any:
    """Read the settings of `kind` from the environment. Raises `SettingsError` naming the variable that is wrong."""
    values = {**_service_link_defaults(kind), **_under_former_names(), **_from_files(kind)}
    try:
        return kind(**values)
    except ValidationError as error:
        raise SettingsError("; ".join(_problem(entry) for entry in error.errors(include_input=False))) from None


def former_names_in_use() -> dict[str, str]:
    """Return the variables of former releases that the environment sets → the present name."""
    return {former: name for former, name in FORMER_NAMES.items() if former in os.environ}


def unknown_variables() -> dict[str, str]:
    """Return the `TILEQ_*` variables that no process reads → the most similar name that one does, or ""."""
    known = set(map(variable_name, Settings.model_fields))
    known |= {f"{name}_FILE" for name in known} | FORMER_NAMES.keys() | OTHER_VARIABLES
    unknown = [
        name
        for name in os.environ
        if name.startswith(PREFIX) and name.upper() not in known and not _SERVICE_LINK_NAME.fullmatch(name)
    ]
    return {name: next(iter(difflib.get_close_matches(name, known, 1)), "") for name in unknown}


def service_links(kind: type[ProcessSettings]) -> list[str]:
    """Return the variables that Kubernetes set for a Service and that are named like a setting of `kind`."""
    return list(map(variable_name, _service_link_defaults(kind)))


def _service_link_defaults(kind: type[ProcessSettings]) -> dict[str, Any]:
    return {
        name: field.default
        for name, field in kind.model_fields.items()
        if field.annotation is int and _SERVICE_LINK_VALUE.fullmatch(os.environ.get(variable_name(name), ""))
    }


def _under_former_names() -> dict[str, str]:
    """Return the values that only a former name sets; the present name wins where both are set."""
    return {
        name.removeprefix(PREFIX).lower(): os.environ[former]
        for former, name in former_names_in_use().items()
        if name not in os.environ
    }


def _from_files(kind: type[ProcessSettings]) -> dict[str, str]:
    found = {}
    for name in kind.model_fields:
        variable = f"{variable_name(name)}_FILE"
        if variable in os.environ:
            path = Path(os.environ[variable])
            try:
                found[name] = path.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
                raise SettingsError(f"{variable} names {path}, which cannot be read: {why}") from None
    return found


def _problem(entry: Mapping[str, Any]) -> str:
    """Describe one validation error without the value: it may be a secret."""
    message = entry["msg"].removeprefix("Value error, ")
    if not entry["loc"]:
        return str(message)
    return f"{variable_name('_'.join(map(str, entry['loc'])))}: {message}"
