"""The list of all commands, and how their errors end the process."""

import sys

from cyclopts import App, ArgumentCollection, CycloptsError, UnknownOptionError, UnusedCliTokensError

from .. import __version__
from ..process import escape_unencodable_output
from .errors import UsageError, one_line, refusal_of
from .warning_lines import warning_lines


_HELP = "BART from a shell: text in, text out, over any checkpoint."
_EXAMPLES = """Examples:

    bart-eqx summarize "a long text ..." --model bart-large-cnn
    bart-eqx summarize in.jsonl -o out.jsonl --model bart-large-cnn --id id
    echo "There Is No <mask> in Syria" | bart-eqx fill --model bart-base
    bart-eqx COMMAND --help
"""
_TRAIN_HELP = """Train a model: from a file of examples to a folder that bart_eqx and transformers load.

A run can be stopped at any time. The same command goes on with it, to the same result. In its folder, --output, are

- `model/`: the model with the best score;
- `metrics.jsonl` and `loss.png`: the loss of each step, and the scores of each evaluation;
- `settings.yaml`: all options, which another run takes as --config;
- `checkpoints/`: what it takes to go on.
"""
# The module and the function of each command. A module is imported when its command is used.
_COMMANDS = {
    "summarize": ("generate:summarize", "Summarise texts of any length."),
    "generate": ("generate:generate", "Any other text from a text; or one of given texts."),
    "fill": ("fill:fill", "Fill `<mask>` in texts: with one token, or with any number."),
    "classify": ("classify:classify", "Labels that the model was trained on, of texts or of pairs."),
    "zero-shot": ("classify:zero_shot", "Labels that the model was not trained on."),
    "answer": ("answer:answer", "Answer questions from texts."),
    "score": ("score:score", "How probable a target is, given a source (BARTScore)."),
    "embed": ("embed:embed", "A vector for each text."),
    "train seq2seq": ("train:seq2seq", "Summaries, or any other texts from texts."),
    "train classify": ("train:classify", "Labels of texts, or of pairs of texts; or numbers."),
    "train denoise": ("train:denoise", "BART's pre-training: restore texts from noise."),
    "evaluate": ("evaluate:evaluate", "How good predictions are: ROUGE, accuracy."),
    "convert": ("convert:convert", "Convert a checkpoint, or verify a converted folder."),
    "info": ("info:info", "What a checkpoint is, without loading it."),
    "cache": ("cache:cache", "Show or clear the cache of compiled programs."),
}


def build(command: str | None = None) -> App:
    """The application.

    Args:
        command: The command that will run, such as `"fill"` or `"train denoise"`. Only its module is imported, for its
            help.
    """
    app = App(
        name="bart-eqx",
        help=_HELP,
        help_epilogue=_EXAMPLES,
        help_format="markdown",
        version=__version__,
        suppress_keyboard_interrupt=False,
    )
    train = App(name="train", help=_TRAIN_HELP, help_epilogue="", config=_from_yaml)
    app.command(train)
    for name, (function, summary) in _COMMANDS.items():
        *group, own = name.split()
        parent = train if group else app
        help = None if name == command else summary
        parent.command(f"{__package__}.{function}", name=own, help=help, help_epilogue="")
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
    escape_unencodable_output()
    tokens = sys.argv[1:] if arguments is None else arguments
    with warning_lines():
        return _run(tokens)


def _run(tokens: list[str]) -> int:
    try:
        app = build(_command_of(tokens))
        return app(tokens, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except CycloptsError as error:
        refusal = None
        if isinstance(error, UnusedCliTokensError):
            refusal = f"There are arguments too many: {' '.join(error.unused_tokens or ())}."
        if isinstance(error, UnknownOptionError):
            refusal = refusal_of(error.token.keyword or error.token.value)
        _print(f"{refusal or one_line(error)} ({_help_of(tokens)} explains the options.)")
        return 2
    except UsageError as error:
        _print(f"{one_line(error)} ({_help_of(tokens)} explains the options.)")
        return 2
    except BrokenPipeError:
        raise  # the reader of the results has left: not an error
    except (ValueError, ImportError, FloatingPointError, OSError) as error:
        _print(one_line(error))
        return 1
    except RuntimeError as error:
        from ..parallel import OtherProcessError  # it imports JAX

        if not isinstance(error, OtherProcessError):
            raise
        _print(one_line(error))
        return 1
    except MemoryError:
        _print("There is too little memory. A smaller --batch-tokens, --dtype bfloat16 or --int8 need less.")
        return 1


def _help_of(tokens: list[str]) -> str:
    return " ".join(filter(None, ["bart-eqx", _command_of(tokens), "--help"]))


def _command_of(tokens: list[str]) -> str | None:
    """The name of the command in arguments, of one word or two."""
    names = (" ".join(tokens[:words]) for words in (2, 1))
    return next((name for name in names if name in _COMMANDS), None)


def _from_yaml(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    from .train_settings import from_yaml

    from_yaml(app, commands, arguments)


def _print(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
