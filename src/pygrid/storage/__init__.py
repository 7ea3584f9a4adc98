"""What a Domain keeps: rows in SQLite or PostgreSQL, bytes in files."""
