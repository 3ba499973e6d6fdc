"""Why an engine does not answer.

EngineError
├── Cancelled, DeadlineExceeded, OutOfMemory, ContextExceeded, NonFiniteLogits    this request only
└── EngineFailed: EngineClosed, DeviceLost                                        this and every later request
"""


class EngineError(Exception):
    """The engine could not answer a request."""


class Cancelled(EngineError):
    """The request was cancelled and has left the engine."""


class OutOfMemory(EngineError):
    """The device had no memory for this request beside its neighbours; later it may."""


class ContextExceeded(EngineError):
    """The prompt leaves no room for an answer in the model's context."""


class NonFiniteLogits(EngineError):
    """The model computed NaN or infinity for this request; no token can be chosen."""

    def __init__(self, message: str = "the model computed NaN or infinity for this request") -> None:
        super().__init__(message)


class DeadlineExceeded(EngineError):
    """The request's deadline passed, or passes before its first token could come."""


class EngineFailed(EngineError):
    """The engine answers no request any more; its process has to end."""


class EngineClosed(EngineFailed):
    """The engine was closed and takes no further request."""


class DeviceLost(EngineFailed):
    """The device reported an error after which every call to it fails."""
