"""The Network's half of associations.

service.py     keeps the links of Domains, and carries out what is decided about them
handshake.py   lets Domains in                registry.py           how they are now
decisions.py   what a decision changes        direct_addresses.py   checks their direct addresses"""
