"""OpenAI's surface (`/v1/responses`, `/v1/chat/completions`) over the same durable jobs as `/v1/jobs`."""
