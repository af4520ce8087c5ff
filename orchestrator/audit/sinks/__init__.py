"""Brings the record to where others read it: each sink in a thread of its own."""
