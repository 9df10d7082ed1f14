"""A small checkpoint of Hugging Face's Flax BART, trained by `scripts/train_demo.py` to spell numbers in words.

`python -m bart_eqx.demo 40217` converts it and spells a number; `bart_eqx.from_pretrained("demo")` loads it.
"""
