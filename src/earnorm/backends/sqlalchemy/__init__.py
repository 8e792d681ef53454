"""The log beside the models' own tables, by SQLAlchemy: tables, their migrations, the store over them."""
