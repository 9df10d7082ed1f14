"""`bart-eqx cache`, and the folder of compiled programs."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


_VARIABLE, _JAX_VARIABLE = "BART_EQX_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR"
_SUFFIXES = ("-cache", "-atime")  # of JAX's files

CacheDir = Annotated[Path | None, Parameter(env_var=_VARIABLE)]


def cache(*, clear: bool = False, cache_dir: CacheDir = None) -> None:
    """Show where compiled programs are kept, and how many there are.

    A program is compiled when texts of its shape are first met, and the next process loads it. Delete them when you
    like: they are compiled again.

    Examples:

        bart-eqx cache
        bart-eqx cache --clear

    Args:
        clear: Delete them.
        cache_dir: The folder; by default bart_eqx in the user's cache folder.
    """
    folder = folder_of(cache_dir)
    files = [path for path in folder.glob("*") if path.name.endswith(_SUFFIXES)] if folder.is_dir() else []
    programs = sum(path.name.endswith(_SUFFIXES[0]) for path in files)
    size = sum(path.stat().st_size for path in files)
    if clear:
        for path in files:
            path.unlink(missing_ok=True)
    print(f"{folder}: {programs} programs, {size / 1e6:.1f} MB{', deleted' if clear and files else ''}")


def keep_programs(cache_dir: Path | None) -> None:
    """From here on JAX keeps what it compiles, and loads what is kept. It is imported here."""
    import jax

    if cache_dir is None and os.environ.get(_JAX_VARIABLE):
        return  # JAX has read the variable, and those that go with it
    folder = folder_of(cache_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"warning: compiled programs are not kept: {folder}: {error.strerror}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def folder_of(cache_dir: Path | None) -> Path:
    """The folder of compiled programs: the option's, JAX's own variable's, or the platform's."""
    if cache_dir is not None:
        return cache_dir.expanduser()
    if own := os.environ.get(_JAX_VARIABLE):
        return Path(own)
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "bart_eqx"
