"""Identity retrieval: heads, losses, sampling, re-ranking and figures."""
