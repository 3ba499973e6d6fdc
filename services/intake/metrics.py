"""The Prometheus metrics of this process."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("tileq_http_requests_total", "Requests by route, method and status", ["route", "method", "status"])
SECONDS = Histogram(
    "tileq_http_request_duration_seconds",
    "Seconds to the first byte of the answer, by route",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60),
)
ACCEPT = Histogram(
    "tileq_job_accept_duration_seconds",
    "Seconds from the first byte of a submission to its acceptance",
    buckets=(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
ACCEPTED = Counter("tileq_jobs_accepted_total", "Jobs accepted")
FILES = Counter("tileq_files_stored_total", "Files uploaded, by purpose", ["purpose"])
RECEIVED = Counter("tileq_http_request_body_bytes_total", "Bytes of request bodies")
REFUSED = Counter("tileq_http_refusals_total", "Refused requests by code", ["code"])
LIMITED = Counter("tileq_limit_refusals_total", "Requests refused by a limit of their tenant", ["limit"])
# livesum: of several intake processes /metrics shows the sum over those that live.
BODY_BYTES = Gauge(
    "tileq_http_json_body_bytes",
    "Bytes of JSON bodies that are held: received or being parsed",
    multiprocess_mode="livesum",
)
STREAMS = Gauge("tileq_event_streams", "Event streams that are open", multiprocess_mode="livesum")
DROPPED_HINTS = Counter("tileq_hints_dropped_total", "Hints that did not fit into the queue to the broker")
DROPPED_TASKS = Counter("tileq_background_tasks_dropped_total", "Background tasks that were not started")
LOST_RESULTS = Counter("tileq_results_lost_total", "Reads of a result object that is gone")
