from training_support import owned_folder, site, site_people  # noqa: F401 - fixtures
