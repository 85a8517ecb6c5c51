"""Model files: their card, joining backbone and head, other formats."""
