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
    """Show the cache of compiled programs: its folder, their number and their size.

    A program is compiled for the first texts of its shape; later processes load it. Deleted programs are compiled
    again.

    For example:

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
    """Import JAX, and turn its cache of compiled programs on."""
    import jax

    folder = folder_of(cache_dir)
    if str(folder) == os.environ.get(_JAX_VARIABLE):
        return  # JAX has read the variable, and those that go with it
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"warning: compiled programs are not kept: {folder}: {error.strerror}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def folder_of(cache_dir: Path | None) -> Path:
    """The folder of compiled programs: the option's, our variable's, JAX's own, or the platform's."""
    cache_dir = cache_dir or Path(os.environ.get(_VARIABLE, ""))
    if cache_dir != Path():
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
