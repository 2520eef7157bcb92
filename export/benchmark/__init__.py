"""Latency, throughput, memory and size beside other engines."""
