"""Images: one Dockerfile, what its healthchecks run, and the variables of docker-compose.yml."""
