"""The Network's half of associations.

service.py     keeps the links of Domains, and applies decisions about them
handshake.py   authenticates Domains       registry.py           the present state of the Domains
decisions.py   changes rows by decisions   direct_addresses.py   checks addresses for direct calls"""
