"""Backends: where the log lives. `memory` is the plainest; `sqlalchemy` keeps it beside the models' own tables."""
