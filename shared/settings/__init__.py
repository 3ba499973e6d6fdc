"""Every setting of every process: typed groups by noun, which `shared/environment.py` reads once at the start.

Times are seconds, sizes bytes, unless the name says otherwise. `roles` says which groups a process reads; a variable
has the same name everywhere. The table in `docs/settings.md` is written from `roles.GROUPS`, which holds all groups.
"""
