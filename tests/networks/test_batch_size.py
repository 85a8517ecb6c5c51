from __future__ import annotations

import json

import pytest

from featcache.networks import engines
from featcache.networks.engines import batch_size

SHAPE = (8, 8, 3)


class Network(engines.Compiled):
    """Computes so many images a second, by size of batch; memory takes no more than `most`."""

    name, where = "made up", "nowhere"

    def __init__(self, rates, most=10**9):
        self.rates, self.most, self.tried = rates, most, []

    def start(self, images):
        if len(images) > self.most:
            self.fits = self.most
        return lambda: (images[:, 0, 0],)


@pytest.fixture
def find(monkeypatch, tmp_path):
    """Return the size for so many images, and what was said; rates are not measured but read."""

    def rate(network, images):
        network(images)
        network.tried.append(len(images))
        return network.rates[len(images)]

    monkeypatch.setattr(batch_size, "_images_per_s", rate)

    folder = engines.ConversionCache(tmp_path, "w", {})

    def run(network, n_images=10**6, kept=folder):
        said = []
        return batch_size.fastest(network, SHAPE, n_images, kept, said.append), said

    return run


RATES = {8: 100, 16: 150, 32: 200, 64: 205, 128: 208, 256: 900}


def test_the_size_at_which_it_stops_getting_faster(find):
    network = Network(RATES)
    assert find(network) == (32, ["Batches of 32 images, at 200 images/s through the network."])
    assert network.tried == [8, 16, 32, 64, 128]  # two in a row that are hardly faster


def test_no_more_than_fit_into_memory_or_there_are(find):
    assert find(Network(RATES, most=16), kept=None)[0] == 16
    assert find(Network(RATES, most=5), kept=None)[0] == 5
    assert find(Network(RATES), n_images=20, kept=None)[0] == 16
    assert find(Network(RATES), n_images=1, kept=None)[0] == 8


def test_what_was_found_is_kept(find, tmp_path):
    assert find(Network(RATES), n_images=20)[0] == 16
    assert find(Network(RATES))[0] == 32  # larger ones were not tried yet
    network = Network(RATES)
    assert find(network) == (32, [])
    assert find(network, n_images=9) == (8, [])
    assert network.tried == []
    for damaged in ("no JSON", "[]", json.dumps({next(iter(kept(tmp_path))): {"size": 0}})):
        (tmp_path / batch_size.MEMO).write_text(damaged)
        assert find(Network(RATES))[0] == 32


def kept(folder):
    return json.loads((folder / batch_size.MEMO).read_text())


def test_a_real_network_is_measured(monkeypatch):
    monkeypatch.setattr(batch_size, "FOR_S", 0.0)
    said = []
    found = batch_size.fastest(Network({}), SHAPE, 100, say=said.append)
    assert found in (8, 16, 32, 64)
    assert len(said) == 1


def test_what_is_asked_for(monkeypatch):
    def chosen(asked, gpus=()):
        monkeypatch.setattr(batch_size, "gpus", lambda device: list(gpus))
        monkeypatch.setattr(batch_size, "fastest", lambda *arguments: 512)
        nothing = (SHAPE, 100, None, print)
        return batch_size.chosen(asked, "auto", lambda: Network(RATES), *nothing)

    assert chosen(7) == 7
    assert chosen(None) == 32
    assert chosen("auto") == 512
    assert chosen(None, ["/GPU:0"]) == 512
