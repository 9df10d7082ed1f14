"""The list of all commands, and what becomes of their errors."""

import sys

from cyclopts import App, CycloptsError, UnknownOptionError

from .. import __version__
from ..process import escape_what_a_terminal_cannot_show
from .errors import UsageError, one_line, refusal_of


_HELP = "BART from a shell: text in, text out, over any checkpoint."
_EXAMPLES = """Examples:

    bart-eqx summarize "a long text ..." --model bart-large-cnn
    bart-eqx summarize in.jsonl -o out.jsonl --model bart-large-cnn --id id
    echo "There Is No <mask> in Syria" | bart-eqx fill --model bart-base
    bart-eqx COMMAND --help
"""
# The module and the function of each command. A module is imported when its command is used.
_COMMANDS = {
    "summarize": ("generate:summarize", "Summarise texts of any length."),
    "generate": ("generate:generate", "Any other text from a text; or which of some texts."),
    "fill": ("fill:fill", "Fill `<mask>` in texts: with one token, or as many as it takes."),
    "classify": ("classify:classify", "Labels that the model was trained on, of texts or of pairs."),
    "zero-shot": ("classify:zero_shot", "Labels that no model was trained on."),
    "answer": ("answer:answer", "Answer questions from texts."),
    "score": ("score:score", "How probable is a target, given a source (BARTScore)."),
    "embed": ("embed:embed", "A vector for each text."),
    "evaluate": ("evaluate:evaluate", "How good predictions are: ROUGE, accuracy."),
    "convert": ("convert:convert", "Convert a checkpoint, or verify a converted folder."),
    "info": ("info:info", "What a checkpoint is, without loading it."),
    "cache": ("cache:cache", "Show or clear the compiled programs that are kept on disk."),
}


def build(command: str | None = None) -> App:
    """The application.

    Args:
        command: The one that will run. Its module documents it; of the others no module is imported.
    """
    app = App(
        name="bart-eqx",
        help=_HELP,
        help_epilogue=_EXAMPLES,
        help_format="markdown",
        version=__version__,
        suppress_keyboard_interrupt=False,
    )
    for name, (function, summary) in _COMMANDS.items():
        app.command(f"{__package__}.{function}", name=name, help=None if name == command else summary, help_epilogue="")
    app.register_install_completion_command(
        help="Install completion of commands and options for your shell.", help_epilogue=""
    )
    return app


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: By default those of the process, `sys.argv[1:]`.

    Returns:
        The exit status: 0; 1 after an error, or where some records have failed; 2 if the arguments are wrong. Errors
        are printed in one line.
    """
    escape_what_a_terminal_cannot_show()
    tokens = sys.argv[1:] if arguments is None else arguments
    try:
        return (
            build(next(iter(tokens), None))(
                tokens, exit_on_error=False, print_error=False, result_action="return_value"
            )
            or 0
        )
    except CycloptsError as error:
        refusal = None
        if isinstance(error, UnknownOptionError):
            refusal = refusal_of(error.token.keyword or error.token.value)
        _print(f"{refusal or one_line(error)} ({_help_of(tokens)} explains the options.)")
        return 2
    except UsageError as error:
        _print(f"{one_line(error)} ({_help_of(tokens)} explains the options.)")
        return 2
    except BrokenPipeError:
        raise  # nobody reads the results any more, which is no fault
    except (ValueError, ImportError, FloatingPointError, OSError) as error:
        _print(one_line(error))
        return 1
    except MemoryError:
        _print("There is too little memory. A smaller --batch-tokens, --dtype bfloat16 or --int8 need less.")
        return 1


def _help_of(tokens: list[str]) -> str:
    command = [token for token in tokens[:1] if token in _COMMANDS]
    return " ".join(["bart-eqx", *command, "--help"])


def _print(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
