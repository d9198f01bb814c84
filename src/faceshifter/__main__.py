"""``python -m faceshifter``."""

from faceshifter.cli.main import main

if __name__ == "__main__":
    main()
