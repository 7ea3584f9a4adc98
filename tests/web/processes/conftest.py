from training_support import owned_folder, people, site  # noqa: F401 - fixtures
