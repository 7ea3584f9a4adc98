"""The rules, pure and typed: values in, values out; no SQL, no sockets, no clock."""
