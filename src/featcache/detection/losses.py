"""What the head's outputs cost, in TensorFlow."""

from __future__ import annotations

from typing import Any

from featcache.core.tensorflow import import_tensorflow

# of a box against a centre; of a class one, as the three cost about the same after some epochs
BOX_WEIGHT = 2.0
SMOOTHING = 0.1  # of classes: Szegedy et al. 2016, "Rethinking the inception architecture"
_EPSILON = 1e-6


def focal(logits: Any, centres: Any, counted: Any) -> Any:
    """Return the penalty-reduced focal loss of centres, summed over cells.

    Law and Deng 2018, "CornerNet", eq. 1, with their exponents 2 and 4: next to a middle, a cell
    that claims to be one costs less.

    Parameters
    ----------
    logits, centres, counted : (n, rows, columns) float32; see `targets.Targets`.
    """
    tf = import_tensorflow()
    said = tf.clip_by_value(tf.sigmoid(logits), _EPSILON, 1 - _EPSILON)
    is_middle = tf.cast(centres >= 1.0, tf.float32)
    hit = is_middle * (1 - said) ** 2 * tf.math.log(said)
    miss = (1 - is_middle) * (1 - centres) ** 4 * said**2 * tf.math.log(1 - said)
    return -tf.reduce_sum(counted * (hit + miss))


def giou(one: Any, other: Any) -> Any:
    """Return (...,) the generalised intersection over union of corners (..., 4).

    Rezatofighi et al. 2019, "Generalized intersection over union".
    """
    tf = import_tensorflow()

    def area(low: Any, high: Any) -> Any:
        return tf.reduce_prod(tf.maximum(high - low, 0.0), axis=-1)

    low, high = (one[..., :2], other[..., :2]), (one[..., 2:], other[..., 2:])
    both = area(tf.maximum(*low), tf.minimum(*high))
    either = area(low[0], high[0]) + area(low[1], high[1]) - both + _EPSILON
    hull = area(tf.minimum(*low), tf.maximum(*high)) + _EPSILON
    return both / either - (hull - either) / hull


def boxes(corners: Any, wanted: Any, weights: Any) -> Any:
    """Return 1 - GIoU of corners (n, rows, columns, 4), weighted and summed over cells."""
    tf = import_tensorflow()
    return tf.reduce_sum(weights * (1 - giou(corners, wanted)))


def classes(logits: Any, wanted: Any, weights: Any) -> Any:
    """Return the cross-entropy of classes, smoothed, weighted and summed over cells."""
    tf = import_tensorflow()
    n_classes = logits.shape[-1]
    certain = 1 - SMOOTHING
    shares = certain * tf.one_hot(wanted, n_classes) + SMOOTHING / n_classes
    costs = tf.nn.softmax_cross_entropy_with_logits(shares, logits)
    return tf.reduce_sum(weights * costs)
