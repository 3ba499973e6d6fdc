"""From the bytes of a request to a durable job, in the order the data flows."""
