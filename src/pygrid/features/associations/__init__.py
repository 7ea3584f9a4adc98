"""How Domains and Networks come together: the Network's half, and the Domain's.

Network   network_side.py   lets Domains in, keeps their links        fleet.py   how they are now
          direct.py         checks their direct addresses
Domain    connector.py      dials its Networks, and again             domain_side.py   joins and leaves
"""
