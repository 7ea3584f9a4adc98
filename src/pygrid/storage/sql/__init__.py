"""The database: connections, migrations, the metadata of all tables."""
