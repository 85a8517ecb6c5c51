"""Where training starts: the stitched model, its head fitted without the validation images.

The head of a stitched model has learnt from every training image, also from those that choose the
epoch. Judged by them it could hardly be beaten, and neither could what is trained from it be
trusted. So it is fitted once more, with the same settings, on the images that will train.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featcache import heads
from featcache.core.errors import SourceError, SpecError, StitchError, one_line
from featcache.core.tensorflow import import_keras
from featcache.finetuning.boundary import rows_in
from featcache.finetuning.training_images import TrainingImages
from featcache.heads.calibration import from_dict
from featcache.models import card, stitching

if TYPE_CHECKING:
    import keras

    from featcache import store


def with_head_of(
    network: keras.Model,
    described: card.Card,
    features: store.Features,
    data: TrainingImages,
    rows: np.ndarray,
) -> keras.Model:
    """Return the network with its head fitted anew on rows of the source.

    The backbone's layers are shared. A calibration map stays the one that it was: it was fitted out
    of fold.

    Raises
    ------
    SourceError
        When the rows lack a class of the model.
    StitchError
        When the card names no head, or settings that are none of it.
    """
    X = features.read_rows(rows_in(features, data)[rows])
    params = {k: tuple(v) if isinstance(v, list) else v for k, v in described.params.items()}
    try:
        head = heads.CATALOGUE[described.head](**params)
        head.check()
    except (KeyError, TypeError, SpecError) as error:  # of a card that was edited
        reason = one_line(error, 200)
        raise StitchError(
            f"The head '{described.head}' cannot be fitted again with the settings in the model's "
            f"card: {reason}. Stitch it again."
        ) from error
    head.fit(X, data.y[rows], data.groups[rows])
    if described.calibration is not None:
        head = heads.Calibrated(head, from_dict(described.calibration))
    outputs = head.to_keras_layers(stitching.features_of(network))
    if outputs.shape[1] != len(described.class_names):
        missing = set(range(len(described.class_names))) - set(head.classes_.tolist())
        raise SourceError(
            f"Class '{described.class_names[min(missing)]}' has no training image in "
            f"'{data.images.samples.origin}' that is not held out. Add images to it."
        )
    return import_keras().Model(network.inputs[0], outputs, name=network.name)
