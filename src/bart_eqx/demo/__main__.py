"""`python -m bart_eqx.demo`."""

from ..process import run


if __name__ == "__main__":
    run("bart_eqx.demo.command")
