"""Data owners upload datasets, describe and version them; others find them and try programs on their mock twins."""
