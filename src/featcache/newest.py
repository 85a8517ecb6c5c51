"""What a verb takes when it is given nothing: the newest thing in the cache folder."""

from __future__ import annotations

from pathlib import Path

from featcache.errors import HeadError, StoreError


def newest_features(cache_dir: Path) -> Path:
    """Return the feature file written last.

    Raises
    ------
    StoreError
        When the cache folder has none.
    """
    found = [path for path in cache_dir.glob("*/*.h5") if path.is_file()]
    if not found:
        raise StoreError(
            f"There is no feature file in '{cache_dir}'. Run `featcache extract` first."
        )
    return max(found, key=lambda path: path.stat().st_mtime)


def newest_heads(cache_dir: Path) -> Path:
    """Return the folder of heads written last.

    Raises
    ------
    HeadError
        When the cache folder has none.
    """
    found = list(cache_dir.glob("*/*.heads/leaderboard.json"))
    if not found:
        raise HeadError(f"There are no heads in '{cache_dir}'. Run `featcache fit-heads` first.")
    return max(found, key=lambda path: path.stat().st_mtime).parent
