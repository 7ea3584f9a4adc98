"""What travels between a Domain and those who talk to it: names, fields, media types. Both sides read it here."""
