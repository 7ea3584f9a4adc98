from training_support import owned_folder, site  # noqa: F401 - fixtures
