"""Summaries as text: table, Markdown, CSV, JSON, torchsummary's table, module tree, block diagram. Objects in, text out."""

from kerascv_course.analysis.printing.diagram import (
    BlockCount,
    DiagramBlock,
    block_diagram,
    block_table,
    blocks_text,
    diagram_svg,
    diagram_text,
)
from kerascv_course.analysis.printing.tables import (
    SizeCheck,
    check_size,
    to_csv,
    to_json,
    to_markdown,
    to_table,
    totals_text,
)
from kerascv_course.analysis.printing.torch_style import (
    STYLES,
    TorchRow,
    TorchStyle,
    TorchTotals,
    torch_rows,
    torch_summary,
    torch_totals,
)
from kerascv_course.analysis.printing.tree import module_tree

__all__ = [
    "STYLES",
    "BlockCount",
    "DiagramBlock",
    "SizeCheck",
    "TorchRow",
    "TorchStyle",
    "TorchTotals",
    "block_diagram",
    "block_table",
    "blocks_text",
    "check_size",
    "diagram_svg",
    "diagram_text",
    "module_tree",
    "to_csv",
    "to_json",
    "to_markdown",
    "to_table",
    "torch_rows",
    "torch_summary",
    "torch_totals",
    "totals_text",
]
