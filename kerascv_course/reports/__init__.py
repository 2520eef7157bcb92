"""The five course reports made afresh: their tables and figures from run folders and calculators, and what they print wrongly."""
