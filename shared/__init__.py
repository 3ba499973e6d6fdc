"""What at least two of the services and workers need: records, stores, queue names, settings, errors."""
