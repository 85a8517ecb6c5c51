"""The transformer for scikit-learn users: from images to features, through the cache.

What every `Embedder` computes goes to one feature file a spec, which only grows: each fold of a
cross-validation asks for other images, and a file of exactly those rows would drop or double the
rest. Rows that other feature files of the cache folder have are read from there. It learns nothing.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from featcache import store
from featcache.core import progress
from featcache.core.checks import bad, check_path
from featcache.core.errors import SourceError, StoreError
from featcache.core.options import taken, with_options
from featcache.core.running import DEFAULT_CACHE, EVERY, Running
from featcache.core.spec import POOLINGS as ALL_POOLINGS
from featcache.core.spec import ExtractionSpec
from featcache.core.text import counted
from featcache.data import sources
from featcache.extraction.embedder_input import checked, open_images, stop_at
from featcache.extraction.executors import Inline
from featcache.extraction.growing import GrowingFile
from featcache.extraction.listing import look, stamps_of
from featcache.extraction.options import machine_of, parted
from featcache.extraction.output import open_if_good
from featcache.extraction.publish import Making, make
from featcache.extraction.requested import as_text
from featcache.networks import backbones
from featcache.networks.weights import MEMO_NAME
from featcache.store import layout

# maps and tokens, unpooled, are nothing that an estimator learns from
POOLINGS = tuple(one for one in ALL_POOLINGS if one not in ("none", "tokens"))

# of `extract`: no views, as an estimator learns from one row per image, and no choice of a source
OPTIONS = {
    name: one
    for name, one in EVERY.items()
    if name not in ("cache_dir", "views", "augment", "root", "target", "limit")
    and name not in ("overwrite", "on_error", "wait")
    # a cluster is for collections; nor can an estimator be cloned that holds a pool
    and name not in ("engine", "scheduler", "address", "executor", "assemble_up_to")
}
OPTIONS["pooling"] = replace(OPTIONS["pooling"], allowed=POOLINGS)
OPTIONS["show_progress"] = replace(OPTIONS["show_progress"], default=False)
FOLDER = "embedder"  # below the cache folder
MAX_ATTEMPTS = 100

# Stamp and digest by absolute path. A module's, as scikit-learn clones an estimator for each fold.
_seen: dict[str, tuple[sources.Stamp, bytes]] = {}


class Embedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transform images to the features of a frozen backbone, computed once and kept.

    Row i of what `transform` returns is image i, in the given order, copies included. Images whose
    features are in the cache folder run through no backbone, and TensorFlow is not imported for
    them.

    Parameters
    ----------
    backbone : a name as `featcache.backbones` lists them, hf:owner/name, or the path of a folder of
        weights or of a .keras file; None is efficientnet-lite0, or the model itself when `weights`
        is a .keras file.
    cache_dir : the cache folder; its folder `embedder` gets what is nowhere in it yet.
    **options : of `featcache.extract` those that are about one row per image, see `OPTIONS`, with
        the same defaults, but that no progress is shown.

    Attributes
    ----------
    n_features_in_ : int, values in an image (height * width * 3), where `fit` saw one array
        (n, height, width, 3); else there is none.

    Examples
    --------
    >>> from featcache.extraction.embedder import Embedder
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(Embedder("mobilenet-v2"), LogisticRegression())
    >>> model.fit(["a/1.jpg", "a/2.jpg", "b/1.jpg"], ["a", "a", "b"])  # doctest: +SKIP
    """

    @with_options(OPTIONS)
    def __init__(
        self,
        backbone: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] = DEFAULT_CACHE,
        **options: Any,
    ):
        self.backbone = backbone
        self.cache_dir = cache_dir
        for name in options:
            if name not in OPTIONS:
                raise TypeError(f"Embedder has no parameter '{name}'; it has {', '.join(OPTIONS)}.")
        for name, one in OPTIONS.items():
            setattr(self, name, options.get(name, one.default))

    def fit(self, X: Any, y: Any = None) -> Embedder:
        """Check the parameters and what kind of images X has; nothing is read or learnt.

        Parameters
        ----------
        X : images, as for `transform`.
        y : not used.

        Raises
        ------
        SpecError
            When a parameter is wrong.
        SourceError
            When X is no collection of images of one kind.
        """
        self._check_parameters()
        images = checked(X)
        if isinstance(images, np.ndarray):
            self.n_features_in_ = int(np.prod(images.shape[1:]))
        elif hasattr(self, "n_features_in_"):
            del self.n_features_in_  # of an earlier fit
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of images, (n, n_features) float32 or float16: row i is X[i].

        Parameters
        ----------
        X : one of

            - a list, 1-d array or pandas Series of paths of image files;
            - a list of Pillow images, or of arrays (height, width, 3) uint8;
            - one array (n, height, width, 3) uint8.

        Raises
        ------
        SourceError
            When X is none of these, or an image cannot be used, which is named; what was computed
            of the others is kept.
        SpecError, BackboneError, StoreError
            As `featcache.extract`.
        """
        self._check_parameters()
        samples, places = open_images(X)
        digests = self._digests(samples, places, X)
        resolved = self._resolved()
        attempts = store.Attempts(MAX_ATTEMPTS)
        for _ in attempts:
            rows = attempts.rows(self._lenders(resolved.spec))
            numbers = rows.find(digests)
            missing = np.flatnonzero(numbers < 0)
            if len(missing):
                failed = self._compute(samples, missing, digests, resolved, attempts)
                stop_at(failed, places, X)
                continue
            with attempts:  # other processes add rows
                return rows.read(numbers[places])
        raise StoreError(
            f"The rows of {counted(len(places), 'image')} changed in '{self.cache_dir}' "
            f"{MAX_ATTEMPTS} times while they were read. Does another program write there? Use "
            f"another cache_dir."
        )

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the features, embedder0, embedder1, …: (n_features,) of str objects.

        The backbone is built to count them where the cache folder has no features of it.

        Parameters
        ----------
        input_features : not used.
        """
        prefix = type(self).__name__.lower()
        return np.array([f"{prefix}{i}" for i in range(self._n_features())], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _asked(self) -> tuple[dict[str, Any], Running]:
        """Return the parameters, checked: what determines the numbers, and how to run.

        Raises
        ------
        SpecError
            For what can be told without the weights.
        """
        check_path("cache_dir", self.cache_dir)
        layout.on_disk(self.cache_dir)
        values = taken(OPTIONS, {name: getattr(self, name) for name in OPTIONS}, "Embedder")
        if not isinstance(self.backbone, (str, os.PathLike, type(None))):
            raise bad("backbone", "be one name, a path or None", self.backbone)
        if not isinstance(values["layer"], (str, type(None))):
            raise bad("layer", "be one name or None", values["layer"])
        size: Any = values["image_size"]
        if isinstance(size, np.integer):  # from a grid of parameters
            size = int(size)
        values["image_size"] = tuple(size) if isinstance(size, list) else size
        return parted(values | {"cache_dir": self.cache_dir})

    def _check_parameters(self) -> None:
        """Raise SpecError for what can be told without the weights."""
        numbers, _ = self._asked()
        name, _, entry = backbones.named(as_text(self.backbone), numbers["weights"])
        numbers = backbones.completed(numbers, entry)
        size = numbers.pop("image_size")
        size = entry.image_size if size is None else size
        size = size if isinstance(size, tuple) else (size, size)
        # the spec checks its own fields, here but for the weights, whose digest costs reading them
        numbers["weights"] = ""
        ExtractionSpec(name, image_size=size, preprocessing=entry.preprocessing, **numbers)

    def _resolved(self) -> backbones.Resolved:
        numbers, running = self._asked()
        name = as_text(self.backbone)
        return backbones.resolve(name, memo=running.cache / MEMO_NAME, **numbers)

    def _lenders(self, spec: ExtractionSpec) -> list[Path]:
        return store.of_spec(Path(self.cache_dir), spec)

    def _digests(self, samples: sources.Source, places: np.ndarray, X: Any) -> np.ndarray:
        """Return (n, 16) uint8; files unchanged since this process read them are not read."""
        paths = samples.places or ()
        known = {samples.ids[row]: _seen[path] for row, path in enumerate(paths) if path in _seen}
        if self.check == "content":
            known = {}
        listing = look(samples, self.max_pixels, known, self.show_progress)
        stop_at(listing.unreadable, places, X)
        trusted = stamps_of(listing, samples.ids).tolist()
        for path, stamp, digest in zip(paths, trusted, listing.digests, strict=bool(paths)):
            if stamp[0] >= 0:
                _seen[path] = (tuple(stamp), digest.tobytes())
        return np.array(listing.digests)

    def _compute(
        self,
        samples: sources.Source,
        missing: np.ndarray,
        digests: np.ndarray,
        resolved: backbones.Resolved,
        attempts: store.Attempts,
    ) -> dict[int, str]:
        """Add missing rows to the file that grows; return why samples failed, by number.

        `digests` is mended where a file changed since it was looked at.
        """
        spec, cache = resolved.spec, Path(self.cache_dir)
        path = store.source_folder(cache, FOLDER, store.EMBEDDER) / f"{spec.short_name}.h5"
        with store.locked(path, True, lambda text: progress.note(text, self.show_progress)):
            # again: another process may have been quicker
            rows = attempts.rows(self._lenders(spec))
            missing = missing[rows.find(digests[missing]) < 0]
            if not len(missing):
                return {}
            mine = replace(samples.take(missing), name=FOLDER, origin=store.EMBEDDER)
            # a look that knows nothing also says which decoder each file is for
            listing = look(mine, self.max_pixels, None, self.show_progress)
            digests[missing] = listing.digests
            output = GrowingFile(path, resolved, listing)
            if not output.failed:
                output.parts.sweep()
                _, running = self._asked()
                how = Making(Inline(), machine_of(running), show_progress=running.show_progress)
                try:
                    make([output], how, None)
                except SourceError:
                    if not output.failed:
                        raise
            return {int(missing[row]): one.reason for row, one in output.failed.items()}

    def _n_features(self) -> int:
        resolved = self._resolved()
        spec = resolved.spec
        for path in self._lenders(spec):
            if (features := open_if_good(path)) is not None:
                return int(features.shape[1])
        backbone = resolved.backbone or backbones.build(
            spec.backbone, resolved.weights, spec.image_size
        )
        return int(backbones.frozen_extractor(backbone, spec).output_shape[-1])
