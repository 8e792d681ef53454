"""`python -m earnorm.cli`, where the console script is not on the path."""

from earnorm.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="earnorm")
