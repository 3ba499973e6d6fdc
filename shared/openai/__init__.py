"""OpenAI's view of jobs, as its API answers and its webhooks tell it."""
