"""The webhook ids that the store's scripts make (`create_delivery` in shared/store/lua/prelude.lua)."""


def message_id(subject: str, event: str) -> str:
    """Return the webhook id of `event` ("succeeded") of the job or batch `subject`: the same for every attempt."""
    return f"msg_{subject.partition('_')[2]}_{event}"
