"""What intake talks to: job store, object storage, broker, and what it knows of workers."""
