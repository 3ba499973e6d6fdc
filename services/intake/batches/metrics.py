"""The Prometheus metrics of the process of batches."""

from prometheus_client import Counter

LINES = Counter(
    "tileq_batch_lines_total",
    "Lines of batches' files: valid, invalid, queued, refused, answered, unanswered (in an error file)",
    ["outcome"],
)
ENDED = Counter("tileq_batches_ended_total", "Batches of files that ended, by status", ["status"])
WAITS = Counter(
    "tileq_batch_waits_total",
    "Batches put back since lines can't be queued: no room, a limit of the tenant, a server that does not answer",
    ["reason"],
)
LOST_CLAIMS = Counter("tileq_batch_claims_lost_total", "Claims of a batch that another process took over")
