"""Latency, throughput, memory and size of exported files beside other inference engines."""
