"""`python -m bart_eqx`: the command `bart-eqx`."""

from .command import main


if __name__ == "__main__":
    main()
