"""The record as other programs want to read it: one line in, one line out."""
