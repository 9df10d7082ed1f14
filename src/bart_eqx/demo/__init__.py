"""A small, real checkpoint of Hugging Face's Flax BART, trained by `scripts/train_demo.py` to write numbers in words.

`python -m bart_eqx.demo 40217` converts it and spells; `bart_eqx.from_pretrained("demo")` loads it.
"""
