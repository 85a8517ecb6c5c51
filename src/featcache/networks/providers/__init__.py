"""One file a family of backbones; nothing outside knows how one is built."""
