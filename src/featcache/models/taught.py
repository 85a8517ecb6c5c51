"""Which images taught a model and which were held out, as its card and the cached features say.

See docs/decisions/what-taught-a-model.md.
"""

from __future__ import annotations

from pathlib import Path

from featcache import store
from featcache.core.errors import StoreError
from featcache.core.one_class import learnt_as
from featcache.data import splits
from featcache.models.card import Card

Parts = dict[str, set[bytes]]  # train, val and test -> digests of the images


def parts_of_model(described: Card, cache_dir: Path | None) -> Parts | None:
    """Return which images taught a model and which were held out.

    None is where that is not known: its features are not cached, or the images changed since. What
    taught it before it was fine-tuned on other images is no longer held out.
    """
    origin = (described.provenance or {}).get("taught")
    earlier = (described.finetuned or {}).get("earlier", ())
    asked = [(described.source, origin), *((one["source"], one["taught"]) for one in earlier)]
    known = [_parts_of(source, taught, described, cache_dir) for source, taught in asked]
    found = [one for one in known if one is not None]
    if len(found) < len(asked):
        return None
    own, *others = found
    before = set().union(*(one["train"] | one["val"] for one in others))
    return {"train": own["train"] | before, "val": own["val"], "test": own["test"] - before}


def _parts_of(
    source: str, taught: str | None, described: Card, cache_dir: Path | None
) -> Parts | None:
    for path in store.of_spec(cache_dir, described.spec) if cache_dir is not None else ():
        try:
            features = store.Features(path)
            if features.provenance.get("source") == source:
                about = learnt_as(features.annotations, described.task, described.class_names)
                part = splits.parts(about, features.digests, described.seed)
                learnt = features.digests[part["train"] | part["val"]]
                if taught is not None and splits.taught(learnt) != taught:
                    continue
                return {
                    name: {digest.tobytes() for digest in features.digests[rows]}
                    for name, rows in part.items()
                }
        except StoreError:
            continue  # a damaged file says nothing; the model can be judged without it
    return None
