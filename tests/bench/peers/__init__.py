"""`make bench-peers`: tileq beside other queues on the same work, in alternating rounds, and under SIGKILL.

celery_app and taskiq_app run in an environment of their own and import nothing of tileq.
"""
