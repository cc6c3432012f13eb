"""`make demo`, `make up`, `make down`: a mesh of two nodes with nginx, redis, PostgreSQL, an app and containers in it.

Nouns: the `Cast` (`cast`) is the programs and where they run; a *check* (`checks`, `boundaries`) is one thing shown and
verified; the `Stage` (`stage`) prints what happens and keeps the results for the table and build/demo.json. `app.py` is
the HTTP app.
"""
