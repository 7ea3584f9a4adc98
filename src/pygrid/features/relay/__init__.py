"""Requests to a Domain without an open port, carried by a Network that cannot read them.

caller ──WebSocket /relay/NAME──> Network <──WebSocket /pipes/TOKEN── Domain, which dials out on request
       └────────────── one stream of bytes: TLS that ends at the Domain ──────────────┘
"""
