"""Tests of what webhooks are signed with and where they may go."""
