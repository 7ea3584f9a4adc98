"""Data owners upload, describe and version datasets; other users find them and test programs on their mock datasets."""
