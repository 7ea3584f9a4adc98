"""How Domains and Networks come together: the Network's half, and the Domain's.

Network   handshake.py      lets Domains in                           fleet.py   how they are now
          network_side.py   keeps their links, decides about them     direct.py  checks their direct addresses
Domain    connector.py      dials its Networks, and again             domain_side.py   joins and leaves
"""
