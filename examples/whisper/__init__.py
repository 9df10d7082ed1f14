"""Whisper (arXiv:2212.04356) over the parts of `bart_eqx`."""
