"""``python -m faceshifter``."""

from faceshifter.cli import main

if __name__ == "__main__":
    main()
