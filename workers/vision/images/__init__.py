"""Images of a job: fetched, decoded and tiled in separate processes, stored as previews. No torch."""
