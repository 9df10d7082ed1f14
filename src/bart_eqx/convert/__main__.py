"""`python -m bart_eqx.convert`."""

from ..process import run


if __name__ == "__main__":
    run("bart_eqx.convert.command")
