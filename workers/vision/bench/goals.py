"""What the resident engine is to reach in Mini's shapes on an H200, beside the stock model on the same device."""

#: Concurrent jobs and the new tokens of each, for which `JOBS_PER_SECOND` holds.
JOBS, NEW_TOKENS = 64, 128
#: By tiles of a job: half of the device's arithmetic and 70 % of its bandwidth.
JOBS_PER_SECOND = {1: 123.0, 7: 26.0, 13: 14.0, 41: 4.3}
DECODE_TOKENS_PER_SECOND = 890.0  #: of one answer alone
THROUGHPUT_RATIO, LATENCY_RATIO = 20.0, 3.0  #: to the transformers engine: jobs/s of many, seconds of one
