"""Where the Redis and S3 servers are, and the one way in which every client library reaches them."""
