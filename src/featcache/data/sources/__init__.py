"""Where images come from, as one ordered table: folders, manifests, tar files, memory.

The order is always that of the sorted ids, and every other column follows it. Nothing is decoded
here; a sample is its id, what is said about it, and the bytes that give it a digest.
"""

from featcache.data.sources.base import DIGEST_BYTES, Source, digest
from featcache.data.sources.contents import Contents, Raw, Stamp, looks_same

__all__ = [
    "DIGEST_BYTES",
    "Contents",
    "Raw",
    "Source",
    "Stamp",
    "digest",
    "looks_same",
]
