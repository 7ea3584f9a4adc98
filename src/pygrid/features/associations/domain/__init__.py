"""The Domain's half of associations.

service.py     joins and leaves Networks
connector.py   dials its Networks, and again"""
