"""Images/s of vision transformers here, beside transformers on torch and Keras's `predict`.

    python benchmarks/vit.py --torch PYTHON [--rounds 7] [--precision bfloat16]

PYTHON has torch and transformers, which are no dependencies of featcache. bfloat16 takes minutes a
batch on a CPU that has none, so it is measured only when asked for. Each way runs in a
process of its own, which is idle while another one computes, and all take turns in every round. The
networks have random weights: ViT-S/14 as DINOv2's, and ViT-B/16, at 224 pixels.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

N_IMAGES, SIDE, THREADS = 16, 224, 2
NETWORKS = {  # model_type of a config, its fields, and the class in transformers
    "ViT-S/14": (
        "dinov2",
        {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14},
        "Dinov2",
    ),
    "ViT-B/16": ("vit", {}, "ViT"),
}
Runs = dict[str, Callable[[], object]]


def ours(precision: str) -> Runs:
    """Return the network in each runtime that this machine has, and `predict` in float32."""
    import numpy as np

    from featcache.core.errors import FeatcacheError
    from featcache.core.tensorflow import import_keras
    from featcache.networks import engines
    from featcache.networks.providers import vit_network
    from featcache.networks.providers.vit_families import architecture_of

    keras = import_keras()
    images = np.random.default_rng(0).standard_normal((N_IMAGES, SIDE, SIDE, 3), np.float32)
    runs: Runs = {}
    for name, (kind, config, _) in NETWORKS.items():
        of = architecture_of({"model_type": kind} | config, Path())
        network = vit_network.network(of, (SIDE, SIDE))
        model = keras.Model(network.inputs[0], network.outputs[-1])
        for runtime in ("openvino", "tensorflow"):
            try:
                compiled = engines.compile_frozen(
                    model, runtime=runtime, device="cpu", precision=precision
                )
            except FeatcacheError as error:
                print(f"{name} {runtime} {precision}: {error}", file=sys.stderr)
                continue
            runs[f"{name} {runtime} {precision}"] = lambda run=compiled: run(images)
        runs[f"{name} predict float32"] = lambda model=model: model.predict(
            images, batch_size=N_IMAGES, verbose=0
        )
    return runs


def theirs(precision: str) -> Runs:
    """Return the same networks of transformers, with both kinds of attention."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    images = torch.randn(N_IMAGES, 3, SIDE, SIDE)
    runs: Runs = {}
    for name, (_, config, kind) in NETWORKS.items():
        for attention in ("eager", "sdpa"):
            made = getattr(transformers, f"{kind}Config")(**config, attn_implementation=attention)
            dtype = getattr(torch, precision)
            model = getattr(transformers, f"{kind}Model")(made).eval().to(dtype)
            some = images.to(dtype)
            runs[f"{name} torch {attention} {precision}"] = lambda model=model, some=some: model(
                some
            )
    return runs


def serve(runs: Runs) -> None:
    """Run what a line on stdin names, and say how long it took."""
    for run in runs.values():
        run()
    print("READY", *runs, sep="\t", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        runs[line.rstrip("\n")]()
        print("TOOK", time.perf_counter() - started, sep="\t", flush=True)


def answer(process: subprocess.Popen[str]) -> list[str]:
    """Return the fields of the next line that is for us."""
    assert process.stdout is not None
    for line in process.stdout:
        word, *fields = line.rstrip("\n").split("\t")
        if word in ("READY", "TOOK"):
            return fields
    raise SystemExit("a process ended early; see what it wrote above")


def measured(commands: Iterable[list[str]], n_rounds: int) -> dict[str, list[float]]:
    """Return images/s of each way, one number a round."""
    ways = []
    for command in commands:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ways += [(process, name) for name in answer(process)]
    found: dict[str, list[float]] = {name: [] for _, name in ways}
    for number in range(n_rounds):
        for process, name in ways if number % 2 else ways[::-1]:
            assert process.stdin is not None
            print(name, file=process.stdin, flush=True)
            found[name].append(N_IMAGES / float(answer(process)[0]))
    for process, _ in ways:
        process.terminate()
    return found


def main() -> None:
    """Print a line a way: median and best images/s."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", help="a Python that has torch and transformers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--serve", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve((ours if options.serve == "ours" else theirs)(options.precision))
        return
    more = ["--precision", options.precision, "--serve"]
    commands = [[sys.executable, __file__, *more, "ours"]]
    if options.torch:
        commands.append([options.torch, __file__, *more, "theirs"])
    for name, speeds in measured(commands, options.rounds).items():
        print(f"{name:32} {statistics.median(speeds):6.2f} images/s, best {max(speeds):6.2f}")


if __name__ == "__main__":
    main()
