"""The settings of a training run: from a YAML file, and into the folder of the run, where they may not change."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Yaml

from .errors import UsageError, option


SETTINGS, RUN, LOCK = "settings.yaml", "run.json", "settings.lock"


def from_yaml(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """A cyclopts configuration: the values in the YAML file that `--config` names. A key that is no option is an error.

    Raises:
        CycloptsError: if it has an unknown key.
        UsageError: if it is not YAML.
        FileNotFoundError: if there is no such file.
        ImportError: if PyYAML is not installed.
    """
    for argument in arguments:
        if argument.name == "--config" and argument.tokens:
            path = Path(argument.tokens[-1].value)
            try:
                _yaml().safe_load(path.read_text("utf-8"))
            except (_yaml().YAMLError, UnicodeDecodeError) as error:
                raise UsageError(f"{path} is not YAML: {error}") from None
            # Without `commands`: keys are options and nothing else, also where a command has the same name.
            Yaml(path, encoding="utf-8")(app, (), arguments)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not that of a run, before anything is written into it.

    Raises:
        ValueError: if it is a file, or has other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: --output is a folder.")
    begun = {SETTINGS, LOCK}
    if folder.exists() and not (folder / RUN).exists() and any(path.name not in begun for path in folder.iterdir()):
        raise ValueError(f"{folder} has other files: train in another folder.")


def keep_settings(folder: Path, task: str, settings: Mapping[str, Any], files: Mapping[str, Path | None]) -> None:
    """Write the settings of a run into its folder; or compare them, once it has a checkpoint. Under its lock, `LOCK`.

    In settings.yaml are the options, so that it serves as `--config`. In run.json are the task, and the hashes of the
    files, which may be elsewhere when the run goes on.

    Args:
        folder: Created if it does not exist.
        task: The name of the command.
        settings: JSON. Those that are `None` are left out.
        files: What is read, by the name of the option.

    Raises:
        ValueError: if the folder has a run with other settings or files.
    """
    from ..checkpoint.formats.writer import hash_file

    settings = json.loads(json.dumps({name: value for name, value in settings.items() if value is not None}))
    given = {name: path.expanduser().resolve() for name, path in files.items() if path is not None}
    run = {"task": task, "blake3": {name: hash_file(path) for name, path in given.items()}}
    if not (folder / RUN).exists() or not any(path.name.isdecimal() for path in folder.glob("checkpoints/*")):
        folder.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {**{name: str(path) for name, path in given.items()}, **settings}
        text = _yaml().safe_dump(options, sort_keys=False, allow_unicode=True)
        (folder / SETTINGS).write_text(f"# bart-eqx train {task} --config {SETTINGS} --output FOLDER\n{text}", "utf-8")
        (folder / RUN).write_text(json.dumps(run, indent=2) + "\n", "utf-8")
        return
    kept_run = json.loads((folder / RUN).read_text("utf-8"))
    options = _yaml().safe_load((folder / SETTINGS).read_text("utf-8"))
    kept = {name: value for name, value in options.items() if name not in files}
    differ = _differences("was", kept, settings) + _differences("had the hash", kept_run["blake3"], run["blake3"])
    if kept_run["task"] != task:
        differ = [f"it was {kept_run['task']}, and is {task}"]
    if differ:
        raise ValueError(
            f"{folder} has a run with other settings: {'; '.join(differ)}. Train in another folder, or as before with "
            f"--config {folder / SETTINGS}."
        )


def _differences(verb: str, kept: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    shown = lambda values, name: json.dumps(values[name], ensure_ascii=False) if name in values else "not given"
    return [
        f"{option(name)} {verb} {shown(kept, name)}, and now {shown(asked, name)}"
        for name in {**kept, **asked}
        if kept.get(name) != asked.get(name)
    ]


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("Training needs yaml. Install it with `pip install 'bart-eqx[train]'`.") from error
    return yaml
