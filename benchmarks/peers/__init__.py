"""Other Python queues beside ours: one module each, and what is measured of all of them alike.

Each is used as its documentation says, with the settings that it offers for speed, and keeps no results. Each runs in
an environment of its own, `.venv-peers/<name>`, since their demands on redis-py exclude each other.
"""
