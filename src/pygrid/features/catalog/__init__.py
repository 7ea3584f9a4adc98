"""The public content of a Domain: datasets, models and processes that a Network may show."""
