"""Networks that tests build again and again are frozen to a graph once in a process.

To trace a network takes most of the time in which the small ones of the tests are extracted. So
`constant_graph` is asked once for networks of the same layers and weights, whatever their layers'
names: Keras counts those on from test to test. What it gives is never changed by who takes it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections import OrderedDict
from typing import Any

N_KEPT = 64
MAX_PARAMETERS = 8_000_000  # larger ones are kept by no test for another, and fill the memory


def keep() -> None:
    """Keep graphs from now on, once the modules that make and take them are there."""
    engines = sys.modules.get("featcache.networks.engines")
    tensorflow = sys.modules.get("featcache.networks.engines.tensorflow")
    if engines and tensorflow and not hasattr(tensorflow.constant_graph, "kept"):
        engines.constant_graph = tensorflow.constant_graph = keeping(tensorflow.constant_graph)


def keeping(constant_graph: Any) -> Any:
    """Return a function like `constant_graph` that remembers what it last gave."""
    kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    @functools.wraps(constant_graph)
    def known(model: Any, device: str = "/CPU:0") -> Any:
        if model.count_params() > MAX_PARAMETERS or (digest := digest_of(model)) is None:
            return constant_graph(model, device)
        key = digest, device
        graph = kept.pop(key, None) or constant_graph(model, device)
        kept[key] = graph
        if len(kept) > N_KEPT:
            kept.popitem(last=False)
        return graph

    known.kept = kept  # type: ignore[attr-defined]
    return known


def digest_of(model: Any) -> str | None:
    """Return what tells networks apart, or None where code that is not Keras's own has a part."""
    from keras import saving

    try:
        text = json.dumps(unnamed(saving.serialize_keras_object(model)), sort_keys=True)
    except (TypeError, ValueError, NotImplementedError):  # of what cannot be saved
        return None
    if '"module": null' in text or '"Lambda"' in text:
        return None
    digest = hashlib.blake2b(text.encode())
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()


def unnamed(layer: dict[str, Any]) -> dict[str, Any]:
    """Return a serialized layer or network with numbers for its layers' names."""
    config = {key: value for key, value in layer["config"].items() if key != "name"}
    if "layers" in config:
        places = {one.get("name"): number for number, one in enumerate(config["layers"])}

        def numbered(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: numbered(one) for key, one in value.items()}
            if isinstance(value, (list, tuple)):  # a layer's name, and which output of it
                is_place = len(value) == 3 and isinstance(value[0], str) and value[0] in places
                return [places[value[0]], *value[1:]] if is_place else [*map(numbered, value)]
            return value

        for key in ("input_layers", "output_layers"):
            config[key] = numbered(config.get(key))
        config["layers"] = [
            unnamed(one) | {"inbound_nodes": numbered(one.get("inbound_nodes"))}
            for one in config["layers"]
        ]
    told = {key: value for key, value in layer.items() if key not in ("name", "shared_object_id")}
    return told | {"config": config}
