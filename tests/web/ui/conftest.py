from support.training import owned_folder, site, site_people  # noqa: F401 - fixtures
