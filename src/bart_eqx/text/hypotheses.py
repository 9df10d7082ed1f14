"""The hypotheses of zero-shot classification: one for each label, from a template."""


def check_template(template: str) -> None:
    """Refuse a template that cannot be filled, or looks the same for every label.

    Raises:
        ValueError: if it has not `{}`, and it alone, for the label.
    """
    try:
        filled = template.format("")
    except (IndexError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`hypothesis_template` must have {{}} once, for the label, and other braces doubled ({reason}). Got "
            f"{template!r:.80}."
        ) from None
    if filled == template:
        raise ValueError(f"`hypothesis_template` must contain {{}}. Got {template!r:.80}.")


def check_labels(labels: list[str]) -> None:
    """Refuse a list of labels that is empty, or has an empty one, or one twice: they would share its probability.

    Raises:
        ValueError
    """
    if not labels:
        raise ValueError("Give at least one label.")
    if not all(label.strip() for label in labels):
        raise ValueError(f"A label must not be empty. Got {labels!r:.80}.")
    if len(set(labels)) < len(labels):
        twice = next(label for index, label in enumerate(labels) if label in labels[:index])
        raise ValueError(f"The labels must differ. {twice!r:.80} is there twice.")
