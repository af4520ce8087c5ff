"""Engines that run workloads, behind one protocol."""
