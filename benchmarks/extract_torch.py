"""torchvision's side of benchmarks/extract.py: a process of its own, since torch is not ours.

    python benchmarks/extract_torch.py FOLDER BACKBONE ROUNDS [DEVICE]

Prints images/s of each round as JSON, for a plain model, channels_last, and channels_last in
bfloat16. Images come from a DataLoader with one worker a core, decoded by Pillow, resized to 224 x
224; weights are random. Needs torch, torchvision and Pillow, and nothing of featcache.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import nullcontext

import torch
import torchvision

NETWORKS = {"mobilenet-v2": "mobilenet_v2", "resnet50": "resnet50"}
BATCH_SIZE = 32


def features_of(name: str) -> torch.nn.Module:
    """Return a network without its classifier, pooled."""
    network = getattr(torchvision.models, NETWORKS[name])(weights=None)
    if name == "resnet50":
        network.fc = torch.nn.Identity()
    else:
        network.classifier = torch.nn.Identity()
    return network.eval()


def main() -> None:
    root, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    device = "cuda" if sys.argv[4:] == ["gpu"] else "cpu"
    batch_size = 256 if device == "cuda" else BATCH_SIZE
    if name not in NETWORKS:
        sys.exit(f"torchvision has no {name}")
    transforms = torchvision.transforms
    shaped = transforms.Compose(
        [
            transforms.Resize((224, 224), antialias=False),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    dataset = torchvision.datasets.ImageFolder(root, shaped)
    network = features_of(name)

    def run(layout: torch.memory_format, precision: torch.dtype) -> float:
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size,
            num_workers=os.cpu_count() or 1,
            shuffle=False,
            pin_memory=device == "cuda",
        )
        lower = precision != torch.float32
        context = torch.autocast(device, precision) if lower else nullcontext()
        placed = network.to(device, memory_format=layout)
        started = time.perf_counter()
        with torch.inference_mode(), context:
            for images, _ in loader:
                images = images.to(device, non_blocking=True, memory_format=layout)
                placed(images)
            if device == "cuda":
                torch.cuda.synchronize()
        return len(dataset) / (time.perf_counter() - started)

    variants = {
        "torch": (torch.contiguous_format, torch.float32),
        "torch channels_last": (torch.channels_last, torch.float32),
        "torch bfloat16": (torch.channels_last, torch.bfloat16),
    }
    found: dict[str, list[float]] = {key: [] for key in variants}
    for number in range(rounds + 1):
        for key, options in variants.items():
            rate = run(*options)
            if number:
                found[key].append(rate)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
