"""Requests to a Domain that nobody can dial, carried by a Network that cannot read them.

caller ──WebSocket /relay/NAME──> Network <──WebSocket /pipes/TOKEN── Domain, which was asked to dial out
       └────────────── one stream of bytes: TLS that ends at the Domain ──────────────┘
"""
