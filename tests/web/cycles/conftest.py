from support.training import owned_folder, site  # noqa: F401 - fixtures
