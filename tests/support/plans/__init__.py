"""Plans and models for tests."""
