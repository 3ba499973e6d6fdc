"""Times that the server and the supervisor of several servers agree on."""

SHUTDOWN_TIMEOUT_S = 10  #: for requests to end after SIGTERM
READY_TIMEOUT_S = 30  #: for the checks behind /readyz of the health port; each has a shorter one of its own
