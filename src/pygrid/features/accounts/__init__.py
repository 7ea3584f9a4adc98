"""Accounts: sign-up, login, sessions, users, roles, groups."""
