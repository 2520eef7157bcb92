"""The five course reports rebuilt: pages with our numbers next to the printed ones, from runs and calculators.

`index` (all reports), one module per report, `parts` and `page` (of which pages consist), `runs` (finished runs in folders), `targets`
(what the reports print, and their errata), `checks` (every erratum shown by a computation), `paper` and `answers` (calculator
questions), `quick` (small runs on embedded data); `comparison` and `ablation` put runs into tables.
"""
