"""What researchers change, each in a file of its own. The shapes in their signatures are checked, as in `bart_eqx`."""

from jaxtyping import install_import_hook


install_import_hook(__name__, "beartype.beartype")
