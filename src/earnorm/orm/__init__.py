"""Models: SQLAlchemy classes whose records say what happens to them."""
