"""How Domains and Networks come together: ``network/`` is the Network's half, ``domain/`` the Domain's."""
