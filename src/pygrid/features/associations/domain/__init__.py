"""The Domain's half of associations.

service.py     joins and leaves Networks
connector.py   keeps the link to a Network"""
